"""Building a gallery index: stored features projected with a model's M_Q, one matrix product, no picture decoded.

Parts of the store are projected and dealt to the shards (:mod:`chatsearch.index.shares`), each of which is then built by itself
(:mod:`chatsearch.index.shard_work`). A :class:`~chatsearch.index.workforce.Workforce` says where. An index of kind ``flat``,
``fp16`` or ``sq8`` has the same bytes wherever it was built on machines of one kind.

Shape suffixes: N pictures, M items of a shard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from chatsearch.errors import ConfigError, GalleryError, InputError
from chatsearch.index.approximate import sample_rows
from chatsearch.index.auto import open_queries, settle
from chatsearch.index.config import IndexConfig
from chatsearch.index.features import ITEMS, FeatureStore
from chatsearch.index.items import check_item_ids
from chatsearch.index.plan.forecast import BuildFigures, forecast_beside_actual, forecast_build, rates_at
from chatsearch.index.raw_features import projection_of
from chatsearch.index.shard import shard_of
from chatsearch.index.shard_work import BuiltShard, ShardWork, build_shard, learn
from chatsearch.index.shares import deal, picture_rows, project_share
from chatsearch.index.watch import PeakMemory
from chatsearch.index.workforce import Here, Workforce
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.manifest import Artefact, Output, begin_output, fingerprint, hash_ids, read_manifest
from chatsearch.types import GalleryItem, faiss_id

MAX_RECORDED_FIELDS = 1000
"""More names of metadata than these are not listed in the manifest; whoever needs them reads the item tables."""


def build_index(
    config: IndexConfig,
    on_shard: Callable[[int, int], None] | None = None,
    workforce: Workforce | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Artefact:
    """Build the index a configuration describes, or return it when it is finished already.

    Args:
        config: what to build.
        on_shard: told (shards done, shards in all) after each shard.
        workforce: where it is built; None for this process.
        clock: seconds, by which the searches are timed that choose a kind.

    Raises:
        ConfigError: if a URI is not set, or no kind keeps the budgets.
        FingerprintMismatchError: if features and model do not belong together.
        GalleryError: if the gallery is empty, or item ids repeat or collide.
        CorruptArtefactError: if features are not finite, or items name pictures without features.
    """
    for name in ("features", "output", *(() if config.raw else ("model",))):
        if not getattr(config, name):
            raise ConfigError(f"{name} is not set; say where with --set {name}=URI.")
    rates = rates_at(config.rates)
    began = time.perf_counter()
    store = FeatureStore.open(config.features)
    projection = projection_of(config.model, store)
    inputs = {"features": store.fingerprint, "model": projection.model_fingerprint}
    queries = open_queries(config, projection)
    if queries is not None:
        inputs["queries"] = queries.fingerprint
    output: Output | None = None
    held = read_manifest(config.output)
    if held is None or not config.overwrite or held.fingerprint == fingerprint(GALLERY_INDEX, config, inputs):
        output = begin_output(config.output, GALLERY_INDEX, config, inputs, overwrite=config.overwrite)
        if output.finished:
            return output.finished
    memory = PeakMemory()
    items = store.items()
    shards = split_items(items, config.num_shards, where=store.uri)
    try:
        method, tuning = settle(config, queries, shards, store, projection, clock=clock)
    except (ConfigError, InputError):
        if output:
            output.withdraw()  # other budgets are another index, which this place is still free for
        raise
    # What another index holds is deleted only now, for one that can be built.
    output = output or begin_output(config.output, GALLERY_INDEX, config, inputs, overwrite=True)
    forecast = None
    if method.kind == "flat" and tuning is None and workforce is None:
        forecast = forecast_build(
            items_per_shard=[len(members) for members in shards],
            feature_dimension=store.dimension,
            dimension=projection.dimension,
            rows_per_part=max(store.rows_per_part),
            item_table_bytes=store.artefact.manifest.files[ITEMS].num_bytes,
            rates=rates,
        )
    built: list[BuiltShard] = []
    works = [
        ShardWork(output.folder.uri, shard, members, picture_rows(members, store), method)
        for shard, members in enumerate(shards)
    ]
    for shard in _built(works, store, projection.uri, workforce or Here()):
        built.append(shard)
        if on_shard:
            on_shard(len(built), config.num_shards)
    files = {name: entry for shard in built for name, entry in shard.files.items()}
    num_bytes = sum(entry.num_bytes for entry in files.values())
    fields = sorted({name for item in items for name in item.metadata})
    actual = BuildFigures(num_bytes, time.perf_counter() - began, memory.peak_bytes())
    return output.commit(
        counts={"items": len(items), "shards": config.num_shards, "pictures": len({i.content_hash for i in items})},
        files=files,
        id_hash=hash_ids(item.item_id for item in items),
        facts={
            "kind": method.kind,
            "search": dict(method.parameters),
            "dimension": projection.dimension,
            "metric": "cosine",
            "fields": fields if len(fields) <= MAX_RECORDED_FIELDS else None,
            "features": store.uri,
            "images": list(store.images),
            "model": projection.uri,
            "model_fingerprint": projection.model_fingerprint,
            "mq_fingerprint": projection.mq_fingerprint,
            "encoder_fingerprint": store.encoder_fingerprint,
            "preprocessing_id": store.preprocessing_id,
            "items_per_shard": [len(members) for members in shards],
            "ties": [shard.tie for shard in built],
            **({} if tuning is None else {"tuning": tuning}),
            "build": forecast_beside_actual(forecast, actual, rates),
        },
    )


def _built(works: Sequence[ShardWork], store: FeatureStore, model: str, workforce: Workforce) -> Iterator[BuiltShard]:
    """The shards, built, in order."""
    method = works[0].method
    taken = [np.unique(work.rows_M) for work in works]
    taken.append(np.empty(0, np.int64) if method.kind == "flat" else sample_rows(len(store), method.num_lists))
    pieces = [
        workforce.start(project_share, store.uri, model, share, num_results=len(taken))
        for share in deal(store.parts, store.rows_per_part, taken)
    ]
    learnt = workforce.start(learn, method, *(of_shards[-1] for of_shards in pieces))
    return workforce.results(
        build_shard, ((work, learnt, *(of_shards[work.shard] for of_shards in pieces)) for work in works)
    )


def split_items(items: Sequence[GalleryItem], num_shards: int, *, where: str) -> list[list[tuple[int, GalleryItem]]]:
    """Items with their faiss ids, by shard, each shard in the order of the ids.

    Raises:
        GalleryError: if there are no items, or two share an item id or a faiss id.
    """
    if not items:
        raise GalleryError(
            f"{where} has no gallery items, so there is nothing to search. Embed shards that hold pictures."
        )
    check_item_ids(item.item_id for item in items)
    holder: dict[int, GalleryItem] = {}
    for item in items:
        number = faiss_id(item.item_id)
        other = holder.setdefault(number, item)
        if other is not item:
            raise GalleryError(
                f"Item ids {other.item_id!r} and {item.item_id!r} have the same 63-bit id {number}. Rename one of them at its source."
            )
    shards: list[list[tuple[int, GalleryItem]]] = [[] for _ in range(num_shards)]
    for number in sorted(holder):
        shards[shard_of(number, num_shards)].append((number, holder[number]))
    return shards
