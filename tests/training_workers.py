"""The processes of a training run, for tests and benchmarks that kill some."""

from __future__ import annotations

import contextlib

import psutil


def training_workers() -> list[psutil.Process]:
    """The training workers of this process' Ray session."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one of the others ended while it was looked at
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found
