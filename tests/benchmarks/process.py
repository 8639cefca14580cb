"""A process tree of its own that works while it is asked and stands still while others are measured.

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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from tests.benchmarks.peers.environment import ROOT


def process_environment(num_threads: int) -> dict[str, str]:
    """Environment variables of a side: where its modules lie, and how many threads it may take."""
    paths = [str(ROOT), str(ROOT / "platform"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": str(num_threads),
        "TOKENIZERS_PARALLELISM": "false",
    }


def last_words(log: Path) -> str:
    """The last lines that a process wrote to its log, as one."""
    return " | ".join(log.read_text().strip().splitlines()[-8:])


class PausedProcess:
    """One side. Requests and answers are lines of JSON; use as a context manager.

    Args:
        module: run as ``python -m``; it says what it is once it is ready, then answers a line with a line.
        settings: what it is told, plain values.
        log: where it writes what it says.
        python: its interpreter; None for this one.

    Raises:
        RuntimeError: it ended before its time, with the last lines of its log.
    """

    def __init__(self, module: str, settings: Mapping[str, Any], log: Path, python: str | None = None) -> None:
        self._log, self._module = log, module
        with log.open("w") as sink:
            self._process = subprocess.Popen(
                [python or sys.executable, "-m", module, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                cwd=ROOT,
                env=process_environment(1),
            )
        self.facts: dict[str, Any] = self.answer()
        """What it says of itself once it is ready, e.g. its version and how it is set."""

    def ask(self, request: object) -> dict[str, Any]:
        """One turn."""
        self.tell(request)
        return self.answer()

    def tell(self, request: object) -> None:
        """Let it begin a turn."""
        self._signal(signal.SIGCONT)
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the turn's end."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                self._signal(signal.SIGSTOP)
                return dict(json.loads(line))
        raise RuntimeError(f"{self._module} ended with {self._process.wait()}: {last_words(self._log)}")

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

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is not None:
            return
        for process in self.tree():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
