"""Making a new base: the live pictures of a version in a feature store of their own, and the shards built over it.

Changes nothing that anybody reads; a base counts from the state entry that names it. The same work, interrupted, is continued.

Shape suffixes: N rows of a part, D width of f_CLS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chatsearch.config import Config, digest
from chatsearch.errors import CorruptArtefactError, FingerprintMismatchError
from chatsearch.index.auto import as_chosen
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.features import ITEMS, float_rows, part_name, write_part
from chatsearch.index.items import write_items
from chatsearch.index.live.catalogue import Catalogue, read_tables
from chatsearch.index.live.entry import Entry
from chatsearch.index.live.log import Log
from chatsearch.index.live.pinned import open_pinned, pin
from chatsearch.index.live.state import Base, Lineage, Version
from chatsearch.index.projection import Projection
from chatsearch.index.vectors import Float32
from chatsearch.kinds import FEATURE_STORE, GALLERY_INDEX
from chatsearch.manifest import Artefact, begin_output, hash_ids
from chatsearch.storage import Folder
from chatsearch.types import GalleryItem

BASES = "bases"
ROWS_PER_PART = 1 << 15
"""Pictures in one part of the feature store: what is held in memory at a time."""


class _StoreConfig(Config):
    """What decides the bytes of a base's feature store: one version of one gallery, less what is forgotten."""

    version: str
    without: str


@dataclass(frozen=True)
class Compaction:
    """A base to make. Plain values: it travels to where the work is done."""

    gallery: str
    """URI of the gallery."""
    version: Version
    """What to compact."""
    model: str
    """URI of the model whose M_Q projects the new base."""
    num_shards: int
    without: tuple[str, ...] = ()
    """Item ids and content hashes to leave out."""
    kind: str | None = None
    """Kind of the new index; None keeps that of the base, with its lists and search parameters."""

    @property
    def name(self) -> str:
        """Folder of the base below the gallery's. The same work has the same name, so that a task that is tried again continues it."""
        content = digest(self.version.model_dump(mode="json"), self.model, self.num_shards, self.without, self.kind)
        return f"{BASES}/{self.version.number:020d}-{content}"


@dataclass(frozen=True)
class Compacted:
    """A base that was made, not committed yet."""

    work: Compaction
    base: Base | None
    """None where no item is live."""
    lineage: Lineage


def lineage_of(projection: Projection) -> Lineage:
    """What a gallery that is projected with a model remembers of it."""
    dimension, feature_dimension = projection.weight_dD.shape
    return Lineage(
        model=projection.uri,
        model_fingerprint=projection.model_fingerprint,
        mq_fingerprint=projection.mq_fingerprint,
        encoder_fingerprint=projection.encoder_fingerprint,
        preprocessing_id=projection.preprocessing_id,
        feature_dimension=feature_dimension,
        dimension=dimension,
    )


def live_catalogue(log: Log, version: Version, known: Mapping[int, Entry] | None = None) -> Catalogue:
    """The live items of a version, read from its base and those of its entries that are not known yet."""
    catalogue = Catalogue(read_tables(log.folder, version), version.num_shards)
    for number in version.numbers():
        entry = (known or {}).get(number) or log.read(number)
        if entry.batch is not None:
            catalogue.apply(number, entry.batch)
    return catalogue


def build_base(work: Compaction) -> Compacted:
    """Make the base, or return it when it is made already.

    Raises:
        MissingInputError: the version is not kept any more.
        ArtefactError: something that is read is damaged, or the model has another encoder than the gallery.
        StorageError: the store failed; run the same again to continue.
    """
    log = Log(Folder(work.gallery))
    projection = Projection.open(work.model)
    _check_encoder(projection, work)
    catalogue = live_catalogue(log, work.version)
    for what in work.without:
        catalogue.drop([item.item_id for item in catalogue if what in (item.item_id, item.content_hash)])
    if not len(catalogue):
        return Compacted(work, None, lineage_of(projection))
    folder = log.folder.child(work.name)
    features = _write_features(log, work, catalogue, folder.child("features"))
    config = IndexConfig(
        features=features.uri,
        model=work.model,
        output=folder.child("index").uri,
        num_shards=work.num_shards,
        **({"kind": work.kind} if work.kind else _as_built(log, work.version)),
    )
    index = build_index(config)
    base = Base(
        features=pin(features, f"{work.name}/features"),
        index=pin(index, f"{work.name}/index"),
        owned=True,
        num_items=index.manifest.counts["items"],
    )
    return Compacted(work, base, lineage_of(projection))


def _check_encoder(projection: Projection, work: Compaction) -> None:
    ours, theirs = work.version.lineage, lineage_of(projection)
    for what in ("encoder_fingerprint", "preprocessing_id", "feature_dimension"):
        if getattr(ours, what) != getattr(theirs, what):
            raise FingerprintMismatchError(
                f"Gallery {work.gallery} holds features with {what} {getattr(ours, what)}, model {work.model} takes "
                f"{getattr(theirs, what)}. Embed the pictures with this model and create a gallery from them: "
                f"python -m jobs.embed --set gallery=SHARDS --set model={work.model} --set tokens=false --set output=NEW_URI"
            )


