"""The item table: which item ids a gallery has, which picture each one shows, and what is known about it.

One Parquet file, written by ``embed`` for a whole gallery and by ``index`` per shard (there with the faiss ids).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from chatsearch.errors import CorruptArtefactError, GalleryError
from chatsearch.index.columns import TableColumns
from chatsearch.types import GalleryItem

_SCHEMA = pa.schema([("item_id", pa.string()), ("content_hash", pa.string()), ("metadata", pa.string())])
_FAISS_ID = pa.field("faiss_id", pa.int64())


class ItemTable:
    """Gallery items by row, held as Arrow columns; an item is built only when it is asked for."""

    def __init__(self, table: pa.Table) -> None:
        table = table.combine_chunks()
        columns = [_column(table, name) for name in _SCHEMA.names]
        self._item_ids, self._hashes, self._metadata = columns
        self._texts = [_Texts(column) for column in columns]
        self.faiss_ids_N: NDArray[np.int64] | None = (
            _column(table, "faiss_id").to_numpy() if "faiss_id" in table.column_names else None
        )

    def __len__(self) -> int:
        return len(self._item_ids)

    def __iter__(self) -> Iterator[GalleryItem]:
        return (self.item(row) for row in range(len(self)))

    def item(self, row: int) -> GalleryItem:
        """The item in one row."""
        return self.items(np.array([row]))[0]

    def items(self, rows: NDArray[np.int64]) -> list[GalleryItem]:
        """The items in some rows: quicker than one after the other."""
        item_ids, hashes, texts = (column.at(rows) for column in self._texts)
        # One text for the decoder: most of its time for a short one goes into being called.
        metadata = json.loads(f"[{','.join(texts)}]")
        return [GalleryItem(*columns) for columns in zip(item_ids, hashes, metadata, strict=True)]

    def content_hashes(self, rows: NDArray[np.int64]) -> list[str]:
        """Which pictures the items in some rows show."""
        _, hashes, _ = self._texts
        return hashes.at(rows)

    def item_id(self, row: int) -> str:
        """Id of the item in one row."""
        return self._item_ids[row].as_py()

    def columns(self) -> TableColumns:
        """The metadata, for filters."""
        return TableColumns(self._metadata)

    def fields(self) -> frozenset[str]:
        """Names that the items' metadata have."""
        return frozenset().union(*(json.loads(text) for text in self._metadata.to_pylist()))

    def num_pictures(self) -> int:
        """Different pictures that the items show."""
        import pyarrow.compute as pc

        return pc.count_distinct(self._hashes).as_py()

    def row_of(self, faiss_id: int) -> int:
        """Row of a faiss id in a shard's table, which is ordered by them; -1 where there is none."""
        assert self.faiss_ids_N is not None, "the table of a whole gallery has no faiss ids"
        row = int(np.searchsorted(self.faiss_ids_N, faiss_id))
        return row if row < len(self) and self.faiss_ids_N[row] == faiss_id else -1

    def rows_with(self, what: str) -> list[int]:
        """Rows of the item with this id, or of the items that show the picture with this content hash."""
        found = pc.or_(pc.equal(self._item_ids, what), pc.equal(self._hashes, what))
        return np.flatnonzero(found.to_numpy(zero_copy_only=False)).tolist()

    def content_hash(self, row: int) -> str:
        """Which picture the item in one row shows."""
        return self._hashes[row].as_py()

    def contents(self) -> Iterator[NDArray[Any]]:
        """All there is in the table, row by row: ids, then lengths and bytes of each text."""
        if self.faiss_ids_N is not None:
            yield np.ascontiguousarray(self.faiss_ids_N)
        for column, texts in zip((self._item_ids, self._hashes, self._metadata), self._texts, strict=True):
            yield pc.binary_length(column).to_numpy(zero_copy_only=False)
            yield texts.bytes()

    def id_order(self) -> NDArray[np.int64]:
        """Place of each row in the order of the item ids: what breaks ties, as one number."""
        rows = pc.sort_indices(self._item_ids).to_numpy()
        order = np.empty(len(rows), np.int64)
        order[rows] = np.arange(len(rows))
        return order


class _Texts:
    """A column of texts, cut out where they lie: for a few rows that takes a tenth of what a call of Arrow does."""

    def __init__(self, column: pa.Array) -> None:
        _, offsets, data = column.buffers()
        held = np.frombuffer(offsets or bytes(4), np.int32)
        self._offsets = held[column.offset : column.offset + len(column) + 1]
        self._data: pa.Buffer = data or pa.py_buffer(b"")

    def at(self, rows: NDArray[np.int64]) -> list[str]:
        """The texts of some rows."""
        data = memoryview(self._data)
        starts, stops = self._offsets[rows].tolist(), self._offsets[rows + 1].tolist()
        return [str(data[start:stop], "utf-8") for start, stop in zip(starts, stops, strict=True)]

    def bytes(self) -> NDArray[np.uint8]:
        """Those of all rows, one after the other."""
        return np.frombuffer(self._data, np.uint8)[self._offsets[0] : self._offsets[-1]]


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def items_as_table(items: Sequence[GalleryItem], faiss_ids: Sequence[int] | None = None) -> pa.Table:
    """The items as Arrow columns."""
    columns = [
        pa.array([item.item_id for item in items], pa.string()),
        pa.array([item.content_hash for item in items], pa.string()),
        pa.array([json.dumps(dict(item.metadata), sort_keys=True) for item in items], pa.string()),
    ]
    schema = _SCHEMA
    if faiss_ids is not None:
        columns.append(pa.array(faiss_ids, pa.int64()))
        schema = schema.append(_FAISS_ID)
    return pa.Table.from_arrays(columns, schema=schema)


def write_items(path: str, items: Sequence[GalleryItem], faiss_ids: Sequence[int] | None = None) -> None:
    """Write the table to a local file. The same items give the same bytes."""
    pq.write_table(items_as_table(items, faiss_ids), path)


def read_items(path: str) -> ItemTable:
    """Read the table from a local file.

    Raises:
        CorruptArtefactError: if the file is no item table.
    """
    try:
        return ItemTable(pq.read_table(path))
    except (pa.ArrowException, KeyError) as error:
        raise CorruptArtefactError(f"{path} is not an item table: {error}. Make the artefact again.") from error


def check_item_ids(item_ids: Iterable[str]) -> None:
    """Check that no item id appears twice.

    Raises:
        GalleryError: naming the first id that does.
    """
    seen: set[str] = set()
    for item_id in item_ids:
        if item_id in seen:
            raise GalleryError(
                f"Item id {item_id!r} appears more than once in the gallery; each item needs its own. "
                "Rename or remove the repeated item at its source and prepare the gallery again."
            )
        seen.add(item_id)
