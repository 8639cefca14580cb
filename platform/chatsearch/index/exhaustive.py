"""The best of all or of some rows by their float32 scores: FAISS' proposals where none may be missed.

Shape suffixes: P queries, K rows proposed per query, N rows of a shard, n selected ones, D retrieval dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from chatsearch.index.selection import Selection
from chatsearch.index.vectors import Float32, score_error

_FAISS: Any = faiss
"""Its annotations are those of C++: they know neither keywords nor arrays."""
_LATE_BLAS, _BLAS_FROM = 128_000, 1536
"""Numbers of all queries of a batch (P times D) from which FAISS 1.15 multiplies matrices instead of scanning the rows for each query, and
from which it does here: for 64 queries of 256 numbers the product takes a ninth of the scans' time, for one or two it takes twice as
long. Other versions count queries, and start at 20."""
if _FAISS.cvar.distance_compute_blas_threshold == _LATE_BLAS:
    _FAISS.cvar.distance_compute_blas_threshold = _BLAS_FROM


def nearest(
    vectors_ND: Float32, selected: Selection | None, queries_PD: Float32, num: int
) -> tuple[NDArray[np.int64], Float32]:
    """The rows that score best, (P, K), and what no other row can exceed by its exact score, (P).

    Args:
        vectors_ND: unit vectors.
        selected: rows to choose among; None for all.
        queries_PD: unit vectors.
        num: K, as many rows as there are at most.
    """
    if selected is None:
        rows_PK, scores_PK = _nearest(vectors_ND, queries_PD, num)
        return rows_PK, scores_PK[:, -1] + score_error(vectors_ND.shape[1])
    parts = []
    for rows_n, vectors_nD in selected.blocks():
        places_PK, scores_PK = _nearest(vectors_nD, queries_PD, min(num, len(rows_n)))
        parts.append((rows_n[places_PK], scores_PK))
    rows_PK = np.concatenate([rows for rows, _ in parts], axis=1)
    scores_PK = np.concatenate([scores for _, scores in parts], axis=1)
    if len(parts) > 1:
        best_PK = np.argsort(-scores_PK, axis=1)[:, :num]
        rows_PK = np.take_along_axis(rows_PK, best_PK, axis=1)
        scores_PK = np.take_along_axis(scores_PK, best_PK, axis=1)
    return rows_PK, scores_PK[:, -1] + score_error(vectors_ND.shape[1])


def limit_threads(num: int) -> None:
    """Let FAISS take so many threads for what the calling thread asks of it; other threads keep their own limit."""
    faiss.omp_set_num_threads(num)


@contextmanager
def limited_threads(num: int) -> Iterator[None]:
    """The same for a stretch of work."""
    held = faiss.omp_get_max_threads()
    limit_threads(num)
    try:
        yield
    finally:
        limit_threads(held)


def _nearest(vectors_nD: Float32, queries_PD: Float32, num: int) -> tuple[NDArray[np.int64], Float32]:
    # A thread a query: FAISS 1.15 spreads a single query over several, which takes it three times as long as one.
    with limited_threads(min(len(queries_PD), faiss.omp_get_max_threads())):
        scores_PK, places_PK = _FAISS.knn(queries_PD, vectors_nD, num, metric=faiss.METRIC_INNER_PRODUCT)
    return places_PK, scores_PK
