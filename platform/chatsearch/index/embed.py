"""The ``embed`` job: every picture of a gallery through the frozen encoder, once, on Ray Data.

The distinct pictures, in the order in which the documents first name them, are cut into micro-shards. Pictures lie in that order in
their files too, so a micro-shard reads a few row groups instead of all. Each one is made by one call of one actor and written whole
as one part file; a part that is there is never made again. The manifest comes last.

What is promised of the bytes: the same pictures, encoder, configuration and ``reuse`` give the same files, however often the job is
killed and however many actors make them. Rows that are reused keep their bits. Every forward pass has ``batch_size`` pictures, so
on a CPU, where a row does not depend on its neighbours, a store that was added to is the one that embedding everything at once on
the same machine would have made. Another machine, another number of threads or a GPU may round the last bits another way.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from chatsearch.data.shards import DocumentShards
from chatsearch.errors import ConfigError, FingerprintMismatchError, GalleryError, TooManyRejectedError, named_cause
from chatsearch.index.config import EmbedConfig
from chatsearch.index.encode import PartEncoder
from chatsearch.index.features import ITEMS, part_name, read_shapes, rejected_name
from chatsearch.index.items import check_item_ids, write_items
from chatsearch.index.reuse import EarlierRows
from chatsearch.kinds import FEATURE_STORE
from chatsearch.manifest import Artefact, begin_output, hash_ids, read_manifest
from chatsearch.progress import progress
from chatsearch.storage import Folder, is_remote, resolve
from chatsearch.types import Document, GalleryItem, Kind

MakeParts = Callable[[EmbedConfig, Sequence[Mapping[str, Any]]], Iterator[Mapping[str, Any]]]
"""Makes the parts that rows describe, see :class:`chatsearch.index.encode.PartEncoder`; yields what it says of each as it is done."""


@dataclass(frozen=True)
class Plan:
    """What there is to embed."""

    pictures: dict[str, int]
    """Each distinct content hash with the position of the shards that hold it, in reading order."""
    items: list[GalleryItem]
    left_out: dict[str, int]
    """How many values of each attribute are too long to be copied into the gallery."""


def plan_gallery(shards: Sequence[DocumentShards], max_metadata_chars: int) -> Plan:
    """Pictures and items of a gallery.

    The items are the documents of kind gallery, by document id; where there are none, every picture is an item under its hash.

    Raises:
        GalleryError: if there are no pictures, or two items have one id.
    """
    pictures: dict[str, int] = {}
    items: list[GalleryItem] = []
    left_out: Counter[str] = Counter()
    for position, part in enumerate(shards):
        for document in part.documents():
            for content_hash in document.images():
                pictures.setdefault(content_hash, position)
            if document.kind is Kind.GALLERY:
                items.append(_item(document, max_metadata_chars))
                left_out.update(document.attributes.keys() - items[-1].metadata.keys())
    if not pictures:
        where = ", ".join(part.artefact.uri for part in shards)
        raise GalleryError(
            f"There is no picture in {where}, so there is nothing to embed. Prepare shards with pictures."
        )
    items = items or [GalleryItem(content_hash, content_hash) for content_hash in pictures]
    check_item_ids(item.item_id for item in items)
    return Plan(pictures, sorted(items, key=lambda item: item.item_id), dict(sorted(left_out.items())))


def _item(document: Document, max_metadata_chars: int) -> GalleryItem:
    small = {name: value for name, value in document.attributes.items() if len(value) <= max_metadata_chars}
    return GalleryItem(document.document_id, document.images()[0], small)


def embed(
    config: EmbedConfig,
    make_parts: MakeParts | None = None,
    session: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Artefact:
    """Make the feature store a configuration describes, or what is still missing of it.

    Args:
        config: what to make.
        make_parts: makes the missing parts; None has Ray Data do it, which is started with its defaults unless Ray is running.
            It is not called when no part is missing.
        session: entered when there is something to make, and before anything changes: mostly
            :func:`chatsearch.session.ray_session`.

    Raises:
        ConfigError: if a URI is not set, or a store to reuse holds less than is asked for.
        ArtefactError: if shards, model or a store to reuse are not finished, damaged or of another encoder, or the output holds
            something else.
        GalleryError: if there is no picture, or two items have one id.
        TooManyRejectedError: if more pictures were set aside than ``max_rejected_fraction``.
    """
    for name in ("gallery", "model", "output"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is not set; say where with --set {name}=URI.")
    shards = [DocumentShards.open(uri) for uri in config.gallery]
    encoder = _encoder_facts(config.model)
    earlier = EarlierRows(config.reuse)
    earlier.check(config, encoder)
    inputs = {f"gallery.{position}": part.fingerprint for position, part in enumerate(shards)}
    # Only the encoder decides the features: a later checkpoint of the same model finds them finished.
    inputs["model"] = encoder["encoder_fingerprint"]
    inputs |= {f"reuse.{position}": store.fingerprint for position, store in enumerate(earlier.stores)}
    with ExitStack() as stack:
        output = begin_output(
            config.output,
            FEATURE_STORE,
            config,
            inputs,
            overwrite=config.overwrite,
            before=lambda: stack.enter_context(session()),
        )
        if output.finished:
            return output.finished
        plan = plan_gallery(shards, config.max_metadata_chars)
        places_N2 = earlier.find(plan.pictures)
        parts = _parts(plan, places_N2, config.images_per_part)
        _make_missing(config, output.folder, parts, make_parts or make_on_ray)
    rejected = _read_rejected(output.folder, len(parts))
    _check_rejected(config, rejected, plan)
    items = [item for item in plan.items if item.content_hash not in rejected]
    with output.folder.writing(ITEMS) as path:
        write_items(path, items)
    _clear_torn(output.folder)
    names = [part_name(part) for part in range(len(parts))]
    return output.commit(
        counts={
            "pictures": len(plan.pictures) - len(rejected),
            "reused": int((places_N2[:, 0] >= 0).sum()),
            "items": len(items),
            "rejected": len(rejected),
            "parts": len(parts),
            "attributes_left_out": sum(plan.left_out.values()),
        },
        files=[ITEMS, *names, *output.folder.list("rejected"), *output.folder.list("thumbnails")],
        id_hash=hash_ids(content_hash for content_hash in plan.pictures if content_hash not in rejected),
        facts={
            **read_shapes(output.folder.local_path(names[0])),
            **encoder,
            "images": [part.artefact.uri for part in shards],
            "dtype": config.dtype,
            "thumbnail_px": config.thumbnail_px,
            "attributes_left_out": plan.left_out,
        },
    )


def _clear_torn(folder: Folder) -> None:
    """Remove what killed actors have left half-written: by now nobody writes here. An object store has none."""
    for path in () if is_remote(folder.uri) else Path(folder.uri).rglob(".tmp-*"):
        path.unlink(missing_ok=True)


def _encoder_facts(uri: str) -> dict[str, str]:
    """Fingerprint and preprocessing of a model's frozen encoder, from its manifest: no weights are read."""
    # Bundles and starting weights both carry one; which of them it is does not matter here.
    manifest = read_manifest(uri)
    names = ("encoder_fingerprint", "preprocessing_id")
    if manifest is None or any(name not in manifest.facts for name in names):
        held = f"a {manifest.kind}" if manifest else "nothing finished" if Folder(uri).exists() else "nothing"
        raise FingerprintMismatchError(
            f"{uri} holds {held}, not a model with a vision encoder. Set model to a model bundle or to starting weights."
        )
    return {name: manifest.facts[name] for name in names}


