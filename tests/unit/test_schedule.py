from __future__ import annotations

import math

import pytest
from chatsearch.schedule import learning_rate
from hypothesis import given
from hypothesis import strategies as st


def rates(peak: float, warmup: int, total: int) -> list[float]:
    return [learning_rate(s, peak=peak, warmup_steps=warmup, total_steps=total) for s in range(total)]


def test_the_paper_shape_linear_up_then_half_a_cosine_to_zero() -> None:
    values = rates(2e-5, 6000, 200_000)
    assert values[0] == pytest.approx(2e-5 / 6000)
    assert values[2999] == pytest.approx(1e-5)
    assert values[5999] == values[6000] == 2e-5
    assert values[6000 + 97_000] == pytest.approx(1e-5)  # half way down
    assert values[-1] == pytest.approx(2e-5 * 0.5 * (1 - math.cos(math.pi / 194_000)), rel=1e-3)


@given(warmup=st.integers(0, 40), rest=st.integers(1, 60), peak=st.floats(1e-6, 1.0))
def test_it_rises_then_falls_is_never_zero_and_never_above_the_peak(warmup: int, rest: int, peak: float) -> None:
    values = rates(peak, warmup, warmup + rest)
    top = max(warmup - 1, 0)
    assert values[top] == pytest.approx(peak)
    assert all(0 < value <= peak * (1 + 1e-12) for value in values)
    assert values[: top + 1] == sorted(values[: top + 1])
    assert values[top:] == sorted(values[top:], reverse=True)


def test_a_run_of_warm_up_alone_ends_at_the_peak() -> None:
    assert rates(1.0, 4, 4) == [0.25, 0.5, 0.75, 1.0]