def _write_features(log: Log, work: Compaction, catalogue: Catalogue, folder: Folder) -> Artefact:
    lineage = work.version.lineage
    held = _base_store(log.folder, work.version)
    config = _StoreConfig(version=digest(work.version.model_dump(mode="json")), without=digest(list(work.without)))
    output = begin_output(folder.uri, FEATURE_STORE, config, {"base": held.fingerprint} if held else {})
    if output.finished:
        return output.finished
    num_rows = 0
    for part, (hashes, rows_ND) in enumerate(_parts(_live_rows(log, work.version, catalogue, held))):
        with output.folder.writing(part_name(part)) as path:
            write_part(path, hashes, rows_ND)
        num_rows += len(hashes)
    items: list[GalleryItem] = sorted(catalogue, key=lambda item: item.item_id)
    with output.folder.writing(ITEMS) as path:
        write_items(path, items)
    return output.commit(
        counts={"pictures": num_rows, "items": len(items)},
        id_hash=hash_ids(item.item_id for item in items),
        facts={
            "dimension": lineage.feature_dimension,
            "token_shape": None,
            "encoder_fingerprint": lineage.encoder_fingerprint,
            "preprocessing_id": lineage.preprocessing_id,
            "images": list(held.manifest.facts["images"]) if held else [],
        },
    )


def _as_built(log: Log, version: Version) -> dict[str, Any]:
    """Kind, lists and search parameters that the base's index was asked for, or that were chosen for it; nothing where there is no
    base."""
    if version.base is None:
        return {}
    held = open_pinned(log.folder, version.base.index, GALLERY_INDEX).manifest
    if held.config.get("kind") == "auto":
        return as_chosen(held.facts)
    return {name: held.config[name] for name in ("kind", "num_lists", "search") if name in held.config}


def _base_store(gallery: Folder, version: Version) -> Artefact | None:
    return open_pinned(gallery, version.base.features, FEATURE_STORE) if version.base else None


def _live_rows(
    log: Log, version: Version, catalogue: Catalogue, held: Artefact | None
) -> Iterator[tuple[list[str], Float32]]:
    """Hashes and features of all live pictures, each once, in pieces. Of one that came several times the newest row counts."""
    wanted = catalogue.live_hashes()
    rows_of_entry: dict[int, dict[str, int]] = {}
    newest: dict[str, tuple[int, int]] = {}
    for place in catalogue.log_rows():
        found = newest.get(place.item.content_hash)
        newest[place.item.content_hash] = max(found or (0, 0), (place.number, place.row))
    for content_hash, (number, row) in newest.items():
        rows_of_entry.setdefault(number, {})[content_hash] = row
    for name in sorted(held.manifest.files) if held else ():
        if held and name.startswith("features/"):
            hashes, rows_ND = _read_part(held.checked_path(name), held.uri)
            kept = [row for row, value in enumerate(hashes) if value in wanted and value not in newest]
            wanted.difference_update(hashes[row] for row in kept)
            yield [hashes[row] for row in kept], rows_ND[kept]
    for number, rows in sorted(rows_of_entry.items()):
        batch = log.read(number).batch
        assert batch is not None, "the catalogue names only entries with batches"
        wanted.difference_update(rows)
        yield list(rows), batch.cls_ND[list(rows.values())]
    if wanted:
        raise CorruptArtefactError(
            f"{len(wanted)} live pictures of gallery {log.folder.uri} have no features, first {min(wanted)[:16]}. Restore the folder from "
            "a copy of the store, or delete their items."
        )


def _read_part(path: str, uri: str) -> tuple[list[str], Float32]:
    try:
        table = pq.read_table(path, columns=["content_hash", "f_cls"]).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise CorruptArtefactError(f"Cannot read the features at {uri}: {error}. Embed the gallery again.") from error
    rows = table.column("f_cls")
    hashes = table.column("content_hash").to_pylist()
    if not hashes:
        return [], np.empty((0, 0), np.float32)
    return hashes, float_rows(rows.chunk(0))


def _parts(pieces: Iterator[tuple[list[str], Float32]]) -> Iterator[tuple[list[str], Float32]]:
    """The same rows in parts of one size."""
    hashes: list[str] = []
    blocks: list[Float32] = []
    for more, rows_ND in pieces:
        if not more:
            continue
        hashes, blocks = hashes + more, [*blocks, rows_ND]
        while len(hashes) >= ROWS_PER_PART:
            stacked_ND = np.concatenate(blocks)
            yield hashes[:ROWS_PER_PART], stacked_ND[:ROWS_PER_PART]
            hashes, blocks = hashes[ROWS_PER_PART:], [stacked_ND[ROWS_PER_PART:]]
    if hashes:
        yield hashes, np.concatenate(blocks)
