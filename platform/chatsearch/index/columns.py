"""Metadata as columns, so that a filter looks at the distinct texts of a field and not at every item's JSON.

Shape suffixes: N rows, V distinct texts of a field and one place for none.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chatsearch.index.filters import Column, Mask, number_of
from chatsearch.types import GalleryItem

_KEPT_COLUMNS = 64
"""Fields that stay decoded, of each shard."""
_LEAST_BLOCK = 1 << 20
_FIRST_CAPACITY = 1024
_NO_TEXT = object()
"""Stands for values that are no texts: the field is there, and equals nothing."""


class TableColumns:
    """The metadata of a table's rows, decoded field by field when a filter asks for one. Any number of threads may ask."""

    def __init__(self, metadata_N: pa.Array) -> None:
        self.num_rows = len(metadata_N)
        # The cache knows the array alone: through a method it would hold this object, and that one the cache.
        self._column = lru_cache(_KEPT_COLUMNS)(partial(_decoded, metadata_N))

    def column(self, field: str) -> Column:
        """See :class:`chatsearch.index.filters.Columns`."""
        return self._column(field)


@dataclass(frozen=True)
class _ArrowColumn:
    codes_N: NDArray[Any]
    texts: pa.Array

    @cached_property
    def numbers_V(self) -> NDArray[np.float64]:
        return np.array([np.nan, *map(number_of, self.texts.to_pylist())])

    def chosen_V(self, texts: Collection[str]) -> Mask:
        import pyarrow.compute as pc

        chosen = pc.is_in(self.texts, value_set=pa.array(list(texts), pa.string())).to_numpy(zero_copy_only=False)
        return np.concatenate([[False], chosen])


def _decoded(metadata_N: pa.Array, field: str) -> Column:
    """One field of rows of JSON objects. Arrow reads only this one of them, without the interpreter."""
    import pyarrow.compute as pc

    try:
        encoded = _texts(metadata_N, field).dictionary_encode()
    except (
        pa.ArrowException
    ):  # half of a surrogate pair, or a value that is no text: rare, and no reason to refuse the rest
        growing = _GrowingColumn()
        growing.extend([json.loads(text).get(field) for text in metadata_N.to_pylist()])
        return growing.first(len(metadata_N))
    codes_N = pc.fill_null(pc.add(encoded.indices, 1), 0).to_numpy(zero_copy_only=False)
    return _ArrowColumn(codes_N.astype(np.min_scalar_type(len(encoded.dictionary))), encoded.dictionary)


def _texts(metadata_N: pa.Array, field: str) -> pa.Array:
    import pyarrow.compute as pc
    from pyarrow.json import ParseOptions, ReadOptions, read_json

    if len(metadata_N) == 0:
        return pa.array([], pa.string())
    lines_N = pc.binary_join_element_wise(metadata_N, "", "\n")
    longest = pc.max(pc.binary_length(lines_N)).as_py()
    table = read_json(
        pa.BufferReader(lines_N.buffers()[2]),
        read_options=ReadOptions(block_size=max(_LEAST_BLOCK, 2 * longest)),
        parse_options=ParseOptions(
            explicit_schema=pa.schema([(field, pa.string())]), unexpected_field_behavior="ignore"
        ),
    )
    assert table.num_rows == len(metadata_N), "json.dumps writes one line an item"
    return table.column(0).combine_chunks()


class ItemColumns:
    """The metadata of a list of items that grows at its end, decoded as far as they were asked for."""

    def __init__(self, items: Sequence[GalleryItem]) -> None:
        self._items = items
        self._columns: dict[str, _GrowingColumn] = {}
        self._lock = threading.Lock()

    def first(self, num_rows: int) -> FirstRows:
        """The columns as they are when there are only so many rows."""
        return FirstRows(self, num_rows)

    def column(self, field: str, num_rows: int) -> Column:
        """One field of the first rows."""
        with self._lock:
            growing = self._columns.get(field)
            if growing is None:
                if len(self._columns) >= _KEPT_COLUMNS:
                    del self._columns[next(iter(self._columns))]
                growing = self._columns[field] = _GrowingColumn()
            growing.extend([item.metadata.get(field) for item in self._items[len(growing) : num_rows]])
            return growing.first(num_rows)


@dataclass(frozen=True)
class FirstRows:
    """See :meth:`ItemColumns.first`."""

    columns: ItemColumns
    num_rows: int

    def column(self, field: str) -> Column:
        """See :class:`chatsearch.index.filters.Columns`."""
        return self.columns.column(field, self.num_rows)


class _GrowingColumn:
    """One field of rows that are added at its end."""

    def __init__(self) -> None:
        self._num_rows = 0
        self._codes_N = np.zeros(_FIRST_CAPACITY, np.int32)
        self._code_of: dict[object, int] = {}
        self._numbers: list[float] = [np.nan]

    def __len__(self) -> int:
        return self._num_rows

    def extend(self, values: Sequence[object]) -> None:
        stop = self._num_rows + len(values)
        if stop > len(self._codes_N):
            # What was given out before keeps the old array.
            codes_N = np.zeros(max(2 * len(self._codes_N), stop), np.int32)
            codes_N[: self._num_rows] = self._codes_N[: self._num_rows]
            self._codes_N = codes_N
        for row, value in enumerate(values, self._num_rows):
            if value is not None:
                self._codes_N[row] = self._code(value if isinstance(value, str) else _NO_TEXT)
        self._num_rows = stop

    def first(self, num_rows: int) -> Column:
        """Of the first rows; those that follow change nothing in it."""
        return _FirstOfColumn(self._codes_N[:num_rows], self._code_of, self._numbers, len(self._numbers))

    def _code(self, text: object) -> int:
        code = self._code_of.get(text)
        if code is None:
            code = self._code_of[text] = len(self._numbers)
            self._numbers.append(number_of(text))
        return code


@dataclass(frozen=True)
class _FirstOfColumn:
    codes_N: NDArray[Any]
    _code_of: Mapping[object, int]
    _numbers: Sequence[float]
    _num_codes: int

    @property
    def numbers_V(self) -> NDArray[np.float64]:
        return np.array(self._numbers[: self._num_codes])

    def chosen_V(self, texts: Collection[str]) -> Mask:
        chosen_V = np.zeros(self._num_codes, np.bool_)
        codes = [self._code_of.get(text, 0) for text in texts]
        chosen_V[[code for code in codes if 0 < code < self._num_codes]] = True
        return chosen_V
