"""Training workers as bare processes: no Ray, so that a test may kill them at any moment and start the next in no time.

Processes are forked from a server that has imported what is heavy. Each test kills and waits for the ones it has started.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from chatsearch.errors import ChatSearchError
from chatsearch.kinds import MODEL_BUNDLE
from chatsearch.manifest import fingerprint
from chatsearch.storage import Folder
from chatsearch.train.config import TrainConfig
from chatsearch.train.progress import StepReport
from chatsearch.train.run import CHECKPOINTS
from chatsearch.train.worker import WorkerJob, train_worker

_ROOT = Path(__file__).resolve().parent.parent
_POLL_S = 0.005


def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    # The server reads neither pytest's paths nor what conftest has imported.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT / "platform"), str(_ROOT), os.environ.get("PYTHONPATH", "")])
    context.set_forkserver_preload(["tests.preload"])
    return context


@dataclass
class LogSink:
    """Writes what a worker reports to a file, a line at a time."""

    path: Path

    def post(self, report: StepReport) -> None:
        """Numbers as they are: JSON keeps every bit of a float."""
        self._write({"step": report.step, **report.metrics})

    def say(self, text: str) -> None:
        """Nothing that a test looks at."""

    def give_up(self, error: ChatSearchError) -> None:
        """The error is the last line."""
        self._write({"error": type(error).__name__, "said": str(error)})

    def given_up(self) -> None:
        """Each start is a first one."""

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Seat:
    """Which rank of which group a process is."""

    rank: int
    world_size: int
    meeting: str
    """The file through which the ranks find each other."""


def join_group(seat: Seat) -> None:
    """What a launcher does: this process becomes a rank of a group."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    rank, world_size = seat.rank, seat.world_size
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world_size), DS_ACCELERATOR="cpu")
    dist.init_process_group("gloo", init_method=f"file://{seat.meeting}", rank=rank, world_size=world_size)


def run_name(config: TrainConfig) -> str:
    """The run's fingerprint as a test names it: the inputs are the test's own."""
    return fingerprint(MODEL_BUNDLE, config, {})


@dataclass
class Ranks:
    """The processes of one start."""

    processes: list[BaseProcess]
    log: Path
    """Of rank 0 with the suffix ``.0``."""
    started: float = field(default_factory=time.monotonic)

    def lines(self, rank: int = 0) -> list[dict[str, Any]]:
        """What a rank has reported; a line that a kill has cut short is left out."""
        path = self.log.with_suffix(f".{rank}")
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def losses(self) -> dict[int, float]:
        """Loss by number of updates."""
        return {line["step"]: line["loss"] for line in self.lines() if "step" in line}

    def wait_until(self, reached: Callable[[], bool], timeout_s: float = 240.0) -> None:
        """Wait for something; the processes must not end before it."""
        deadline = time.monotonic() + timeout_s
        while not reached():
            assert all(process.is_alive() for process in self.processes), f"ended too early: {self.lines()[-1:]}"
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """SIGKILL to all."""
        for process in self.processes:
            process.kill()
        self.join()

    def join(self, timeout_s: float = 240.0) -> list[int | None]:
        """Wait for all to end; returns their exit codes."""
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0.0))
        codes = [process.exitcode for process in self.processes]
        if None in codes:
            self.kill()
        return codes

    def finish(self, timeout_s: float = 240.0) -> None:
        """Wait for all to end well."""
        codes = self.join(timeout_s)
        assert codes == [0] * len(codes), f"exit codes {codes}: {self.lines()[-1:]}"


def start(world_size: int, folder: Path, target: Callable[..., None], *arguments: Any) -> Ranks:
    """Start ``target(seat, *arguments, log)`` in one process a rank."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"log-{uuid.uuid4().hex[:8]}"
    meeting = str(log.with_suffix(".meeting"))
    context = _server()
    processes = [
        context.Process(target=target, args=(Seat(rank, world_size, meeting), *arguments, log), daemon=True)
        for rank in range(world_size)
    ]
    ranks = Ranks(processes, log)
    for process in processes:
        process.start()
    return ranks


def start_training(
    config: TrainConfig, world_size: int, folder: Path, prepare: Callable[[int], None] | None = None
) -> Ranks:
    """Start a run, or go on with it. ``prepare`` is called with the rank in each process first; a module's function."""
    return start(world_size, folder, _train, config, prepare)


def _train(seat: Seat, config: TrainConfig, prepare: Callable[[int], None] | None, log: Path) -> None:
    join_group(seat)
    if prepare is not None:
        prepare(seat.rank)
    run = run_name(config)
    checkpoints = Folder(config.output).child(CHECKPOINTS, run).uri
    train_worker({"job": WorkerJob(config, run, checkpoints, LogSink(log.with_suffix(f".{seat.rank}")))})
