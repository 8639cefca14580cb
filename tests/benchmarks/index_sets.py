"""Sets of vectors that engines are compared on, with held-out queries and their true neighbours.

Two are synthetic and called so. The others are features projected with a trained model, where the environment names them:
``BENCH_FEATURES`` and ``BENCH_MODEL`` (scenes), ``BENCH_PHOTO_FEATURES`` and ``BENCH_PHOTO_MODEL`` (photographs), each with
``..._QUERIES_FILE``, a file of query vectors (.npy) that the model made; without it rows of the gallery are held out as queries.

Shape suffixes: N vectors, Q queries, K found rows, D dimension.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from chatsearch.index.features import FeatureStore
from chatsearch.index.projection import Projection
from chatsearch.index.vectors import Float32, exact_scores, unit_rows

from tests.benchmarks.index_kinds import NUM_CENTRES, SPREAD, around, unit
from tests.benchmarks.peers.engine import K

QUERY_SPREAD = 1.0
"""Length of a query's deviation from its centre of length 1."""
QUERY_OFFSET = 0.5
"""Length of what all queries have in common and no vector has: queries come from another model half than the vectors."""
NUM_QUERIES = int(os.environ.get("BENCH_QUERIES", "500"))
_TIE = 1e-6
"""Scores of rows so near to the last of the best count as ties with it."""


@dataclass(frozen=True)
class VectorSet:
    """Vectors and queries in files that any process can read."""

    name: str
    what: str
    """In words, for the table."""
    vectors: Path
    queries: Path

    @cached_property
    def digest(self) -> str:
        """What the vectors are."""
        return hashlib.sha256(np.load(self.vectors, mmap_mode="r")).hexdigest()[:16]

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        num_vectors, dimension = np.load(self.vectors, mmap_mode="r").shape
        return num_vectors, dimension

    @property
    def num_queries(self) -> int:
        """Q."""
        return len(self._queries_QD)

    @cached_property
    def _vectors_ND(self) -> Float32:
        return np.asarray(np.load(self.vectors, mmap_mode="r"))

    @cached_property
    def _queries_QD(self) -> Float32:
        return np.asarray(np.load(self.queries))

    @cached_property
    def _least_Q(self) -> Float32:
        """Score of the last of each query's K best."""
        return kth_scores(self._vectors_ND, self._queries_QD)

    def recall(self, rows: Sequence[Sequence[int]]) -> float:
        """Share of the K best that was found, the mean over the first queries. A row that ties with the K-th best counts."""
        return recall(self._vectors_ND, self._queries_QD, self._least_Q, rows)


def kth_scores(vectors_ND: Float32, queries_QD: Float32, block: int = 50_000) -> Float32:
    """Inner product of each query with its K-th best row, (Q,)."""
    best_QK = np.full((len(queries_QD), K), -np.inf, np.float32)
    for start in range(0, len(vectors_ND), block):
        scores_QN = queries_QD @ vectors_ND[start : start + block].T
        best_QK = np.sort(np.concatenate([best_QK, scores_QN], axis=1), axis=1)[:, -K:]
    return best_QK[:, 0]


def recall(vectors_ND: Float32, queries_QD: Float32, least_Q: Float32, rows: Sequence[Sequence[int]]) -> float:
    """See :meth:`VectorSet.recall`. Rows found twice count once."""
    shares = []
    for query_D, least, found in zip(queries_QD, least_Q, rows, strict=False):
        rows_K = np.unique(np.array([row for row in found if row >= 0][:K], dtype=np.int64))
        shares.append(np.count_nonzero(exact_scores(vectors_ND[rows_K], query_D) >= least - _TIE) / K)
    return float(np.mean(shares))


def synthetic(name: str, folder: Path, num_vectors: int, dimension: int) -> VectorSet:
    """Clusters, kept from one run to the next; queries are drawn around the same centres, further off and to one side."""
    what = (
        f"synthetic: {num_vectors:,} x {dimension}, {NUM_CENTRES:,} centres, spread {SPREAD}; {NUM_QUERIES} queries out of "
        f"distribution, spread {QUERY_SPREAD}, common offset {QUERY_OFFSET}"
    )
    kept = folder / hashlib.sha256(what.encode()).hexdigest()[:16]
    if not kept.with_suffix(".queries.npy").exists():
        rng = np.random.default_rng(0)
        centres_CD = unit(rng.standard_normal((NUM_CENTRES, dimension)))
        vectors_ND = around(centres_CD, num_vectors, rng)
        aside_D = unit(rng.standard_normal((1, dimension)))
        queries_QD = unit(around(centres_CD, NUM_QUERIES, rng, QUERY_SPREAD) + QUERY_OFFSET * aside_D)
        return _keep(name, what, kept, vectors_ND, queries_QD)
    return VectorSet(name, what, kept.with_suffix(".npy"), kept.with_suffix(".queries.npy"))


def projected(name: str, folder: Path, prefix: str) -> VectorSet | str:
    """Features as a model projects them, or which variables are not set."""
    features, model = os.environ.get(f"{prefix}FEATURES", ""), os.environ.get(f"{prefix}MODEL", "")
    if not (features and model):
        return f"set {prefix}FEATURES to a feature store and {prefix}MODEL to the bundle whose M_Q projects it"
    store, projection = FeatureStore.open(features), Projection.open(model)
    projection.check(store)
    vectors_ND = projection.apply(store.matrix_ND)
    given = os.environ.get(f"{prefix}QUERIES_FILE", "")
    if given:
        queries_QD = unit_rows(np.load(given))[:NUM_QUERIES]
        asked = f"{len(queries_QD)} query vectors of the model"
    else:
        order = np.random.default_rng(0).permutation(len(vectors_ND))
        held_out = order[: min(NUM_QUERIES, len(order) // 10)]
        queries_QD, vectors_ND = vectors_ND[held_out], np.delete(vectors_ND, held_out, axis=0)
        asked = f"{len(queries_QD)} rows of the gallery, held out, as queries"
    what = f"{name}: {len(vectors_ND):,} x {vectors_ND.shape[1]}, features {store.fingerprint} through M_Q {projection.mq_fingerprint}; {asked}"
    kept = folder / hashlib.sha256(f"{what}{given}".encode()).hexdigest()[:16]
    return _keep(name, what, kept, vectors_ND, queries_QD)


def _keep(name: str, what: str, kept: Path, vectors_ND: Float32, queries_QD: Float32) -> VectorSet:
    kept.parent.mkdir(parents=True, exist_ok=True)
    held = VectorSet(name, what, kept.with_suffix(".npy"), kept.with_suffix(".queries.npy"))
    np.save(held.vectors, vectors_ND)
    np.save(held.queries, queries_QD)
    return held
