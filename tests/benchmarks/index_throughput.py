"""Goal I1, batch >= 32: four in-process shards beside one flat index, same threads, same answers."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import faiss
import numpy as np

from tests.benchmarks.harness import NULL_BAND, Result, median_interval, paired_speedups
from tests.benchmarks.index_galleries import COMMAND, galleries

NUM_SHARDS = 4
NUM_PAIRS = 9
K = 10
BATCH = 64


def measure() -> Iterator[Result]:
    """I1."""
    faiss.omp_set_num_threads(2)
    yield _throughput(num_items=100_000, dimension=256, batches_per_run=12)


def _throughput(*, num_items: int, dimension: int, batches_per_run: int) -> Result:
    """Queries a second of four in-process shards over those of one flat index, same threads, same answers."""
    goal = "sharded QPS >= 0.95x one in-process FAISS index, batch >= 32"
    with galleries(num_items, dimension, NUM_SHARDS) as (sharded, single, _, rng):
        queries = rng.standard_normal((BATCH, dimension)).astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)

        def ours() -> None:
            for _ in range(batches_per_run):
                sharded.search(queries, K)

        def theirs() -> None:
            for _ in range(batches_per_run):
                single.search(queries, K)

        null = statistics.median(paired_speedups(theirs, theirs, NUM_PAIRS))
        ratios = paired_speedups(ours, theirs, NUM_PAIRS)
    interval = median_interval(ratios)
    if not NULL_BAND[0] <= null <= NULL_BAND[1]:
        return Result("I1", "void", None, None, f"{goal} (null test {null:.3f})", COMMAND, runs=tuple(ratios))
    status = "met" if interval[0] >= 0.95 else "missed"
    return Result("I1", status, statistics.median(ratios), interval, goal, COMMAND, runs=tuple(ratios))
