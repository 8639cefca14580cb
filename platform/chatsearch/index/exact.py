"""Exact search in NumPy: the yardstick of every index kind, and good enough itself for small galleries.

Shape suffixes: B queries, N gallery rows, D retrieval dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import InputError
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

    def search(self, queries_BD: NDArray[np.floating], k: int, exclude: Exclusions = ()) -> list[list[Hit]]:
        """The best ``k`` items of every query: all there are when ``k`` exceeds them.

        Raises:
            InputError: for a bad ``k``, query or exclusion list.
        """
        k = check_k(k)
        queries_BD = check_queries(queries_BD, self.dimension)
        exclusions = check_exclusions(exclude, len(queries_BD))
        return [self._search_one(query_D, k, hashes) for query_D, hashes in zip(queries_BD, exclusions, strict=True)]

    def _search_one(self, query_D: Float32, k: int, exclude: frozenset[str]) -> list[Hit]:
        scores_N = exact_scores(self._vectors_ND, query_D)
        best_N = np.lexsort((self._id_order_N, -scores_N))
        if exclude:
            best_N = best_N[[self._hashes_N[row] not in exclude for row in best_N]]
        return [
            Hit(item.item_id, float(scores_N[row]), rank, item.content_hash, item.metadata)
            for rank, row in enumerate(best_N[:k], start=1)
            for item in (self._items[row],)
        ]
