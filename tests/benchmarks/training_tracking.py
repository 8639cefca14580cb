"""Goal T6: what recording in MLflow costs the steps, by accounting, with a store that works and with a server that is not there.

The ``train`` job runs its loop in this process, so that recording and steps share the interpreter: the worst case, since on
Ray the driver records. What is counted is a bound from above: the time in which the loop hands numbers over, and all processor
time of the thread that talks to MLflow, as if every second of it had stopped the steps. Importing MLflow and making a new
store's tables comes once and is given apart.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from chatsearch.testing.ports import free_ports
from chatsearch.tracking.config import RunKey, TrackingConfig
from chatsearch.tracking.mlflow import MlflowTracker
from chatsearch.tracking.run_writer import Entry
from chatsearch.train.run import train

from tests.benchmarks.harness import Result, account
from tests.benchmarks.training_setup import COMMAND, even_training

NUM_STEPS, EVERY = 160, 10
"""Steps of a run, and how often they are recorded: the default of the job."""
WARM_UP = 40
"""Steps in which MLflow is imported and makes its tables."""
LIMIT, UNREACHABLE_LIMIT = 0.005, 0.01


class TimedTracker(MlflowTracker):
    """Notes, by recorded step, how long the loop was held up, what a step took, and what the thread has used up to then."""

    def __init__(self, config: TrackingConfig, run: RunKey) -> None:
        self.held_s: dict[int, float] = {}
        self.step_s: dict[int, float] = {}
        self.thread_s: dict[int, float] = {}
        self._used_s = 0.0
        super().__init__(config, run)
        self._outbox._deliver = self._timed(self._outbox._deliver)

    @property
    def num_dropped(self) -> int:
        """Entries that were not recorded."""
        return self._outbox.num_dropped

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        begin = time.perf_counter()
        super().log_metrics(metrics, step)
        if step is not None:
            self.held_s[step] = time.perf_counter() - begin
            self.step_s[step] = metrics["seconds_per_step"]
            self.thread_s[step] = self._used_s

    def _timed(self, deliver: Callable[[Sequence[Entry]], int]) -> Callable[[Sequence[Entry]], int]:
        def measured(batch: Sequence[Entry]) -> int:
            begin = time.thread_time()
            try:
                return deliver(batch)
            finally:
                self._used_s += time.thread_time() - begin

        return measured


def measure(num_steps: int = NUM_STEPS, warm_up: int = WARM_UP) -> Iterator[Result]:
    """A store in a file, then a server that nobody answers for."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = str(folder / "mlflow.db")
        yield cost(folder, "T6", store, LIMIT, num_steps=num_steps, warm_up=warm_up)
        nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
        yield cost(folder, "T6-unreachable", nobody, UNREACHABLE_LIMIT, num_steps=num_steps, warm_up=warm_up)


def cost(folder: Path, id: str, uri: str, limit: float, *, num_steps: int, warm_up: int) -> Result:
    """One run of the job; a step that fails ends the benchmark."""
    config = even_training(folder, steps=num_steps, log_every=EVERY, output=str(folder / id), threads_per_worker=2)
    with TimedTracker(TrackingConfig(uri=uri), RunKey(job="train", key=id)) as tracker:
        train(config, tracker)
        begin = time.perf_counter()
    end_s = time.perf_counter() - begin
    assert sorted(tracker.step_s) == list(range(EVERY, num_steps + 1, EVERY)), "a step has failed"
    counted = range(warm_up + EVERY, num_steps + 1, EVERY)
    held = [tracker.held_s[step] for step in counted]
    used = [tracker.thread_s[step] - tracker.thread_s[step - EVERY] for step in counted]
    whole = [EVERY * tracker.step_s[step] for step in counted]
    failed = "; 0 failed steps" if uri.startswith("http") else ""
    return account(
        id,
        [a + b for a, b in zip(held, used, strict=True)],
        whole,
        goal=f"MLflow costs <= {limit:.1%} of step time{failed}",
        command=COMMAND,
        at_most=limit,
        note=(
            f"one entry here is {EVERY} steps, of which one is recorded; {num_steps} of {num_steps} steps made; of step time, the loop "
            f"held up {sum(held) / sum(whole):.4%}, the thread's processor time {sum(used) / sum(whole):.3%}, its median of {EVERY} "
            f"steps {1000 * statistics.median(used):.1f} ms; {tracker.thread_s[warm_up]:.1f} s of it once in the first {warm_up} "
            f"steps; {end_s:.1f} s to end the run, {tracker.num_dropped} entries not recorded"
        ),
    )
