"""What shards of one process found, as rows. Hits are made of those alone that are left after merging.

Shape suffixes: B queries, k hits of a query in one shard, P some of the queries, n hits of a query in all shards, M hits of all queries.
"""

from __future__ import annotations

import itertools
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
    """Rows of a shard that queries found, score descending, then item id; minus infinity is the score of those after the last."""

    rows_Bk: NDArray[np.int64]
    scores_Bk: Float32

    @classmethod
    def none(cls, num_queries: int, k: int) -> BestRows:
        """Room for answers."""
        return cls(np.zeros((num_queries, k), np.int64), np.full((num_queries, k), -np.inf, np.float32))

    def put(self, queries_P: NDArray[np.int64], rows_PK: NDArray[np.int64], scores_PK: Float32) -> None:
        """Set what some queries found, the best first."""
        k = min(rows_PK.shape[-1], self.rows_Bk.shape[1])
        self.rows_Bk[queries_P, :k] = rows_PK[..., :k]
        self.scores_Bk[queries_P, :k] = scores_PK[..., :k]
        self.scores_Bk[queries_P, k:] = -np.inf

    def lack(self, k: int, queries_P: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some queries have fewer than ``k`` hits."""
        if self.scores_Bk.shape[1] < k:
            return np.ones(len(queries_P), np.bool_)
        return self.scores_Bk[queries_P, k - 1] == -np.inf


def hits_of(tables: Sequence[ItemTable], found: Sequence[BestRows], k: int, *, unique: bool = False) -> list[list[Hit]]:
    """The best ``k`` hits of every query: score descending, then item id.

    Args:
        tables: items of the shards.
        found: by shard; each holds the best ``k`` of every query in its shard, or all there are.
        k: number of hits wanted.
        unique: one hit of each picture.
    """
    if len(found) == 1:
        scores_Bn = found[0].scores_Bk
        kept_Bn = scores_Bn > -np.inf
        held = tables[0].items(found[0].rows_Bk[kept_Bn])
    else:
        scores_Bn, kept_Bn, shards_M, rows_M = _merged(found, None if unique else k)
        held = _items(tables, shards_M, rows_M)
    items, scores = iter(held), iter(scores_Bn[kept_Bn].tolist())
    counts = np.count_nonzero(kept_Bn, axis=1).tolist()
    return [_hits([(next(scores), next(items)) for _ in range(count)], k, unique) for count in counts]


def _merged(
    found: Sequence[BestRows], k: int | None
) -> tuple[Float32, NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Scores in descending order, (B, n); which of them count, (B, n); shards and rows of these, (M,) each."""
    shards_n = np.repeat(np.arange(len(found)), [part.rows_Bk.shape[1] for part in found])
    rows_Bn = np.concatenate([part.rows_Bk for part in found], axis=1)
    scores_Bn = np.concatenate([part.scores_Bk for part in found], axis=1)
    best_Bn = np.argsort(-scores_Bn, axis=1, kind="stable")
    places_B1 = np.arange(len(best_Bn))[:, None]
    scores_Bn = scores_Bn[places_B1, best_Bn]
    kept_Bn = scores_Bn > -np.inf
    if k is not None and k < scores_Bn.shape[1]:
        # Those that score as high as the last of the best k stay too: item ids decide among them.
        kept_Bn &= scores_Bn >= scores_Bn[:, k - 1 : k]
    return scores_Bn, kept_Bn, shards_n[best_Bn[kept_Bn]], rows_Bn[places_B1, best_Bn][kept_Bn]


def _items(tables: Sequence[ItemTable], shards_M: NDArray[np.int64], rows_M: NDArray[np.int64]) -> list[GalleryItem]:
    """The items in rows of shards; each table is asked once."""
    items = np.empty(len(rows_M), object)
    for shard, table in enumerate(tables):
        of_shard_M = shards_M == shard
        if of_shard_M.any():
            items[of_shard_M] = table.items(rows_M[of_shard_M])
    return items.tolist()


def _hits(found: Sequence[tuple[float, GalleryItem]], k: int, unique: bool) -> list[Hit]:
    hits = [
        Hit(item.item_id, score, rank, item.content_hash, item.metadata)
        for rank, (score, item) in enumerate(found, start=1)
    ]
    if any(first.score == second.score for first, second in itertools.pairwise(hits)):
        hits.sort(key=order)
    elif not unique and len(hits) <= k:
        return hits
    return ranked(first_of_pictures(hits) if unique else hits, k)
