from __future__ import annotations

import numpy as np
import pytest
from chatsearch.data.plan import StepPlan, permutation, rank_slice
from chatsearch.errors import ConfigError
from hypothesis import given, settings
from hypothesis import strategies as st

STREAMS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=3).map(tuple)


@given(st.integers(0, 99), STREAMS, st.integers(0, 50), st.integers(1, 7))
@settings(deadline=None)
def test_ranks_share_every_stream_evenly_and_together_hold_the_step(
    seed: int, streams, step: int, world_size: int
) -> None:
    samples = StepPlan(seed, streams).step(step)
    assert [s.ordinal for s in samples] == list(range(len(samples)))
    shares = [rank_slice(samples, rank, world_size) for rank in range(world_size)]
    assert sorted((s for share in shares for s in share), key=lambda s: s.ordinal) == samples
    assert all([s.ordinal for s in share] == sorted(s.ordinal for s in share) for share in shares)
    for stream in (None, *range(len(streams))):
        sizes = [sum(stream in (None, s.stream) for s in share) for share in shares]
        assert max(sizes) - min(sizes) <= 1, stream


@given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 9))
@settings(deadline=None)
def test_every_epoch_holds_every_document_once(seed: int, num_documents: int, per_step: int) -> None:
    plan = StepPlan(seed, ((num_documents, per_step),))
    num_steps = 3 * num_documents // per_step + 1
    drawn = [s for step in range(num_steps) for s in plan.step(step)]
    for epoch in range(3):
        documents = sorted(s.document for s in drawn if s.epoch == epoch)
        if len(documents) == num_documents:
            assert documents == list(range(num_documents))
    assert sum(1 for s in drawn if s.epoch == 0) == min(num_documents, len(drawn))


def test_a_resumed_run_sees_what_the_unbroken_one_saw() -> None:
    streams = ((1000, 7), (13, 2))
    unbroken = [StepPlan(5, streams).step(s) for s in range(40)]
    permutation.cache_clear()
    assert [StepPlan(5, streams).step(s) for s in range(23, 40)] == unbroken[23:]


def test_epochs_and_streams_are_shuffled_apart() -> None:
    orders = [permutation(0, stream, epoch, 100).tolist() for stream in (0, 1) for epoch in (0, 1)]
    assert len({tuple(o) for o in orders}) == 4


def test_the_order_is_pinned() -> None:
    """A change here changes every run that is resumed: it must be deliberate."""
    assert permutation(7, 0, 0, 8).tolist() == [0, 4, 3, 1, 5, 2, 7, 6]
    assert np.bincount(permutation(3, 1, 4, 5000)).tolist() == [1] * 5000


def test_empty_streams_are_refused() -> None:
    with pytest.raises(ConfigError, match="Stream 0 holds 0 documents"):
        StepPlan(0, ((0, 4),))
    with pytest.raises(ConfigError, match="at least one stream"):
        StepPlan(0, ())
