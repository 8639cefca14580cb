"""Sharded gallery search against one FAISS index in the same process: equal answers, and at what speed.

The vectors are random directions, drawn here: speed and equality do not depend on what they mean.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.gallery import GalleryIndex

from tests.benchmarks.harness import NULL_BAND, Result, median_interval, paired_speedups
from tests.benchmarks.index_filters import filters
from tests.benchmarks.index_kinds import kinds
from tests.unit.index.synthetic import write_bundle, write_store

COMMAND = "make bench ONLY=index"
NUM_SHARDS = 4
NUM_PAIRS = 9
K = 10
BATCH = 64


def measure() -> Iterator[Result]:
    """Goals I1 (throughput, batch >= 32), I2 (equality), I5 (kinds beside flat) and I7 (filters)."""
    faiss.omp_set_num_threads(2)
    yield equality(num_items=20_000, dimension=64, num_queries=10_000)
    yield throughput(num_items=100_000, dimension=256, batches_per_run=12)
    yield from kinds(COMMAND)
    yield from filters(COMMAND)


def equality(*, num_items: int, dimension: int, num_queries: int) -> Result:
    """Share of queries whose ids and order equal those of one flat index, ties by item id."""
    with _galleries(num_items, dimension) as (sharded, single, items, rng):
        queries = rng.standard_normal((num_queries, dimension)).astype(np.float32)
        equal = 0
        for start in range(0, num_queries, 500):
            batch = queries[start : start + 500]
            # More than K, so that a tie across the cut is seen whole; the tie itself is broken by id here.
            scores, rows = single.search(
                np.ascontiguousarray(batch / np.linalg.norm(batch, axis=1, keepdims=True)), 3 * K
            )
            for hits, row_scores, row_ids in zip(sharded.search(batch, K), scores, rows, strict=True):
                wanted = sorted(zip(-row_scores, (items[r] for r in row_ids), strict=True))[:K]
                equal += _same([h.item_id for h in hits], wanted)
    share = equal / num_queries
    return Result(
        "I2", "met" if share == 1.0 else "missed", share, None, "ids and order equal, 10,000 queries", COMMAND
    )


def _same(ids: list[str], wanted: list[tuple[float, str]]) -> bool:
    """Equal order, allowing for neighbours whose scores differ by less than rounding: two sums in another order."""
    place = {item: n for n, (_, item) in enumerate(wanted)}
    if any(item not in place for item in ids):
        return False
    return all(item == wanted[n][1] or abs(wanted[place[item]][0] - wanted[n][0]) < 1e-6 for n, item in enumerate(ids))


def throughput(*, num_items: int, dimension: int, batches_per_run: int) -> Result:
    """Queries a second of four in-process shards over those of one flat index, same threads, same answers."""
    goal = "sharded QPS >= 0.95x one in-process FAISS index, batch >= 32"
    with _galleries(num_items, dimension) as (sharded, single, _, rng):
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


@contextmanager
def _galleries(
    num_items: int, dimension: int
) -> Iterator[tuple[GalleryIndex, faiss.Index, list[str], np.random.Generator]]:
    """The same vectors in a sharded index and in one flat index, with the item id of each row of the latter."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((num_items, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_store(str(root / "features"), vectors)
        write_bundle(str(root / "model"), np.eye(dimension, dtype=np.float32))
        config = IndexConfig(
            features=str(root / "features"),
            model=str(root / "model"),
            output=str(root / "index"),
            num_shards=NUM_SHARDS,
        )
        sharded = GalleryIndex.open(build_index(config).uri)
        single = faiss.IndexFlatIP(dimension)
        single.add(vectors)
        try:
            yield sharded, single, [f"item-{n:04d}" for n in range(num_items)], rng
        finally:
            sharded.close()
