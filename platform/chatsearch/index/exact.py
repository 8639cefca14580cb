"""Exact search in NumPy: the yardstick of every index kind, and good enough itself for small galleries.

Shape suffixes: B queries, N gallery rows, n those that a filter leaves, D retrieval dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import InputError
from chatsearch.index.filters import Filter, check_fields
from chatsearch.index.vectors import (
    Exclusions,
    Float32,
    check_exclusions,
    check_k,
    check_queries,
    exact_scores,
    unit_rows,
)
from chatsearch.types import GalleryItem, Hit


class ExactIndex:
    """All items scored for every query. Same contract as :class:`chatsearch.index.gallery.GalleryIndex`."""

    def __init__(self, items: Sequence[GalleryItem], vectors_ND: NDArray[np.floating]) -> None:
        if len(items) != len(vectors_ND):
            raise InputError(f"{len(items)} items but {len(vectors_ND)} vectors; give one vector per item.")
        self._items = list(items)
        self._vectors_ND = unit_rows(vectors_ND).astype(np.float64)
        self._item_ids_N = np.array([item.item_id for item in items], dtype=object)
        self._fields = frozenset().union(*(item.metadata for item in items))
        self._hashes_N = np.array([item.content_hash for item in items], dtype=object)
        # argsort of argsort: the place of each item in id order, so that ties sort by a number.
        self._id_order_N = np.argsort(np.argsort(self._item_ids_N))

    @property
    def dimension(self) -> int:
        """Width of a query."""
        return self._vectors_ND.shape[1]

    @property
    def num_items(self) -> int:
        """Items that can be found."""
        return len(self._items)

    def scores(self, queries_BD: NDArray[np.floating]) -> Float32:
        """Exact score of every item for every query, (B, N), columns in the order the items were given."""
        queries_BD = check_queries(queries_BD, self.dimension)
        if len(queries_BD) == 0:
            return np.empty((0, self.num_items), np.float32)
        return np.stack([exact_scores(self._vectors_ND, query_D) for query_D in queries_BD])

    def search(
        self,
        queries_BD: NDArray[np.floating],
        k: int,
        exclude: Exclusions = (),
        *,
        filter: Filter | None = None,
        unique: bool = False,
    ) -> list[list[Hit]]:
        """See :meth:`chatsearch.index.gallery.GalleryIndex.search`; the filter is asked of one item after the other.

        Raises:
            InputError: for a bad ``k``, query, exclusion list or filter.
        """
        k = check_k(k)
        queries_BD = check_queries(queries_BD, self.dimension)
        exclusions = check_exclusions(exclude, len(queries_BD))
        check_fields(filter, self._fields)
        rows_n = np.arange(self.num_items)
        if filter is not None:
            rows_n = rows_n[[filter.matches(item.metadata) for item in self._items]]
        return [
            self._search_one(query_D, k, hashes, rows_n, unique)
            for query_D, hashes in zip(queries_BD, exclusions, strict=True)
        ]

    def _search_one(
        self, query_D: Float32, k: int, exclude: frozenset[str], rows_n: NDArray[np.int64], unique: bool
    ) -> list[Hit]:
        scores_N = exact_scores(self._vectors_ND, query_D)
        best_n = rows_n[np.lexsort((self._id_order_N[rows_n], -scores_N[rows_n]))]
        if exclude:
            best_n = best_n[[self._hashes_N[row] not in exclude for row in best_n]]
        if unique:
            _, first = np.unique(self._hashes_N[best_n].astype(str), return_index=True)
            best_n = best_n[np.sort(first)]
        return [
            Hit(item.item_id, float(scores_N[row]), rank, item.content_hash, item.metadata)
            for rank, row in enumerate(best_n[:k], start=1)
            for item in (self._items[row],)
        ]