def _parts(plan: Plan, places_N2: NDArray[np.int64], size: int) -> list[dict[str, Any]]:
    """The micro-shards as rows for :class:`PartEncoder`."""
    hashes, stores = list(plan.pictures), list(plan.pictures.values())
    return [
        {
            "part": part,
            "hashes": hashes[start : start + size],
            "stores": stores[start : start + size],
            "earlier_parts": places_N2[start : start + size, 0].tolist(),
            "earlier_rows": places_N2[start : start + size, 1].tolist(),
        }
        for part, start in enumerate(range(0, len(hashes), size))
    ]


def _make_missing(
    config: EmbedConfig, folder: Folder, parts: Sequence[Mapping[str, Any]], make_parts: MakeParts
) -> None:
    present = folder.sizes("features")
    missing = [row for row in parts if part_name(row["part"]) not in present]
    total, left = (sum(len(row["hashes"]) for row in rows) for rows in (parts, missing))
    with progress("embed", total, "pictures", done=total - left) as advance:
        if missing:
            for made in make_parts(_located(config), missing):
                advance(made["pictures"])


def _located(config: EmbedConfig) -> EmbedConfig:
    """The same with absolute URIs: actors may run in another folder than this process."""
    return config.replace(
        gallery=tuple(map(resolve, config.gallery)),
        model=resolve(config.model),
        output=resolve(config.output),
        reuse=tuple(map(resolve, config.reuse)),
    )


def make_on_ray(
    config: EmbedConfig, rows: Sequence[Mapping[str, Any]], encoder: type[PartEncoder] = PartEncoder
) -> Iterator[Mapping[str, Any]]:
    """Make parts on the cluster, each by one call of one actor; yields what each call says as it ends."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False  # ours counts pictures
    context.raise_original_map_exception = True  # else the cause is lost between processes
    with DataContext.current(context):
        dataset = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map(
            cast(Any, encoder),  # Ray's signature names functions only
            fn_constructor_args=(config,),
            compute=ActorPoolStrategy(size=min(config.num_actors, len(rows))),
            num_cpus=config.cpus_per_actor,
            num_gpus=config.gpus_per_actor or None,
        )
        try:
            yield from dataset.iter_rows()
        except Exception as error:
            raise named_cause(error) or error from error


def _read_rejected(folder: Folder, num_parts: int) -> dict[str, str]:
    """Reason by content hash, over all parts."""
    present = folder.sizes("rejected")
    rejected: dict[str, str] = {}
    for name in (rejected_name(part) for part in range(num_parts)):
        if name in present:
            records = map(json.loads, folder.read_bytes(name).decode().splitlines())
            rejected |= {record["key"]: record["reason"] for record in records}
    return rejected


def _check_rejected(config: EmbedConfig, rejected: dict[str, str], plan: Plan) -> None:
    num_pictures = len(plan.pictures)
    if len(rejected) > config.max_rejected_fraction * num_pictures:
        first = "; ".join(f"{key[:16]}: {reason}" for key, reason in list(rejected.items())[:3])
        raise TooManyRejectedError(
            f"{len(rejected)} of {num_pictures} pictures were set aside, the limit is {config.max_rejected_fraction:.1%}. First: "
            f"{first}. All are listed in {Folder(config.output).path('rejected')}. Repair them, or allow more with "
            "--set max_rejected_fraction=1."
        )
