"""From rank 0 to the driver: a small actor holds the newest numbers, a thread of the driver fetches them.

Workers only ever send and never wait, so neither a slow terminal nor a slow tracker can hold up a step. The driver
alone prints and records; it outlives the workers, so a series has no gap and no double when a worker dies.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TextIO

from chatsearch.errors import ChatSearchError
from chatsearch.tracking.tracker import Tracker

_POLL_S = 0.5
_PLAIN_INTERVAL_S = 10.0
"""Between two lines where the output is no terminal."""
_VALIDATION = ("val_R@1", "val_R@5", "val_R@10")


@dataclass(frozen=True, slots=True)
class StepReport:
    """The numbers of one step."""

    step: int
    """Updates made so far."""
    metrics: Mapping[str, float]
    tracked: bool
    """Whether the step is a point of the tracked series, or only shown."""


class Sink(Protocol):
    """Where a worker sends what happens."""

    def post(self, report: StepReport) -> None:
        """The numbers of a step; returns at once."""
        ...

    def say(self, text: str) -> None:
        """What else goes on; returns at once."""
        ...

    def give_up(self, error: ChatSearchError) -> None:
        """An error that no restart can help."""
        ...

    def given_up(self) -> ChatSearchError | None:
        """What an earlier attempt gave up with."""
        ...


class LocalSink:
    """For a loop in the driver's own process."""

    def __init__(self, show: Callable[[StepReport | str], None]) -> None:
        self._show = show

    def post(self, report: StepReport) -> None:
        """Show it."""
        self._show(report)

    def say(self, text: str) -> None:
        """Show it."""
        self._show(text)

    def give_up(self, error: ChatSearchError) -> None:
        """Nothing to remember: the error reaches the caller as it is."""

    def given_up(self) -> ChatSearchError | None:
        """Never."""
        return None


class _Board:
    """State of the actor."""

    def __init__(self) -> None:
        self._reports: list[StepReport | str] = []
        self._error: ChatSearchError | None = None

    def post(self, report: StepReport | str) -> None:
        self._reports.append(report)

    def take(self) -> list[StepReport | str]:
        taken, self._reports = self._reports, []
        return taken

    def give_up(self, error: ChatSearchError) -> None:
        self._error = self._error or error

    def given_up(self) -> ChatSearchError | None:
        return self._error


class BoardSink:
    """Sends to the actor. Picklable; an actor that has died is no reason to stop training."""

    def __init__(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # On the driver's own node: one with workers may be taken away, and what the driver has not fetched yet with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        board = ray.remote(_Board).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here)
        self._board: Any = board.remote()

    def post(self, report: StepReport) -> None:
        """Send without waiting."""
        self._board.post.remote(report)

    def say(self, text: str) -> None:
        """Send without waiting."""
        self._board.post.remote(text)

    def give_up(self, error: ChatSearchError) -> None:
        """Send and wait: the process is about to end."""
        self._ask(self._board.give_up, error)

    def given_up(self) -> ChatSearchError | None:
        """Ask the board."""
        return self._ask(self._board.given_up)

    def take(self) -> list[StepReport | str]:
        """Reports and texts since the last call, for the driver."""
        return self._ask(self._board.take) or []

    @staticmethod
    def _ask(method: Any, *arguments: Any) -> Any:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            return ray.get(method.remote(*arguments), timeout=30)
        return None


class Display:
    """One line about where training stands, and the tracked series."""

    def __init__(self, label: str, total: int, tracker: Tracker, stream: TextIO | None = None) -> None:
        self._label, self._total, self._tracker = label, total, tracker
        self._stream = stream or sys.stderr
        self._seen = self._tracked = -1
        self._started: tuple[int, float] | None = None
        self._printed = float("-inf")

    def show(self, report: StepReport | str) -> None:
        """Print and record one report. Steps that are repeated after a restart are recorded once."""
        if isinstance(report, str):
            line = "\r\x1b[K" if self._stream.isatty() else ""  # the one about the last step may stand there
            self._stream.write(f"{line}{self._label}: {report}\n")
            self._stream.flush()
            return
        now = time.monotonic()
        if report.tracked and report.step > self._tracked:
            self._tracker.log_metrics(report.metrics, step=report.step)
            self._tracked = report.step
        if self._started is None or report.step < self._seen:
            self._started = (report.step, now)
        self._seen = report.step
        last = report.step >= self._total
        terminal = self._stream.isatty()
        validated = _VALIDATION[0] in report.metrics
        if not (terminal or last or validated) and now - self._printed < _PLAIN_INTERVAL_S:
            return
        self._printed = now
        line = self._line(report, now)
        self._stream.write(f"\r\x1b[K{line}" + ("\n" if last or validated else "") if terminal else line + "\n")
        self._stream.flush()

    def _line(self, report: StepReport, now: float) -> str:
        assert self._started is not None
        first, since = self._started
        rate = (report.step - first) / (now - since) if report.step > first else 0.0
        left = timedelta(seconds=round((self._total - report.step) / rate)) if rate else "-"
        metrics = report.metrics
        found = [f"{metrics[name]:.1f}" for name in _VALIDATION if name in metrics]
        return (
            f"{self._label}: step {report.step}/{self._total}  loss {metrics['loss']:.3f} (words {metrics['word_loss']:.3f}, "
            f"images {metrics['image_loss']:.3f})  {rate:.2f} steps/s  left {left}"
            + (f"  validation R@1/5/10 {' / '.join(found)}" if found else "")
        )


@contextlib.contextmanager
def following(sink: BoardSink, display: Display) -> Iterator[None]:
    """Show what arrives at the board for the duration of the block, to the last report."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(_POLL_S):
            for report in sink.take():
                display.show(report)

    thread = threading.Thread(target=follow, name="training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=60)
        for report in sink.take():
            display.show(report)
