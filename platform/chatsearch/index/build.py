"""Building a gallery index: stored features projected with a model's M_Q, one matrix product, no picture decoded.

Shape suffixes: N pictures, M items, D width of f_CLS, d retrieval dimension.

    shards/index-00000.faiss      flat: IndexIDMap2 over IndexFlatIP, rows in the order of their faiss ids; other kinds number them
    shards/vectors-00000.npy      the rows as float32, for kinds whose FAISS file holds codes
    shards/items-00000.parquet    item_id, content_hash, metadata (JSON), faiss_id, in the same order
    shards/canaries-00000.parquet item_id, content_hash, metadata (JSON), vector: rows with known answers
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from chatsearch.errors import ConfigError, CorruptArtefactError, FingerprintMismatchError, GalleryError, InputError
from chatsearch.index.approximate import (
    filled,
    keeps_vectors,
    propose,
    sample_rows,
    trained,
)
from chatsearch.index.auto import open_queries, settle
from chatsearch.index.canaries import NUM_CANARIES, Canaries, choose, tie, write_canaries
from chatsearch.index.config import IndexConfig
from chatsearch.index.features import ITEMS, FeatureStore
from chatsearch.index.items import ItemTable, check_item_ids, items_as_table, write_items
from chatsearch.index.plan.forecast import BuildFigures, forecast_beside_actual, forecast_build, rates_at
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.shard import canaries_name, index_name, items_name, shard_of, vectors_name
from chatsearch.index.vectors import Float32, Float64, unit_rows
from chatsearch.index.watch import PeakMemory
from chatsearch.kinds import GALLERY_INDEX, MODEL_BUNDLE
from chatsearch.manifest import Artefact, begin_output, file_entry, hash_ids, open_artefact
from chatsearch.model.layout import M_Q, PROJECTION
from chatsearch.storage import Folder
from chatsearch.types import GalleryItem, faiss_id

_MAX_PROJECTED = 1 << 16
"""Rows projected at a time in float64."""
MAX_RECORDED_FIELDS = 1000
"""More names of metadata than these are not listed in the manifest; whoever needs them reads the item tables."""


@dataclass(frozen=True)
class Projection:
    """M_Q of a model bundle, read without torch."""

    uri: str
    model_fingerprint: str
    mq_fingerprint: str
    encoder_fingerprint: str
    preprocessing_id: str
    weight_dD: Float32

    @classmethod
    def open(cls, uri: str) -> Projection:
        """Read the projection of the bundle at a URI.

        Raises:
            ArtefactError: if there is no finished bundle, or its projection is damaged.
        """
        bundle = open_artefact(uri, MODEL_BUNDLE)
        path = bundle.checked_path(PROJECTION)
        try:
            weight_dD = load_file(path)[M_Q]
        except (SafetensorError, KeyError) as error:
            raise CorruptArtefactError(f"{path} does not hold {M_Q}: {error}. Export the model again.") from error
        facts = bundle.manifest.facts
        return cls(
            bundle.uri,
            bundle.fingerprint,
            facts["mq_fingerprint"],
            facts["encoder_fingerprint"],
            facts["preprocessing_id"],
            weight_dD,
        )

    def check(self, store: FeatureStore) -> None:
        """Check that the features come from this model's vision encoder.

        Raises:
            FingerprintMismatchError: naming both sides and the command that makes fitting features.
        """
        for what, ours, theirs in (
            ("encoder", self.encoder_fingerprint, store.encoder_fingerprint),
            ("preprocessing", self.preprocessing_id, store.preprocessing_id),
            ("feature width", str(self.weight_dD.shape[1]), str(store.dimension)),
        ):
            if ours != theirs:
                gallery = ",".join(f'"{uri}"' for uri in store.images)
                raise FingerprintMismatchError(
                    f"Features {store.uri} were made with {what} {theirs}, model {self.uri} has {what} {ours}. Embed the gallery with "
                    f"this model: python -m jobs.embed --set 'gallery=[{gallery}]' --set model={self.uri} --set output=NEW_URI"
                )

    def apply(self, cls_ND: Float32) -> Float32:
        """unit(f_CLS M_Q), (N, d)."""
        # In float64 and rounded once: the order in which a BLAS sums does not show in float32.
        parts = [unit_rows(block_Nd) for block_Nd in self._projected(cls_ND)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.weight_dD)), np.float32)

    def norms(self, cls_ND: Float32) -> Float32:
        """|f_CLS M_Q|, (N,)."""
        with np.errstate(invalid="ignore", over="ignore"):
            parts = [np.sqrt((b_Nd * b_Nd).sum(axis=1)).astype(np.float32) for b_Nd in self._projected(cls_ND)]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _projected(self, cls_ND: Float32) -> Iterator[Float64]:
        """f_CLS M_Q in blocks of rows."""
        weight_Dd = self.weight_dD.T.astype(np.float64)
        for start in range(0, len(cls_ND), _MAX_PROJECTED):
            block_ND = cls_ND[start : start + _MAX_PROJECTED].astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found, and named, afterwards
                projected_Nd = block_ND @ weight_Dd
            yield projected_Nd


def build_index(
    config: IndexConfig,
    on_shard: Callable[[int, int], None] | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Artefact:
    """Build the index a configuration describes, or return it when it is finished already.

    Args:
        config: what to build.
        on_shard: told (shards done, shards in all) after each shard.
        clock: seconds, by which the searches are timed that choose a kind.

    Raises:
        ConfigError: if a URI is not set, or no kind keeps the budgets.
        FingerprintMismatchError: if features and model do not belong together.
        GalleryError: if the gallery is empty, or item ids repeat or collide.
        CorruptArtefactError: if features are not finite, or items name pictures without features.
    """
    for name in ("features", "model", "output"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is not set; say where with --set {name}=URI.")
    rates = rates_at(config.rates)
    began = time.perf_counter()
    store = FeatureStore.open(config.features)
    projection = Projection.open(config.model)
    projection.check(store)
    inputs = {"features": store.fingerprint, "model": projection.model_fingerprint}
    queries = open_queries(config, projection)
    if queries is not None:
        inputs["queries"] = queries.fingerprint
    output = begin_output(config.output, GALLERY_INDEX, config, inputs, overwrite=config.overwrite)
    if output.finished:
        return output.finished
    memory = PeakMemory()
    items = store.items()
    shards = split_items(items, config.num_shards, where=store.uri)
    vectors_Nd = projection.apply(store.matrix_ND)
    check_directions(np.asarray(np.isfinite(vectors_Nd).all(axis=1)), store)
    try:
        settled = settle(config, queries, shards, store, vectors_Nd, clock=clock)
    except (ConfigError, InputError):
        output.withdraw()  # other budgets are another index, which this place is still free for
        raise
    kind, lists = settled.kind, settled.lists
    forecast = None
    if kind == "flat" and settled.tuning is None:
        forecast = forecast_build(
            items_per_shard=[len(members) for members in shards],
            feature_dimension=store.dimension,
            dimension=len(projection.weight_dD),
            item_table_bytes=store.artefact.manifest.files[ITEMS].num_bytes,
            rates=rates,
        )
    empty = None if kind == "flat" else trained(kind, vectors_Nd[sample_rows(len(vectors_Nd), lists)], lists)
    names: list[str] = []
    ties: list[str] = []
    for shard, members in enumerate(shards):
        rows_M = np.array([store.row_of(item.content_hash) for _, item in members], dtype=np.int64)
        index = _flat(members, vectors_Nd[rows_M]) if empty is None else filled(empty, vectors_Nd[rows_M])
        table = ItemTable(items_as_table([item for _, item in members], [number for number, _ in members]))
        canaries = _canaries(index, settled.search, vectors_Nd[rows_M], table)
        _write_shard(output.folder, shard, members, index, canaries)
        ties.append(tie(table, vectors_Nd[rows_M]))
        names += [index_name(shard), items_name(shard), canaries_name(shard)]
        if not keeps_vectors(kind):
            with output.folder.writing(vectors_name(shard)) as path, open(path, "wb") as file:
                np.save(file, vectors_Nd[rows_M], allow_pickle=False)
            names.append(vectors_name(shard))
        if on_shard:
            on_shard(shard + 1, config.num_shards)
    files = {name: file_entry(output.folder, name) for name in names}
    num_bytes = sum(entry.num_bytes for entry in files.values())
    fields = sorted({name for item in items for name in item.metadata})
    actual = BuildFigures(num_bytes, time.perf_counter() - began, memory.peak_bytes())
    return output.commit(
        counts={"items": len(items), "shards": config.num_shards, "pictures": len({i.content_hash for i in items})},
        files=files,
        id_hash=hash_ids(item.item_id for item in items),
        facts={
            "kind": kind,
            "search": settled.search,
            "dimension": vectors_Nd.shape[1],
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
            "ties": ties,
            **({} if settled.tuning is None else {"tuning": settled.tuning}),
            "build": forecast_beside_actual(forecast, actual, rates),
        },
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


def check_directions(has_direction_N: NDArray[np.bool_], store: FeatureStore) -> None:
    """Check that every picture of a store has a direction after projection.

    Raises:
        CorruptArtefactError: naming the first that has none.
    """
    bad = np.flatnonzero(~has_direction_N)
    if len(bad):
        raise CorruptArtefactError(
            f"{len(bad)} of {len(has_direction_N)} pictures in {store.uri} have no direction after projection (NaN, infinite or zero), "
            f"first {store.hashes[bad[0]][:16]}. Check the model, then embed again with --set overwrite=true."
        )


def _flat(members: Sequence[tuple[int, GalleryItem]], vectors_Md: Float32) -> Any:
    numbers_M = np.array([number for number, _ in members], dtype=np.int64)
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors_Md.shape[1]))
    index.add_with_ids(np.ascontiguousarray(vectors_Md), numbers_M)
    return index


def _canaries(index: Any, search: Mapping[str, int], vectors_Md: Float32, table: ItemTable) -> Canaries:
    """A few rows of a shard that a search with its defaults finds."""
    rows = choose(vectors_Md, table.id_order())
    if search and rows:
        parameters = SearchParameters(**search)
        assert parameters.num_reranked is not None
        found_CK = propose(index, vectors_Md[rows], min(parameters.num_reranked, len(table)), None, parameters)
        rows = [row for row, found_K in zip(rows, found_CK, strict=True) if row in found_K]
    kept = rows[:: max(1, len(rows) // NUM_CANARIES)][:NUM_CANARIES]
    return Canaries(vectors_Md[kept], tuple(table.item(row) for row in kept))


def _write_shard(
    folder: Folder, shard: int, members: Sequence[tuple[int, GalleryItem]], index: Any, canaries: Canaries
) -> None:
    with folder.writing(items_name(shard)) as path:
        write_items(path, [item for _, item in members], [number for number, _ in members])
    with folder.writing(canaries_name(shard)) as path:
        write_canaries(path, canaries)
    with folder.writing(index_name(shard)) as path:
        faiss.write_index(index, path)
