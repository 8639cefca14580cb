"""How long a search takes that waits for the slowest of many shards: a small simulation, seeded, and its bounds.

Searches arrive at random (Poisson). Each goes to every machine of one replica at once; a machine is a queue with several servers
(M/G/k, first come first served), a service time is lognormal; the answer is there when the last machine has answered.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

MAX_LOAD = 0.9
"""Share of its time that a server may be busy. Above it waiting grows without bound as forecasts err."""
_WARM_UP = 400
_SEARCHES = 2400


def simulate(
    *,
    arrivals_per_second: float,
    service_seconds: float,
    variation: float,
    num_machines: int,
    num_servers: int,
    seed: int = 0,
    num_searches: int = _SEARCHES,
    exponential: bool = False,
) -> np.ndarray:
    """Response times in seconds of ``num_searches`` searches after a warm-up.

    The draws depend on the seed and the shape alone, so with more of ``service_seconds`` no search is answered sooner.

    Args:
        arrivals_per_second: of the whole fan-out.
        service_seconds: mean time of one machine for one search.
        variation: standard deviation of that time over its mean.
        num_machines: how many machines every search waits for.
        num_servers: searches that a machine works on at a time.
        seed: of all draws.
        num_searches: how many are told of.
        exponential: service times are exponential, whatever ``variation``: for closed forms to be held against.
    """
    rng = np.random.default_rng(seed)
    total = num_searches + _WARM_UP
    at_Q = np.cumsum(rng.exponential(1.0, total)) / arrivals_per_second
    if exponential:
        unit_QM = rng.exponential(1.0, (total, num_machines))
    else:
        sigma = math.sqrt(math.log1p(variation**2))
        unit_QM = np.exp(sigma * rng.standard_normal((total, num_machines)) - sigma**2 / 2)
    service_QM = service_seconds * unit_QM
    free_MS = np.zeros((num_machines, num_servers))
    rows_M = np.arange(num_machines)
    answered_Q = np.empty(total)
    for search in range(total):
        soonest_M = free_MS.argmin(axis=1)
        done_M = np.maximum(free_MS[rows_M, soonest_M], at_Q[search]) + service_QM[search]
        free_MS[rows_M, soonest_M] = done_M
        answered_Q[search] = done_M.max()
    return (answered_Q - at_Q)[_WARM_UP:]


@lru_cache(maxsize=4096)
def p95_seconds(
    *,
    arrivals_per_second: float,
    service_seconds: float,
    variation: float,
    num_machines: int,
    num_servers: int,
    seed: int = 0,
) -> float:
    """95th percentile of the response time; infinite where the servers are busier than ``MAX_LOAD``.

    Never under what the search would take if nothing else ran, see :func:`idle_p95_seconds`.
    """
    if arrivals_per_second * service_seconds > MAX_LOAD * num_servers:
        return math.inf
    times = simulate(
        arrivals_per_second=arrivals_per_second,
        service_seconds=service_seconds,
        variation=variation,
        num_machines=num_machines,
        num_servers=num_servers,
        seed=seed,
    )
    return max(float(np.quantile(times, 0.95)), idle_p95_seconds(service_seconds, variation, num_machines))


def idle_p95_seconds(service_seconds: float, variation: float, num_machines: int) -> float:
    """95th percentile of the slowest of ``num_machines`` lognormal services when nothing queues, in closed form."""
    sigma = math.sqrt(math.log1p(variation**2))
    quantile = NormalDist().inv_cdf(0.95 ** (1 / num_machines))
    return service_seconds * math.exp(sigma * quantile - sigma**2 / 2)
