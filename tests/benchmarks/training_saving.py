"""Goal T5: what checkpoints cost the steps, in the worker loop itself on two bare ranks.

Stall: every other save is made synchronous by waiting for it at once; how long the loop stands still is compared with the
asynchronous one before it. Throughput: with a save every 40 steps, the 20 steps that follow one against the 20 after those.
"""

from __future__ import annotations

import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chatsearch.train.config import TrainConfig
from chatsearch.train.trainer import Trainer
from chatsearch.train.writer import CheckpointWriter

from tests.benchmarks.harness import Result, judge
from tests.benchmarks.training_setup import COMMAND, NUM_WORKERS, RUN_LIMIT_S, even_training
from tests.ranks import start_training

NUM_PAIRS = 10
STEPS_BETWEEN = 5
"""Steps between two saves where stalls are measured."""
INTERVAL = 20
"""Steps between two saves of the goal."""


def time_saves(rank: int, *, folder: str) -> None:
    """Note what each save costs the loop of this process; every other one is waited for at once."""
    begin_save, wait, snapshot = CheckpointWriter.start, CheckpointWriter.wait, Trainer.snapshot
    spent: dict[str, float] = {"wait": 0.0, "snapshot": 0.0}
    done: list[Any] = []
    log = Path(folder, f"saves.{rank}")
    number = 0

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(self: Any) -> Any:
            begin = time.perf_counter()
            try:
                return call(self)
            finally:
                spent[name] = time.perf_counter() - begin

        return measured

    def timed_start(self: CheckpointWriter, *arguments: Any) -> None:
        nonlocal number
        begin = time.perf_counter()
        begin_save(self, *arguments)
        if number % 2:
            done.append(wait(self))
        seconds = time.perf_counter() - begin + spent["wait"] + spent["snapshot"]
        with log.open("a") as file:
            file.write(json.dumps({"synchronous": bool(number % 2), "seconds": seconds, **spent}) + "\n")
        number += 1

    def kept_wait(self: CheckpointWriter) -> Any:
        return done.pop() if done else wait(self)

    CheckpointWriter.start = timed_start  # type: ignore[method-assign, assignment]
    CheckpointWriter.wait = timed("wait", kept_wait)  # type: ignore[method-assign]
    Trainer.snapshot = timed("snapshot", snapshot)  # type: ignore[method-assign]


def measure(num_pairs: int = NUM_PAIRS) -> Iterator[Result]:
    """The stall of a save, and steps a second with saves."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield stall(folder, num_pairs)
        yield throughput(folder, num_pairs)


def stall(folder: Path, num_pairs: int) -> Result:
    """Seconds that an asynchronous save holds the loop up, over those of a synchronous one."""
    # The first two get the memory that all later ones use again.
    config = even_training(
        folder, steps=STEPS_BETWEEN * 2 * (num_pairs + 1), checkpoint_every=STEPS_BETWEEN, output=str(folder / "stall")
    )
    start_training(config, NUM_WORKERS, folder / "logs", functools.partial(time_saves, folder=str(folder))).finish(
        RUN_LIMIT_S
    )
    saves = [json.loads(line) for line in (folder / "saves.0").read_text().splitlines()]
    saves, first = saves[2:], saves[:2]
    seconds = {
        side: [save["seconds"] for save in saves if save["synchronous"] == synchronous]
        for side, synchronous in (("asynchronous", False), ("synchronous", True))
    }
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    copied = statistics.median(save["snapshot"] for save in saves if not save["synchronous"])
    return judge(
        "T5-stall",
        [a / b for a, b in zip(seconds["asynchronous"], seconds["synchronous"], strict=True)],
        goal="an asynchronous save stalls the loop <= 5 % of a synchronous one",
        command=COMMAND,
        at_most=0.05,
        note=(
            f"{bytes_of(config) / 2**20:.0f} MiB a checkpoint; medians: asynchronous {1000 * medians['asynchronous']:.1f} ms, of "
            f"which the copy {1000 * copied:.1f} ms, synchronous {1000 * medians['synchronous']:.0f} ms; the first, which gets "
            f"the memory, {1000 * first[0]['seconds']:.0f} ms"
        ),
        sides=seconds,
    )


def throughput(folder: Path, num_pairs: int) -> Result:
    """Steps a second in the 20 steps from a save on, over those of the 20 after them."""
    period = 2 * INTERVAL
    config = even_training(
        folder, steps=period * (num_pairs + 1), checkpoint_every=period, output=str(folder / "throughput")
    )
    ranks = start_training(config, NUM_WORKERS, folder / "logs")
    ranks.finish(RUN_LIMIT_S)
    times = {line["step"]: line["seconds_per_step"] for line in ranks.lines() if "step" in line}

    def block(first: int, length: int = INTERVAL) -> float:
        return sum(times[step] for step in range(first, first + length))

    # A save begins after step 40, 80 ... was reported: what it stalls is in the time of the step that follows.
    starts = [period * number + 1 for number in range(1, num_pairs + 1)]
    sides = {"with": [block(s) for s in starts], "without": [block(s + INTERVAL) for s in starts]}
    half = INTERVAL // 2
    null = [block(s + INTERVAL + half, half) / block(s + INTERVAL, half) for s in starts]
    return judge(
        "T5-throughput",
        [without / saving for without, saving in zip(sides["without"], sides["with"], strict=True)],
        goal=f"throughput with a save every {INTERVAL} steps >= 0.98x without",
        command=COMMAND,
        at_least=0.98,
        null=null,
        note=f"blocks of {statistics.median(sides['without']):.1f} s",
        sides=sides,
    )


def bytes_of(config: TrainConfig) -> int:
    """Size of the newest checkpoint of a run."""
    newest = max(Path(config.output).glob("checkpoints/*/step-*"))
    return sum(path.stat().st_size for path in newest.iterdir())
