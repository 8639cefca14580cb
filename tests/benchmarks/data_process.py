"""A loader in a process tree of its own, which reads while it is measured and stands still while others are."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks.process import PausedProcess


class Reader(PausedProcess):
    """One loader, whose module calls :func:`serve`. A turn reads a number of samples."""

    def rate(self, num_samples: int) -> float:
        """Samples a second over one turn."""
        self.begin(num_samples)
        return self.end()

    def begin(self, num_samples: int) -> None:
        """Let it read so many samples."""
        self.tell(num_samples)

    def end(self) -> float:
        """Wait for the turn's end. Returns samples a second."""
        answer = self.answer()
        return float(answer["samples"] / answer["seconds"])


def serve(batches: Iterator[int], facts: Mapping[str, Any]) -> None:
    """Answer turns with batches, each given as its number of samples, until the parent closes the pipe.

    The first batch is read before it says that it is ready.
    """
    next(batches)
    print(json.dumps(dict(facts)), flush=True)
    for line in sys.stdin:
        wanted, taken, begin = int(line), 0, time.perf_counter()
        while taken < wanted:
            taken += next(batches)
        print(json.dumps({"samples": taken, "seconds": time.perf_counter() - begin}), flush=True)
