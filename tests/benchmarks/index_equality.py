"""Goal I2: a sharded gallery answers as one flat index does, ids and order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.benchmarks.harness import Result
from tests.benchmarks.index_galleries import COMMAND, galleries

NUM_SHARDS = 4
K = 10


def measure() -> Iterator[Result]:
    """I2."""
    yield _equality(num_items=20_000, dimension=64, num_queries=10_000)


def _equality(*, num_items: int, dimension: int, num_queries: int) -> Result:
    """Share of queries whose ids and order equal those of one flat index, ties by item id."""
    with galleries(num_items, dimension, NUM_SHARDS) as (sharded, single, items, rng):
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
