"""Goal R2: a run of 40 minutes in which a worker is killed four times. How much of its time went into steps that count?

Goodput is the median time of a step times the steps made, over the time from the call to the finished bundle: starts, saves,
steps made twice and everything between a kill and the next step count as lost. ``BENCH_MINUTES`` shortens the run to one with as
many kills in ten minutes, in which the start weighs more.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from chatsearch.session import ray_session
from chatsearch.tracking.tracker import NullTracker
from chatsearch.train.run import train

from tests.benchmarks.harness import Result
from tests.benchmarks.training_setup import NUM_WORKERS, even_training
from tests.training_workers import training_workers

MINUTES = float(os.environ.get("BENCH_MINUTES", "40"))
COMMAND = f"{'' if MINUTES == 40 else f'BENCH_MINUTES={MINUTES:g} '}make bench ONLY=goodput"
NUM_KILLS = max(1, round(MINUTES / 10))
GOAL = f"goodput >= 0.90 of a {MINUTES:g}-minute run with {NUM_KILLS} SIGKILLs of a worker"
STEPS_BEFORE = 60
"""Of the short run that tells how many steps fill the time."""
STEPS_BETWEEN_SAVES = 20
"""Of about 0.7 s each. A save costs some 0.1 s of processor time here and a kill comes every 8 minutes, so that saving every
15 s or so loses least (Daly's rule: the root of twice their product)."""
RESUMED = "goes on from the checkpoint"
_LOOK_S = 0.02


@dataclass
class Timeline(NullTracker):
    """When what happened, in seconds of the monotonic clock; as a tracker it notes the steps, as a stream the texts."""

    steps: list[tuple[float, int]] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    kills: list[tuple[float, float]] = field(default_factory=list)
    """A worker killed, the other one gone."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """A step."""
        if step is not None:
            self.steps.append((time.monotonic(), step))
            self.step_seconds.append(metrics["seconds_per_step"])

    def write(self, text: str) -> int:
        """A line for people."""
        if RESUMED in text:
            self.resumed.append(time.monotonic())
        return sys.__stderr__.write(text) if sys.__stderr__ else 0

    def flush(self) -> None:
        """As a stream."""

    def isatty(self) -> bool:
        """No."""
        return False

    def recoveries(self) -> list[dict[str, float]]:
        """Seconds of each kill: until all workers were gone, until new ones had found the checkpoint, until the next new step."""
        found = []
        for killed, gone in self.kills:
            resumed = min((at for at in self.resumed if at > killed), default=float("nan"))
            stepped = min((at for at, _ in self.steps if at > resumed), default=float("nan"))
            found.append({"detect": gone - killed, "start": resumed - gone, "restore": stepped - resumed})
        return found


def measure() -> Iterator[Result]:
    """R2."""
    with tempfile.TemporaryDirectory() as name, ray_session():
        yield goodput(Path(name))


def goodput(folder: Path) -> Result:
    """The run, and what its time went into."""
    config = even_training(
        folder,
        num_workers=NUM_WORKERS,
        steps=STEPS_BEFORE,
        checkpoint_every=STEPS_BETWEEN_SAVES,
        max_failures=NUM_KILLS,
    )
    before = Timeline()
    train(config.replace(output=str(folder / "before")), before)
    steps = round(MINUTES * 60 / statistics.median(before.step_seconds))
    timeline = Timeline()
    killer = threading.Thread(target=_kill, args=(timeline, steps), daemon=True)
    killer.start()
    begin = time.monotonic()
    with contextlib.redirect_stderr(timeline):  # type: ignore[type-var]
        train(config.replace(steps=steps), timeline)
    seconds = time.monotonic() - begin
    step_seconds = statistics.median(timeline.step_seconds)
    value = steps * step_seconds / seconds
    phases = timeline.recoveries()
    said = ", ".join(f"{name} {statistics.median(phase[name] for phase in phases):.1f} s" for name in phases[0])
    first = timeline.steps[0][0] - begin
    return Result(
        "R2",
        "met" if value >= 0.9 and len(phases) == NUM_KILLS else "missed",
        value,
        None,
        GOAL,
        COMMAND,
        runs=tuple(sum(phase.values()) for phase in phases),
        note=(
            f"{seconds / 60:.1f} minutes, {steps} steps of {step_seconds:.3f} s, a save every {STEPS_BETWEEN_SAVES}, {len(phases)} kills; "
            f"first step after {first:.1f} s; medians of a recovery: {said}; runs: seconds from a kill to the next new step"
        ),
        sides={name: [phase[name] for phase in phases] for name in phases[0]},
    )


def _kill(timeline: Timeline, steps: int) -> None:
    """Kill a worker whenever another fifth of the steps is made, a seeded while before or after."""
    draw = random.Random(0)
    for number in range(NUM_KILLS):
        at = steps * (number + 1 + draw.uniform(-0.2, 0.2)) / (NUM_KILLS + 1)
        while not timeline.steps or timeline.steps[-1][1] < at:
            time.sleep(_LOOK_S)
        workers = training_workers()
        os.kill(workers[number % len(workers)].pid, signal.SIGKILL)
        killed = time.monotonic()
        psutil.wait_procs(workers)
        timeline.kills.append((killed, time.monotonic()))
