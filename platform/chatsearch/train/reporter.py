"""The numbers of steps on their way from rank 0 to the driver, with rates over the steps between two points of the series."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from chatsearch.train.flops import step_flops
from chatsearch.train.plan import known_peak_flops
from chatsearch.train.progress import StepReport
from chatsearch.train.trainer import StepCost
from chatsearch.train.volume import Volume
from chatsearch.train.worker import WorkerJob

_SHOWN_INTERVAL_S = 0.5
T = TypeVar("T")


class Waiting(Generic[T]):
    """An iterator that adds up how long its caller waits for it."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._seconds = 0.0

    def take(self) -> float:
        """Seconds since the last call."""
        taken, self._seconds = self._seconds, 0.0
        return taken

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        begin = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self._seconds += time.perf_counter() - begin


class Reporter:
    """Sends what steps have brought and cost. Rates are over the wall time since the last point, whatever it went into.

    tokens_per_second, images_per_second, seconds_per_step
    input_stall           share of the time in which this rank waited for its batches
    queue_seconds         a step's exchange of images, and their way into the queue
    flops_per_second      of the model, all workers together: nothing that is computed twice counts
    mfu                   the same over the peak of the workers' devices; left out where no peak is known
    """

    def __init__(self, job: WorkerJob, rank: int, device_name: str | None) -> None:
        """``device_name`` is the GPU's, as its driver calls it; None on a CPU."""
        self._job, self._sends = job, rank == 0
        self._peak = known_peak_flops(job.config, device_name)
        self._since = self._sent = time.monotonic()
        self._begin()

    def _begin(self) -> None:
        """A new interval."""
        self._steps, self._flops, self._queue_seconds, self._waited = 0, 0.0, 0.0, 0.0
        self._volume = Volume()

    def after(self, num_steps: int, metrics: Mapping[str, float], cost: StepCost, waited: float) -> None:
        """Call it after every step.

        Args:
            num_steps: updates made.
            metrics: of the step.
            cost: of the step.
            waited: seconds that this rank has waited for the step's batches.
        """
        if not self._sends:
            return
        config = self._job.config
        self._steps += 1
        self._volume += cost.volume
        self._flops += step_flops(config, cost.volume).model
        self._queue_seconds += cost.queue_seconds
        self._waited += waited
        now = time.monotonic()
        tracked = num_steps % config.log_every == 0 or num_steps == config.steps or config.validates_after(num_steps)
        if not tracked and now - self._sent < _SHOWN_INTERVAL_S:
            return
        self._sent = now
        self._job.sink.post(StepReport(num_steps, {**metrics, **self._rates(max(now - self._since, 1e-9))}, tracked))
        if tracked:
            self._since = now
            self._begin()

    def _rates(self, seconds: float) -> dict[str, float]:
        rates = {
            "tokens_per_second": self._volume.positions / seconds,
            "images_per_second": self._volume.images / seconds,
            "seconds_per_step": seconds / self._steps,
            "input_stall": min(self._waited / seconds, 1.0),
            "queue_seconds": self._queue_seconds / self._steps,
            "flops_per_second": self._flops / seconds,
        }
        return rates if self._peak is None else {**rates, "mfu": self._flops / seconds / self._peak}
