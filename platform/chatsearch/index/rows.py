"""What shards of one process found, as rows. Hits are made of those alone that are left after merging.

Shape suffixes: k hits of a query in one shard, n of it in all shards, M of all queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatsearch.index.items import ItemTable
from chatsearch.index.merge import first_of_pictures, order, ranked
from chatsearch.index.vectors import Float32
from chatsearch.types import GalleryItem, Hit


@dataclass(frozen=True, slots=True)
class BestRows:
    """Rows of a shard that a query found, score descending, then item id."""

    rows_k: NDArray[np.int64]
    scores_k: Float32

    def __len__(self) -> int:
        return len(self.rows_k)


NO_ROWS = BestRows(np.empty(0, np.int64), np.empty(0, np.float32))


def hits_of(
    tables: Sequence[ItemTable], found: Sequence[Sequence[BestRows]], k: int, *, unique: bool = False
) -> list[list[Hit]]:
    """The best ``k`` hits of every query: score descending, then item id.

    Args:
        tables: items of the shards.
        found: by shard, then by query; each holds the best ``k`` of its shard, or all there are.
        k: number of hits wanted.
        unique: one hit of each picture.
    """
    kept = [_best(of_query, None if unique else k) for of_query in zip(*found, strict=True)]
    items = iter(_items(tables, np.concatenate([of_query[:2] for of_query in kept], axis=1))) if kept else iter(())
    return [_hits(scores_n, [next(items) for _ in scores_n], k, unique) for _, _, scores_n in kept]


_Kept = tuple[NDArray[np.int64], NDArray[np.int64], Float32]
"""Shard, row and score of each."""


def _best(of_query: Sequence[BestRows], k: int | None) -> _Kept:
    """Score descending. Those that score as high as the last of the best ``k`` stay too: item ids decide among them."""
    shards_n = np.repeat(np.arange(len(of_query)), [len(part) for part in of_query])
    rows_n = np.concatenate([part.rows_k for part in of_query])
    scores_n = np.concatenate([part.scores_k for part in of_query])
    if len(of_query) > 1:
        best_n = np.argsort(-scores_n, kind="stable")
        if k is not None and k < len(best_n):
            best_n = best_n[: np.count_nonzero(scores_n >= scores_n[best_n[k - 1]])]
        shards_n, rows_n, scores_n = shards_n[best_n], rows_n[best_n], scores_n[best_n]
    return shards_n, rows_n, scores_n


def _items(tables: Sequence[ItemTable], places_2M: NDArray[np.int64]) -> list[GalleryItem]:
    """The items in rows of shards; each table is asked once."""
    shards_M, rows_M = places_2M
    items = np.empty(len(rows_M), object)
    for shard, table in enumerate(tables):
        of_shard_M = shards_M == shard
        if of_shard_M.any():
            items[of_shard_M] = table.items(rows_M[of_shard_M])
    return items.tolist()


def _hits(scores_n: Float32, items: Sequence[GalleryItem], k: int, unique: bool) -> list[Hit]:
    hits = [
        Hit(item.item_id, score, rank, item.content_hash, item.metadata)
        for rank, (score, item) in enumerate(zip(scores_n.tolist(), items, strict=True), start=1)
    ]
    if np.any(scores_n[1:] == scores_n[:-1]):
        hits.sort(key=order)
    return ranked(first_of_pictures(hits) if unique else hits, k)
