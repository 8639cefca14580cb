"""The gallery index: equal answers, speed, kinds beside each other and beside other engines. Goals I1 to I7 and R10."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import (
    index_auto,
    index_equality,
    index_filters,
    index_folded,
    index_kinds,
    index_latency,
    index_peers,
    index_scan,
    index_throughput,
)
from tests.benchmarks.harness import Result


def measure() -> Iterator[Result]:
    """The short ones first."""
    for part in (
        index_equality,
        index_throughput,
        index_scan,
        index_latency,
        index_kinds,
        index_filters,
        index_folded,
        index_peers,
        index_auto,
    ):
        yield from part.measure()
