"""A loader in a process tree of its own that works while it is measured and stands still while others are.

Between its turns the whole tree is stopped (SIGSTOP): it neither takes processor time from the side whose turn it is nor
fills its buffers, so that each turn goes on exactly where the one before ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from tests.benchmarks.peers.environment import ROOT


class Reader:
    """One loader. A turn reads a number of samples; use as a context manager.

    Args:
        module: run as ``python -m``; it calls :func:`serve`.
        settings: what it is told, plain values.
        python: its interpreter; None for this one.
        log: where it writes what it says.

    Raises:
        RuntimeError: it ended before its time, with the last lines of its log.
    """

    def __init__(self, module: str, settings: Mapping[str, Any], log: Path, python: str | None = None) -> None:
        self._log, self._module = log, module
        paths = [str(ROOT), str(ROOT / "platform"), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with log.open("w") as sink:
            self._process = subprocess.Popen(
                [python or sys.executable, "-m", module, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                cwd=ROOT,
                env=environment,
            )
        self.facts: dict[str, Any] = self._answer()
        """What it says of itself once it is ready, e.g. its version and how it is set."""
        self._stop()

    def rate(self, num_samples: int) -> float:
        """Samples a second over one turn."""
        self.begin(num_samples)
        return self.end()

    def begin(self, num_samples: int) -> None:
        """Let it read so many samples."""
        self._signal(signal.SIGCONT)
        self._tell(num_samples)

    def end(self) -> float:
        """Wait for the turn's end. Returns samples a second."""
        answer = self._answer()
        self._stop()
        return float(answer["samples"] / answer["seconds"])

    def tree(self) -> list[psutil.Process]:
        """The process and all below it."""
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        tree = self.tree() if self._process.poll() is None else []
        self._signal(signal.SIGCONT)
        if tree:
            assert self._process.stdin
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        for process in tree:
            if process.is_running():
                process.kill()
        self._process.wait()

    def _tell(self, num_samples: int) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{num_samples}\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        said = self._log.read_text().strip().splitlines()[-8:]
        raise RuntimeError(f"{self._module} ended with {self._process.wait()}: {' | '.join(said)}")

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is not None:
            return
        for process in self.tree():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue


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
