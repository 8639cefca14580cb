"""Unit vectors and exact scores: the arithmetic that every searcher of this package shares.

Shape suffixes: B queries, N gallery rows, K candidates of a query, D retrieval dimension.

A score is the inner product of two float32 unit vectors, summed in float64 and rounded once to float32. Products of float32
numbers are exact in float64 and each row is summed on its own, so a score depends on the two vectors alone: not on the batch, the
shard or the machine's BLAS. Equal vectors therefore tie exactly and the item id decides, whoever searches.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import InputError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

Exclusions = Sequence[Collection[str]]
"""Content hashes to leave out, one collection per query; an empty sequence leaves out nothing."""

MAX_K = 100_000
"""Most hits one query may ask for."""


def unit_rows(rows_ND: NDArray[np.floating]) -> Float32:
    """Each row divided by its length, contiguous float32.

    A zero or non-finite row becomes NaN or stays so: callers check what they were given.
    """
    rows_ND = np.ascontiguousarray(rows_ND, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit_ND = rows_ND / np.sqrt((rows_ND * rows_ND).sum(axis=-1, keepdims=True))
    return unit_ND.astype(np.float32)


def exact_scores(rows_KD: NDArray[np.floating], query_D: NDArray[np.floating]) -> Float32:
    """Exact scores of the rows, last axis D; both arguments broadcast against each other over the axes before it."""
    # Widened as they are multiplied: copies of both in float64 took ten times as long for a batch.
    products = np.multiply(rows_KD, query_D, dtype=np.float64)
    return np.ascontiguousarray(products).sum(axis=-1).astype(np.float32)


def score_error(dimension: int) -> float:
    """Bound on |float32 inner product of two unit vectors, summed in any order, - exact score|.

    Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: gamma_n = n u / (1 - n u), with u = 2^-24; one more
    rounding for the exact score itself, and unit lengths hold to a few u.
    """
    n_u = (dimension + 8) * 2.0**-24
    return n_u / (1.0 - n_u)


def check_queries(queries_BD: NDArray[np.floating], dimension: int) -> Float32:
    """Queries as contiguous unit float32 rows.

    Raises:
        InputError: for another shape or dimension, for NaN or infinite values and for a zero query, naming the query.
    """
    try:
        queries_BD = np.asarray(queries_BD, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"Queries must be an array of numbers of shape (queries, {dimension}): {error}.") from error
    if queries_BD.ndim != 2 or queries_BD.shape[1] != dimension:
        raise InputError(
            f"Queries have shape {queries_BD.shape}; this index takes (queries, {dimension}). "
            "Use the query embeddings of the model that the index was built with, one a row; a single one is query[None]."
        )
    finite_B = np.isfinite(queries_BD).all(axis=1)
    if not finite_B.all():
        row = int(np.flatnonzero(~finite_B)[0])
        column = int(np.flatnonzero(~np.isfinite(queries_BD[row]))[0])
        raise InputError(
            f"Query {row} holds {queries_BD[row, column]} at position {column}; all values must be finite. "
            "Check the model that made it."
        )
    unit_BD = unit_rows(queries_BD)
    zero_B = ~np.isfinite(unit_BD).all(axis=1)
    if zero_B.any():
        raise InputError(f"Query {int(np.flatnonzero(zero_B)[0])} has length 0, so it has no direction to search in.")
    return unit_BD


def check_k(k: int) -> int:
    """``k`` itself.

    Raises:
        InputError: if it is not a whole number from 1 to ``MAX_K``.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= MAX_K:
        raise InputError(f"k is {k!r}; ask for a whole number of hits from 1 to {MAX_K}.")
    return int(k)


def check_exclusions(exclude: Exclusions, num_queries: int) -> list[frozenset[str]]:
    """One set of content hashes per query.

    Raises:
        InputError: if there is neither nothing nor one collection per query, or a collection is a bare string.
    """
    if len(exclude) == 0:
        return [frozenset()] * num_queries
    if len(exclude) != num_queries:
        raise InputError(
            f"{len(exclude)} exclusion lists for {num_queries} queries; give one collection of content hashes per query, or none."
        )
    for position, hashes in enumerate(exclude):
        if isinstance(hashes, str):
            raise InputError(
                f"Exclusions of query {position} are the string {hashes[:16]!r}; give a collection of content hashes."
            )
    return [frozenset(hashes) for hashes in exclude]
