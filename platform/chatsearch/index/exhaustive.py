"""The best of all or of some rows by their float32 scores: FAISS' proposals where none may be missed.

Shape suffixes: P queries, K rows proposed per query, N rows of a shard, n some of them, D retrieval dimension.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from chatsearch.index.vectors import Float32, score_error

_MAX_GATHERED = 1 << 24
"""Numbers copied at a time (64 MiB)."""
_FAISS: Any = faiss
"""Its annotations are those of C++: they know neither keywords nor arrays."""


def nearest(
    vectors_ND: Float32, rows_n: NDArray[np.int64] | None, queries_PD: Float32, num: int
) -> tuple[NDArray[np.int64], Float32]:
    """The rows that score best, (P, K), and what no other row can exceed by its exact score, (P).

    Args:
        vectors_ND: unit vectors.
        rows_n: rows to choose among; None for all.
        queries_PD: unit vectors.
        num: K, as many rows as there are at most.
    """
    if rows_n is None:
        rows_PK, scores_PK = _nearest(vectors_ND, queries_PD, num)
        return rows_PK, scores_PK[:, -1] + score_error(vectors_ND.shape[1])
    parts = []
    step = max(1, _MAX_GATHERED // vectors_ND.shape[1])
    for start in range(0, len(rows_n), step):
        some_n = rows_n[start : start + step]
        places_PK, scores_PK = _nearest(vectors_ND[some_n], queries_PD, min(num, len(some_n)))
        parts.append((some_n[places_PK], scores_PK))
    rows_PK = np.concatenate([rows for rows, _ in parts], axis=1)
    scores_PK = np.concatenate([scores for _, scores in parts], axis=1)
    if len(parts) > 1:
        best_PK = np.argsort(-scores_PK, axis=1)[:, :num]
        rows_PK = np.take_along_axis(rows_PK, best_PK, axis=1)
        scores_PK = np.take_along_axis(scores_PK, best_PK, axis=1)
    return rows_PK, scores_PK[:, -1] + score_error(vectors_ND.shape[1])


def _nearest(vectors_nD: Float32, queries_PD: Float32, num: int) -> tuple[NDArray[np.int64], Float32]:
    scores_PK, places_PK = _FAISS.knn(queries_PD, vectors_nD, num, metric=faiss.METRIC_INNER_PRODUCT)
    return places_PK, scores_PK
