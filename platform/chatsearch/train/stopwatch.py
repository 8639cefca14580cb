"""How long a stretch of a step takes, without making the step wait for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Measures a stretch on the clock, or on a GPU between two events of its stream.

    A GPU works behind the program: the clock would show when work was handed over, or the whole of what was waiting before it.
    """

    def __init__(self, device: torch.device) -> None:
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda":
            self._events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        self._seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """The stretch."""
        begin = time.perf_counter()
        if self._events:
            self._events[0].record()
        yield
        if self._events:
            self._events[1].record()
        self._seconds = time.perf_counter() - begin

    @property
    def seconds(self) -> float:
        """Of the last stretch. On a GPU it waits for the stretch's end: ask when a step is over."""
        if self._events is None:
            return self._seconds
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1000
