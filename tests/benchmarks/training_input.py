"""Goal T7: how long steps wait for a loader that is only just fast enough.

The loader's processes are slowed down, by sleeping, to 1.3 times the rate that the steps need. Steps are real, on both cores;
what they need is measured first, with batches that are there already. Waiting is what the worker loop itself reports.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from chatsearch.data.pack import Batch
from chatsearch.data.steps import StepBuilder
from chatsearch.data.stream import rank_batches
from chatsearch.session import ray_session
from chatsearch.train.loop import assemble
from chatsearch.train.reporter import Waiting
from chatsearch.train.start import load_start

from tests.benchmarks.harness import Result, account
from tests.benchmarks.training_setup import COMMAND, even_training

NUM_STEPS, WARM_UP = 160, 32
"""The warm-up is four blocks of steps: the loader's processes start in it."""
NUM_CALIBRATION = 24
MARGIN = 1.3
LIMIT = 0.01


@dataclass(frozen=True)
class SlowBuilder(StepBuilder):
    """Takes at least ``least_s`` for each step."""

    least_s: float = 0.0

    def build(self, step: int, rank: int, world_size: int) -> list[Batch]:
        """See :class:`StepBuilder`."""
        begin = time.perf_counter()
        batches = super().build(step, rank, world_size)
        time.sleep(max(0.0, self.least_s - (time.perf_counter() - begin)))
        return batches


def measure(num_steps: int = NUM_STEPS, warm_up: int = WARM_UP) -> Iterator[Result]:
    """The share of time in which steps wait for their batches."""
    with tempfile.TemporaryDirectory() as name, ray_session():
        torch.set_num_threads(2)
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        config = even_training(Path(name), steps=num_steps)
        builder, trainer = assemble(config, load_start(config))
        ready = [builder.build(step, 0, 1) for step in range(NUM_CALIBRATION)]
        needed = []
        for step, batches in enumerate(ready):
            begin = time.perf_counter()
            trainer.step(step, batches)
            needed.append(time.perf_counter() - begin)
        needed_s = statistics.median(needed[len(needed) // 3 :])

        slow = SlowBuilder(
            **{f: getattr(builder, f) for f in StepBuilder.__dataclass_fields__}, least_s=needed_s / MARGIN
        )
        waited, whole = [], []
        with closing(rank_batches(slow, 0, 1, start=0, stop=num_steps, loader=config.loader)) as steps:  # type: ignore[type-var]
            arriving, since = Waiting(steps), time.perf_counter()
            for step, batches in arriving:
                trainer.step(step, batches)
                now = time.perf_counter()
                waited.append(arriving.take())
                whole.append(now - since)
                since = now
    yield account(
        "T7",
        waited[warm_up:],
        whole[warm_up:],
        goal=f"input stall <= 1 % of step time with the loader throttled to {MARGIN} x the needed rate",
        command=COMMAND,
        at_most=LIMIT,
        note=f"a step needs {1000 * needed_s:.0f} ms alone; the loader takes {1000 * needed_s / MARGIN:.0f} ms for one at the fastest",
    )
