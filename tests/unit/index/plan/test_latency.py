"""The simulated fan-out against closed forms of queues and of maxima."""

from __future__ import annotations

import math

import numpy as np
import pytest
from chatsearch.index.plan.latency import idle_p95_seconds, p95_seconds, simulate


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_server_with_exponential_service_is_m_m_1(load: float) -> None:
    """Response times of M/M/1 are exponential with mean s / (1 - load)."""
    times = simulate(
        arrivals_per_second=load / 0.01,
        service_seconds=0.01,
        variation=1.0,
        num_machines=1,
        num_servers=1,
        exponential=True,
        num_searches=40_000,
        seed=3,
    )
    mean = 0.01 / (1 - load)
    assert times.mean() == pytest.approx(mean, rel=0.08)
    assert np.quantile(times, 0.95) == pytest.approx(mean * math.log(20), rel=0.1)


def test_many_servers_wait_as_erlang_c_says() -> None:
    servers, load = 4, 0.8
    offered = servers * load
    below = sum(offered**n / math.factorial(n) for n in range(servers))
    top = offered**servers / math.factorial(servers) / (1 - load)
    wait = top / (below + top) / (servers * (1 - load))  # in services
    times = simulate(
        arrivals_per_second=offered,
        service_seconds=1.0,
        variation=1.0,
        num_machines=1,
        num_servers=servers,
        exponential=True,
        num_searches=40_000,
        seed=5,
    )
    assert times.mean() == pytest.approx(1.0 + wait, rel=0.05)


@pytest.mark.parametrize("machines", [1, 4, 32])
def test_without_load_the_slowest_of_exponentials_has_the_harmonic_mean(machines: int) -> None:
    times = simulate(
        arrivals_per_second=1e-6,
        service_seconds=1.0,
        variation=1.0,
        num_machines=machines,
        num_servers=1,
        exponential=True,
        num_searches=8000,
    )
    assert times.mean() == pytest.approx(sum(1 / n for n in range(1, machines + 1)), rel=0.04)


@pytest.mark.parametrize("machines", [1, 16, 128])
def test_the_idle_bound_is_what_a_simulation_without_load_finds(machines: int) -> None:
    times = simulate(
        arrivals_per_second=1e-6,
        service_seconds=0.02,
        variation=0.4,
        num_machines=machines,
        num_servers=1,
        num_searches=8000,
    )
    assert np.quantile(times, 0.95) == pytest.approx(idle_p95_seconds(0.02, 0.4, machines), rel=0.03)


def test_draws_are_the_seed_s_and_more_work_is_never_faster() -> None:
    def times(service: float) -> np.ndarray:
        return simulate(
            arrivals_per_second=90, service_seconds=service, variation=0.3, num_machines=3, num_servers=2, seed=1
        )

    assert np.array_equal(times(0.01), times(0.01))
    assert (times(0.012) >= times(0.01)).all()


def test_servers_that_cannot_keep_up_take_forever() -> None:
    late = p95_seconds(
        arrivals_per_second=100, service_seconds=0.02, variation=0.3, num_machines=1, num_servers=2, seed=0
    )
    assert math.isinf(late)
