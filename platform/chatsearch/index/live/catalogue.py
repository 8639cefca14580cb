"""Which items are live, and where: a row of the base, or a row of a batch in the log. Knows no vectors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from chatsearch.errors import GalleryError
from chatsearch.index.items import ItemTable, read_items
from chatsearch.index.live.batch import Batch
from chatsearch.index.live.pinned import open_pinned
from chatsearch.index.live.state import Version
from chatsearch.index.shard import items_name, shard_of
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.storage import Folder
from chatsearch.types import GalleryItem, faiss_id


@dataclass(frozen=True, slots=True)
class LogRow:
    """A live item that the log holds."""

    number: int
    """The entry."""
    row: int
    """Its row in the entry's batch."""
    item: GalleryItem


def read_tables(folder: Folder, version: Version) -> dict[int, ItemTable]:
    """The item tables of a version's base by shard, every file checked first.

    Raises:
        ArtefactError: the base is damaged.
    """
    if version.base is None:
        return {}
    index = open_pinned(folder, version.base.index, GALLERY_INDEX)
    return {shard: read_items(index.checked_path(items_name(shard))) for shard in range(version.num_shards)}


class Catalogue:
    """The live items of some or all shards. One owner changes it."""

    def __init__(self, tables: Mapping[int, ItemTable], num_shards: int, shards: Collection[int] | None = None) -> None:
        self._tables = dict(tables)
        self._num_shards = num_shards
        self._shards = frozenset(range(num_shards) if shards is None else shards)
        self.dead = {shard: np.zeros(len(table), np.bool_) for shard, table in self._tables.items()}
        """Rows of each base shard that were deleted or replaced."""
        self._log: dict[str, LogRow] = {}
        self._log_ids: dict[int, str] = {}
        self._num_base = sum(len(table) for table in self._tables.values())

    def __len__(self) -> int:
        return self._num_base + len(self._log)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._log or self._base_row(item_id) is not None

    def __iter__(self) -> Iterator[GalleryItem]:
        for shard, table in self._tables.items():
            for row in np.flatnonzero(~self.dead[shard]).tolist():
                yield table.item(row)
        yield from (place.item for place in self._log.values())

    def holds(self, item_id: str) -> bool:
        """Whether an item of this id belongs to the shards looked after here."""
        return shard_of(faiss_id(item_id), self._num_shards) in self._shards

    def get(self, item_id: str) -> GalleryItem | None:
        """The live item with this id, or None."""
        place = self._log.get(item_id)
        if place is not None:
            return place.item
        found = self._base_row(item_id)
        return None if found is None else self._tables[found[0]].item(found[1])

    def log_rows(self) -> list[LogRow]:
        """Live items that the log holds."""
        return list(self._log.values())

    def live_hashes(self) -> set[str]:
        """Content hashes of all live items."""
        hashes = {place.item.content_hash for place in self._log.values()}
        for shard, table in self._tables.items():
            hashes.update(table.content_hash(row) for row in np.flatnonzero(~self.dead[shard]).tolist())
        return hashes

    def apply(self, number: int, batch: Batch) -> None:
        """Apply the batch of an entry: the newest word on an item counts."""
        for item_id in batch.deleted:
            self._drop(item_id)
        for row, item in enumerate(batch.items):
            if not self.holds(item.item_id):
                continue
            self._drop(item.item_id)
            self._log[item.item_id] = LogRow(number, row, item)
            self._log_ids[faiss_id(item.item_id)] = item.item_id

    def drop(self, item_ids: Collection[str]) -> None:
        """Take items out as if they had been deleted."""
        for item_id in item_ids:
            self._drop(item_id)

    def check_faiss_ids(self, batch: Batch) -> None:
        """Check that no two live items would share a faiss id.

        Raises:
            GalleryError: naming both.
        """
        own: dict[int, str] = {}
        gone = set(batch.deleted)
        for item in batch.items:
            number = faiss_id(item.item_id)
            holder = own.setdefault(number, item.item_id)
            if holder == item.item_id:
                held = self._log_ids.get(number) or self._base_id(number)
                holder = held if held is not None and held not in gone else holder
            if holder != item.item_id:
                raise GalleryError(
                    f"Item ids {holder!r} and {item.item_id!r} have the same 63-bit id {number}. Rename one of them at its source."
                )

    def _drop(self, item_id: str) -> None:
        if self._log.pop(item_id, None) is not None:
            del self._log_ids[faiss_id(item_id)]
            return
        found = self._base_row(item_id)
        if found is not None:
            self.dead[found[0]][found[1]] = True
            self._num_base -= 1

    def _base_row(self, item_id: str) -> tuple[int, int] | None:
        """Shard and row of a live item of the base."""
        found = self._row_of(faiss_id(item_id))
        return found if found and self._tables[found[0]].item_id(found[1]) == item_id else None

    def _base_id(self, number: int) -> str | None:
        found = self._row_of(number)
        return self._tables[found[0]].item_id(found[1]) if found else None

    def _row_of(self, number: int) -> tuple[int, int] | None:
        shard = shard_of(number, self._num_shards)
        table = self._tables.get(shard)
        row = -1 if table is None else table.row_of(number)
        return None if row < 0 or self.dead[shard][row] else (shard, row)
