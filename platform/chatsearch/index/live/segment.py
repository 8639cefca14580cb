"""The log's items in memory, searched exactly: what was added since the base was built.

Shape suffixes: B queries, N rows of the segment, n rows that may be found, M rows added, K candidates, D retrieval dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatsearch.index.columns import ItemColumns
from chatsearch.index.filters import Filter
from chatsearch.index.merge import first_of_pictures, ranked
from chatsearch.index.vectors import Float32, exact_scores, score_error
from chatsearch.types import GalleryItem, Hit

_FIRST_CAPACITY = 1024
_GATHERED_SHARE = 0.25
"""Of this share of the rows or less, copies are scored; of more, all rows."""


@dataclass(frozen=True)
class SegmentView:
    """The segment as it was at one version. Rows that come later lie behind it, rows that die later stay alive in it."""

    items: Sequence[GalleryItem]
    vectors_ND: Float32
    alive_N: NDArray[np.bool_]
    rows_of_id: dict[str, list[int]]
    rows_of_hash: dict[str, list[int]]
    columns: ItemColumns

    def find(self, item_id: str) -> GalleryItem | None:
        """The living item with this id, or None."""
        for row in reversed(self.rows_of_id.get(item_id, ())):
            if row < len(self.alive_N):
                return self.items[row] if self.alive_N[row] else None
        return None

    def search(
        self,
        queries_BD: Float32,
        k: int,
        exclusions: Sequence[frozenset[str]],
        *,
        filter: Filter | None = None,
        unique: bool = False,
    ) -> list[list[Hit]]:
        """The best ``k`` living rows of every query, which :func:`~chatsearch.index.vectors.check_queries` has made unit rows."""
        counted_N = self.alive_N
        if filter is not None:
            counted_N = counted_N & filter.mask_N(self.columns.first(len(counted_N)))
        rows_n = np.flatnonzero(counted_N)
        if len(rows_n) == 0:
            return [[] for _ in queries_BD]
        if len(rows_n) <= _GATHERED_SHARE * len(counted_N):
            approximate_Bn = queries_BD @ self.vectors_ND[rows_n].T
        else:
            approximate_Bn = (queries_BD @ self.vectors_ND.T)[:, rows_n]
        answers = []
        for query_D, approximate_n, exclude in zip(queries_BD, approximate_Bn, exclusions, strict=True):
            places_n: Any = slice(None)
            if exclude:
                left_out = [row for picture in exclude for row in self.rows_of_hash.get(picture, ())]
                places_n = ~np.isin(rows_n, left_out)
            answers.append(self._best(query_D, rows_n[places_n], approximate_n[places_n], k, unique))
        return answers

    def _best(
        self, query_D: Float32, rows_n: NDArray[np.int64], approximate_n: Float32, k: int, unique: bool
    ) -> list[Hit]:
        """The best of some rows, of which the float32 scores are known."""
        num, error = k, score_error(len(query_D))
        while True:
            bound, rows_K = -math.inf, rows_n
            if len(rows_n) > num:
                # A row this far below the num-th approximate score cannot be among the best num exact ones.
                floor = np.partition(approximate_n, len(rows_n) - num)[len(rows_n) - num] - 2 * error
                bound, rows_K = floor + error, rows_n[approximate_n >= floor]
            hits = self._ranked(query_D, rows_K, k, unique)
            # Items of one picture may have taken the places of others, which then lie further below.
            if len(rows_K) == len(rows_n) or (len(hits) == k and hits[-1].score >= bound):
                return hits
            num *= 4

    def _ranked(self, query_D: Float32, rows_K: NDArray[np.int64], k: int, unique: bool) -> list[Hit]:
        scores = exact_scores(self.vectors_ND[rows_K], query_D).tolist()
        best = sorted(
            zip(rows_K.tolist(), scores, strict=True), key=lambda pair: (-pair[1], self.items[pair[0]].item_id)
        )
        hits = (
            Hit(item.item_id, score, 0, item.content_hash, item.metadata)
            for row, score in best
            for item in (self.items[row],)
        )
        return ranked(first_of_pictures(hits) if unique else hits, k)


class Segment:
    """Grows at its end. One owner changes it; views of it are never touched again."""

    def __init__(self, dimension: int) -> None:
        self._items: list[GalleryItem] = []
        self._vectors_ND = np.empty((_FIRST_CAPACITY, dimension), np.float32)
        self._alive_N = np.zeros(_FIRST_CAPACITY, np.bool_)
        self._rows_of_id: dict[str, list[int]] = {}
        self._rows_of_hash: dict[str, list[int]] = {}
        self._columns = ItemColumns(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def append(self, items: Sequence[GalleryItem], vectors_MD: Float32) -> None:
        """Add items; one that is there already is replaced."""
        start, stop = len(self), len(self) + len(items)
        self._reserve(stop)
        self.drop(item.item_id for item in items)
        self._vectors_ND[start:stop] = vectors_MD
        for row, item in enumerate(items, start):
            self._items.append(item)
            self._rows_of_id.setdefault(item.item_id, []).append(row)
            self._rows_of_hash.setdefault(item.content_hash, []).append(row)
        self._alive_N[start:stop] = True

    def drop(self, item_ids: Iterable[str]) -> None:
        """Take items out; those that are not here are fine."""
        for item_id in item_ids:
            rows = self._rows_of_id.get(item_id)
            if rows:
                self._alive_N[rows[-1]] = False

    def rows(self, start: int, stop: int) -> tuple[list[GalleryItem], Float32]:
        """Items and vectors of some rows, living or not."""
        return self._items[start:stop], self._vectors_ND[start:stop]

    def view(self) -> SegmentView:
        """The segment as it is now."""
        num_rows = len(self)
        return SegmentView(
            self._items,
            self._vectors_ND[:num_rows],
            self._alive_N[:num_rows].copy(),
            self._rows_of_id,
            self._rows_of_hash,
            self._columns,
        )

    def _reserve(self, num_rows: int) -> None:
        capacity = len(self._vectors_ND)
        if num_rows <= capacity:
            return
        # Views keep the old arrays; twice the size makes the copying cheap in the long run.
        capacity = max(2 * capacity, num_rows)
        vectors_ND = np.empty((capacity, self._vectors_ND.shape[1]), np.float32)
        vectors_ND[: len(self)] = self._vectors_ND[: len(self)]
        alive_N = np.zeros(capacity, np.bool_)
        alive_N[: len(self)] = self._alive_N[: len(self)]
        self._vectors_ND, self._alive_N = vectors_ND, alive_N
