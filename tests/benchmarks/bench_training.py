"""What training costs beside the model's own work: goals T1, T2 and T5 to T8, some 25 minutes on two cores."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import (
    training_input,
    training_launch,
    training_packing,
    training_queue,
    training_saving,
    training_tracking,
)
from tests.benchmarks.harness import Result


def measure() -> Iterator[Result]:
    """The short ones first."""
    for part in (
        training_queue,
        training_packing,
        training_saving,
        training_tracking,
        training_input,
        training_launch,
    ):
        yield from part.measure()
