"""What torchrun starts in each process: the worker loop of the ``train`` job without Ray, or the same steps under plain DDP.

python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.benchmarks.training_rank CONFIG LOG deepspeed
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from chatsearch.storage import Folder
from chatsearch.train import trainer as trainer_module
from chatsearch.train.config import TrainConfig
from chatsearch.train.loop import assemble, run_worker
from chatsearch.train.progress import StepReport
from chatsearch.train.run import CHECKPOINTS
from chatsearch.train.start import load_start
from chatsearch.train.worker import WorkerJob
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.ranks import LogSink, run_name


class TimedSink(LogSink):
    """Notes when each step was reported, too."""

    def post(self, report: StepReport) -> None:
        super().post(StepReport(report.step, {**report.metrics, "at": time.time()}, report.tracked))


class DdpEngine:
    """In place of DeepSpeed: every rank holds the whole optimiser, gradients are averaged while they are computed."""

    def __init__(self, module: nn.Module, groups: list[dict[str, Any]], config: TrainConfig) -> None:
        optimiser = config.optimiser
        self.device = torch.device("cpu")
        self._max_norm = optimiser.max_grad_norm
        self._module = DistributedDataParallel(module.train())
        self._optimiser = torch.optim.AdamW(
            [{"params": group["params"]} for group in groups],
            lr=optimiser.learning_rate,
            betas=optimiser.betas,
            eps=optimiser.epsilon,
            weight_decay=optimiser.weight_decay,
        )

    def losses(self, *inputs: Any) -> dict[str, Tensor]:
        return self._module(*inputs)

    def backward(self, loss: Tensor) -> None:
        (loss * dist.get_world_size()).backward()

    def update(self, learning_rate: float) -> float:
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        norm = nn.utils.clip_grad_norm_(self._module.parameters(), self._max_norm)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(norm)


def train_with_ddp(config: TrainConfig, sink: LogSink) -> None:
    """The steps of the worker loop, without its checkpoints."""
    torch.set_num_threads(config.threads_per_worker)
    trainer_module.Engine = DdpEngine  # type: ignore[assignment, misc]
    builder, trainer = assemble(config, load_start(config))
    since = time.monotonic()
    for step in range(config.steps):
        metrics = trainer.step(step, builder.build(step, dist.get_rank(), dist.get_world_size()))
        now = time.monotonic()
        sink.post(StepReport(step + 1, {**metrics, "seconds_per_step": now - since}, True))
        since = now


def main() -> None:
    """One rank."""
    config = TrainConfig.model_validate_json(Path(sys.argv[1]).read_text())
    dist.init_process_group("gloo")
    sink = TimedSink(Path(sys.argv[2]).with_suffix(f".{dist.get_rank()}"))
    if sys.argv[3] == "ddp":
        train_with_ddp(config, sink)
    else:
        run = run_name(config)
        run_worker(WorkerJob(config, run, Folder(config.output).child(CHECKPOINTS, run).uri, sink))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
