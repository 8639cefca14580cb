"""The live items with their vectors, as a reader holds and changes them behind its views.

Shape suffixes: M rows of a batch, D retrieval dimension.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from chatsearch.errors import CorruptArtefactError
from chatsearch.index.live.batch import Batch
from chatsearch.index.live.catalogue import Catalogue
from chatsearch.index.live.entry import Entry
from chatsearch.index.live.log import Log
from chatsearch.index.live.model_lock import ModelLock
from chatsearch.index.live.pinned import open_pinned
from chatsearch.index.live.segment import Segment
from chatsearch.index.live.state import Version
from chatsearch.index.live.view import View
from chatsearch.index.projection import Projection
from chatsearch.index.shard import IndexShard
from chatsearch.index.vectors import Float32
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.types import GalleryItem


@dataclass(frozen=True)
class _Applied:
    """What an entry did to the segment: enough to do it again without reading it."""

    start: int
    stop: int
    deleted: tuple[str, ...]
    fields: frozenset[str]
    """Names of the metadata of all its items, also of those that other readers hold."""


class LiveSet:
    """Base shards, catalogue and segment of a version, and of those that batches make of it. Not for several threads."""

    def __init__(
        self,
        log: Log,
        lock: ModelLock,
        version: Version,
        shards: Collection[int] | None,
        *,
        known: Mapping[int, Entry],
        old: LiveSet | None,
        opened: Mapping[int, IndexShard] | None = None,
    ) -> None:
        """Make a version.

        Args:
            log: where its entries are.
            lock: the model it must be projected with.
            version: what to make.
            shards: the base shards wanted; None for all.
            known: entries that were read already.
            old: what the reader held so far; what both have in common is taken from it.
            opened: the shards of the version's base, where they are open already.

        Raises:
            MissingInputError: an entry or the base is gone.
            ArtefactError: something is damaged, or belongs to another M_Q.
        """
        self._log = log
        self._origin = version
        kept = old if old is not None and old._origin.lineage == version.lineage else None
        self._projection: Projection = kept._projection if kept else lock.open(version.lineage)
        if opened is None:
            same_base = kept is not None and kept._origin.base == version.base
            opened = kept._shards if kept and same_base else open_shards(log, version, shards)
        self._shards: Mapping[int, IndexShard] = opened
        tables = {shard: index.items for shard, index in self._shards.items()}
        self._catalogue = Catalogue(tables, version.num_shards, shards)
        self._segment = Segment(version.lineage.dimension)
        self._fields = _fields_of_base(self._shards)
        self._applied: dict[int, _Applied] = {}
        for number in version.numbers():
            done = kept._applied.get(number) if kept else None
            if kept and done:
                self._add(number, *kept._segment.rows(done.start, done.stop), done.deleted, done.fields)
                continue
            entry = known.get(number) or log.read(number)
            if entry.batch is not None:
                self.apply(number, entry.batch)

    def apply(self, number: int, batch: Batch) -> None:
        """Apply the batch of an entry.

        Raises:
            CorruptArtefactError: its features do not fit the gallery.
        """
        lineage = self._origin.lineage
        rows = [row for row, item in enumerate(batch.items) if self._catalogue.holds(item.item_id)]
        vectors_MD = np.empty((0, lineage.dimension), np.float32)
        if batch.items:
            if batch.cls_ND.shape[1] != lineage.feature_dimension:
                raise CorruptArtefactError(
                    f"Entry {number} of {self._log.folder.uri} holds features of width {batch.cls_ND.shape[1]}; the gallery's are "
                    f"{lineage.feature_dimension} wide. Roll back to a version before it."
                )
            vectors_MD = self._projection.apply(batch.cls_ND[rows])
        fields = frozenset().union(*(item.metadata for item in batch.items))
        self._add(number, [batch.items[row] for row in rows], vectors_MD, batch.deleted, fields)

    def view(self, version: Version) -> View:
        """What the set answers with as it is now."""
        dead = {shard: dead_N.copy() for shard, dead_N in self._catalogue.dead.items()}
        return View(version, self._shards, dead, self._segment.view(), len(self._catalogue), self._fields)

    def _add(
        self,
        number: int,
        items: list[GalleryItem],
        vectors_MD: Float32,
        deleted: tuple[str, ...],
        fields: frozenset[str],
    ) -> None:
        start = len(self._segment)
        self._catalogue.apply(number, Batch(tuple(items), vectors_MD, deleted))
        self._segment.drop(deleted)
        self._segment.append(items, vectors_MD)
        self._applied[number] = _Applied(start, len(self._segment), deleted, fields)
        if self._fields is not None and not fields <= self._fields:
            self._fields |= fields


def open_shards(log: Log, version: Version, shards: Collection[int] | None) -> dict[int, IndexShard]:
    """The wanted shards of a version's base, every file checked first.

    Raises:
        MissingInputError: the base is gone.
        ArtefactError: a file is damaged.
    """
    if version.base is None:
        return {}
    index = open_pinned(log.folder, version.base.index, GALLERY_INDEX)
    wanted = range(version.num_shards) if shards is None else sorted(shards)
    return {shard: IndexShard.open(index, shard) for shard in wanted}


def _fields_of_base(shards: Mapping[int, IndexShard]) -> frozenset[str] | None:
    fields: frozenset[str] = frozenset()
    for shard in shards.values():
        if shard.gallery_fields is None:
            return None
        fields |= shard.gallery_fields
    return fields
