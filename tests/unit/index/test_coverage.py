"""Partial answers: what was searched is told exactly, and too little is refused by name."""

from __future__ import annotations

import pytest
from chatsearch.errors import FingerprintMismatchError, OverloadedError
from chatsearch.index.coverage import merge_covered
from chatsearch.index.merge import ShardHits
from chatsearch.types import Hit
from hypothesis import given
from hypothesis import strategies as st

SCORES = st.lists(st.floats(-1, 1, width=32), max_size=6)


@given(
    shards=st.lists(st.tuples(SCORES, st.booleans(), st.integers(0, 50)), min_size=1, max_size=6),
    k=st.integers(1, 8),
    min_coverage=st.floats(0.01, 1.0),
)
def test_an_answer_is_that_of_the_shards_that_came_or_refused(shards, k: int, min_coverage: float) -> None:
    results, missing = [], {}
    for number, (scores, came, _) in enumerate(shards):
        hits = [Hit(f"{number}-{n}", score, n + 1, "h") for n, score in enumerate(sorted(scores, reverse=True))]
        if came:
            results.append(ShardHits("v", number, (tuple(hits),)))
        else:
            missing[number] = "away"
    sizes = [size for _, _, size in shards]
    covered = 1 - sum(sizes[n] for n in missing) / sum(sizes) if sum(sizes) else 1.0
    if covered < min_coverage or not results:
        with pytest.raises(OverloadedError, match=f"{len(missing)} of {len(shards)} shards did not answer"):
            merge_covered(results, missing, sizes, k, min_coverage=min_coverage)
        return
    found = merge_covered(results, missing, sizes, k, min_coverage=min_coverage)
    assert found.coverage == covered
    assert found.missing == tuple(sorted(missing))
    everything = sorted((-hit.score, hit.item_id) for result in results for hit in result.queries[0])
    assert [(-hit.score, hit.item_id) for hit in found.hits[0]] == everything[:k]


def test_a_missing_shard_without_items_is_missed_by_nobody() -> None:
    found = merge_covered([ShardHits("v", 0, ((),))], {1: "away"}, [10, 0], 3, min_coverage=1.0)
    assert (found.coverage, found.missing) == (1.0, (1,))


def test_versions_are_never_mixed() -> None:
    with pytest.raises(FingerprintMismatchError, match="a, b"):
        merge_covered([ShardHits("a", 0, ((),)), ShardHits("b", 1, ((),))], {}, [1, 1], 3, min_coverage=0.5)
