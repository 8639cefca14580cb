"""One engine behind a pipe, the same for every side: it builds an index over a file of vectors, or answers queries from one.

It is told what to do as JSON on the command line. Queries are asked one at a time, in one thread on one core; what the
engine gives is turned into row numbers after the clock has stopped.

Shape suffixes: N vectors, Q queries, D dimension.
"""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from chatsearch.index.vectors import Float32

K = 10
Parameters = Mapping[str, int]
Ask = Callable[[Float32], Any]
"""One query, (1, D), to what the engine finds."""


class Engine(ABC):
    """An index in a folder. Vectors are unit float32 rows, compared by inner product, and named by their row numbers."""

    version: str
    """Of the library."""

    @abstractmethod
    def build(self, vectors_ND: Float32, folder: Path, parameters: Parameters) -> float:
        """Build into a new folder. Returns the seconds that it took, without reading its input."""

    @abstractmethod
    def open(self, folder: Path) -> None:
        """Load what was built."""

    @abstractmethod
    def asker(self, parameters: Parameters) -> Ask:
        """A search for the best K with these parameters."""

    @abstractmethod
    def rows(self, found: Any) -> list[int]:
        """Row numbers of what an :data:`Ask` gave."""

    def facts(self) -> dict[str, Any]:
        """What a reader needs beside the numbers."""
        return {"version": self.version}


def num_cores() -> int:
    """Cores that a build may use."""
    return len(os.sched_getaffinity(0))


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main(engine: Engine) -> None:
    """Build, or answer turns until the parent closes the pipe."""
    told = json.loads(sys.argv[1])
    folder = Path(told["folder"])
    if told["do"] == "build":
        took = engine.build(np.load(told["vectors"]), folder, told["parameters"])
        print(json.dumps({"seconds": took}))
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # threads that a library starts share one core
    engine.open(folder)
    queries_QD = np.load(told["queries"])
    print(json.dumps(engine.facts()), flush=True)
    for line in sys.stdin:
        print(json.dumps(_turn(engine, queries_QD, json.loads(line))), flush=True)


def _turn(engine: Engine, queries_QD: Float32, turn: Mapping[str, Any]) -> dict[str, Any]:
    ask = engine.asker(turn["parameters"])
    asked = [queries_QD[number : number + 1] for number in range(len(queries_QD))]
    asked = list(islice(_again_and_again(asked), turn["num_queries"]))
    found: list[Any] = []
    took = timed(lambda: found.extend(map(ask, asked)))
    return {"seconds": took, "rows": [engine.rows(one) for one in found] if turn["rows"] else []}


def _again_and_again(queries: list[Float32]) -> Any:
    while True:
        yield from queries
