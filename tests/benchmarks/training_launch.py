"""Goal T1: the ``train`` job on Ray Train against the same worker loop under torchrun, whole runs by turns.

Both: two processes of one thread over gloo, DeepSpeed ZeRO 1, the same documents and weights. A step's time is taken
inside, from one step's end to the next, and holds all that the loop does, its input and its report included. torchrun's
ranks build their batches themselves, Ray's are fed by Ray Data. A Ray session runs only while a run on Ray does.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from chatsearch.session import ray_session
from chatsearch.tracking.tracker import NullTracker
from chatsearch.train.config import TrainConfig
from chatsearch.train.run import train

from tests.benchmarks.harness import Result, judge, take_turns
from tests.benchmarks.training_setup import COMMAND, NUM_WORKERS, even_training
from tests.ranks import Ranks

NUM_PAIRS = 9
NUM_STEPS = 40
WARM_UP = 8
"""Steps that are left out at the start of each run."""
NUM_DDP = 3
"""Runs of plain DDP, reported and not judged."""
START_LIMIT_S = 15.0


@dataclass(frozen=True)
class Run:
    """What one run took."""

    first_step_s: float
    """From the call that starts it to the report of the first step."""
    step_s: float
    """Median over the steps behind the warm-up."""
    input_s: float
    """Of a step, mean over the same steps: waiting for Ray Data, or building the batches."""

    @classmethod
    def of(cls, begin: float, reports: Mapping[int, Mapping[str, float]]) -> Run:
        """From the numbers of each step, and when each was heard of."""
        steady = [report for step, report in reports.items() if step > WARM_UP]
        return cls(
            reports[1]["at"] - begin,
            statistics.median(report["seconds_per_step"] for report in steady),
            statistics.mean(report.get("input_stall", 0.0) * report["seconds_per_step"] for report in steady),
        )


class _Recorder(NullTracker):
    """Keeps the numbers of each step, and when they were heard of: up to half a second after they were reported."""

    def __init__(self) -> None:
        self.reports: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is not None:
            self.reports[step] = {**metrics, "at": time.time()}


def on_ray(config: TrainConfig) -> Run:
    """The ``train`` job itself."""
    recorder = _Recorder()
    with ray_session():
        begin = time.time()
        train(config.replace(num_workers=NUM_WORKERS), recorder)
    shutil.rmtree(config.output)
    return Run.of(begin, recorder.reports)


def under_torchrun(config: TrainConfig, folder: Path, engine: str = "deepspeed") -> Run:
    """The same worker loop, or plain DDP, without Ray."""
    path, log = folder / "config.json", folder / f"log-{time.monotonic_ns()}"
    path.write_text(config.model_dump_json())
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(NUM_WORKERS)]
    command = [sys.executable, *launcher, "-m", "tests.benchmarks.training_rank", str(path), str(log), engine]
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(root / "platform"), str(root)])
    begin = time.time()
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": paths, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
    )
    shutil.rmtree(config.output, ignore_errors=True)
    return Run.of(begin, {line["step"]: line for line in Ranks([], log).lines()})


def measure(num_pairs: int = NUM_PAIRS, num_steps: int = NUM_STEPS, num_ddp: int = NUM_DDP) -> Iterator[Result]:
    """Step time, and time to the first step."""
    runs: dict[str, list[Run]] = {"ray": [], "torchrun": []}

    def noted(name: str, run: Callable[[], Run]) -> Callable[[], float]:
        def step_s() -> float:
            runs[name].append(run())
            return runs[name][-1].step_s

        return step_s

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = even_training(folder, steps=num_steps, zero_stage=1)
        sides = {
            "torchrun": noted("torchrun", lambda: under_torchrun(config, folder)),
            "ray": noted("ray", lambda: on_ray(config)),
        }
        sides["torchrun"]()  # reads what lies on the disk for the first time
        runs["torchrun"].clear()
        rounds = take_turns(sides, num_pairs)
        ddp = [under_torchrun(config, folder, "ddp").step_s for _ in range(num_ddp)]
    medians = {side: statistics.median(values) for side, values in (rounds.values | {"ddp": ddp}).items()}  # type: ignore[operator]
    spoken = ", ".join(f"{side} {1000 * seconds:.1f} ms" for side, seconds in medians.items())
    inputs = {side: 1000 * statistics.median(run.input_s for run in done) for side, done in runs.items()}
    yield judge(
        "T1",
        rounds.ratios("ray", "torchrun"),
        goal="step time under Ray Train <= 1.02x the same DeepSpeed loop under torchrun, 2 workers",
        command=COMMAND,
        at_most=1.02,
        null=rounds.null,
        note=(
            f"medians of a step: {spoken}; DeepSpeed over DDP {medians['torchrun'] / medians['ddp']:.3f}; of a step, Ray's wait for "
            f"input {inputs['ray']:.1f} ms, torchrun's ranks building theirs {inputs['torchrun']:.1f} ms"
        ),
        sides={**rounds.values, "ddp": ddp},
    )
    first = {side: [run.first_step_s for run in done] for side, done in runs.items()}
    yield judge(
        "T1-start",
        [ray - torchrun for ray, torchrun in zip(first["ray"], first["torchrun"], strict=True)],
        goal=f"from fit() with Ray up to the first step <= torchrun + {START_LIMIT_S:g} s",
        command=COMMAND,
        at_most=START_LIMIT_S,
        note=", ".join(f"{side} {statistics.median(values):.1f} s" for side, values in first.items()),
        sides=first,
    )
