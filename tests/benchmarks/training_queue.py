"""Goal T8: what the feature queue costs a step, by accounting, and that its content does not depend on the number of workers.

Steps are those of the recipe for photographs (``small``): its model with random weights, its 80 captions a step, two ranks of
one thread. Captions have the lengths of CC3M's and random ids, pictures random features. Inside: gathering all ranks' images
and letting them into the queue, as the worker loop itself measures it, and the image loss at 1,000 slots with its gradient,
made once more on its own after the step.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from chatsearch.data.example import Example
from chatsearch.data.pack import Batch, pack
from chatsearch.model.objective import image_loss
from chatsearch.model.searcher import ChatSearcher
from chatsearch.testing.training import tiny_training
from chatsearch.train.checkpoint import COMMON_FILE
from chatsearch.train.config import TrainConfig
from chatsearch.train.run import CHECKPOINTS
from chatsearch.train.state import read_tensors
from chatsearch.train.trainer import Trainer
from torch import Tensor

from jobs.recipes.train import small_align
from tests.benchmarks.harness import Result, account
from tests.benchmarks.training_setup import COMMAND, NUM_WORKERS, RUN_LIMIT_S
from tests.gpu.synthetic_documents import CAPTIONS, PAGES, documents
from tests.ranks import Seat, join_group, run_name, start, start_training

NUM_STEPS, WARM_UP = 20, 5
LIMIT = 0.01
WORLDS = (1, 2, 4)
QUEUE = ("features_QD", "ids_Q", "pointer", "count")


class RandomFeatures:
    """Features of pictures, drawn from their names."""

    def __init__(self, config: TrainConfig) -> None:
        self._vision = config.model.vision

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`chatsearch.train.features.FrozenFeatures`."""
        draw = torch.Generator().manual_seed(int(batch.image_hashes[0][:8], 16) if batch.image_hashes else 0)
        shape = (batch.num_images, self._vision.num_tokens, self._vision.token_dim)
        return torch.randn(batch.num_images, self._vision.feature_dim, generator=draw), torch.randn(
            shape, generator=draw
        )


def measure(num_steps: int = NUM_STEPS, warm_up: int = WARM_UP) -> Iterator[Result]:
    """The cost, and the content."""
    with tempfile.TemporaryDirectory() as name:
        yield cost(Path(name), num_steps, warm_up)
        yield content(Path(name))


def cost(folder: Path, num_steps: int, warm_up: int) -> Result:
    """Share of step time, of both ranks."""
    ranks = start(NUM_WORKERS, folder / "logs", take_steps, num_steps)
    ranks.finish(RUN_LIMIT_S)
    lines = [line for rank in range(NUM_WORKERS) for line in ranks.lines(rank)[warm_up:]]
    parts = {part: sum(line[part] for line in lines) for part in ("exchange", "loss", "step")}
    return account(
        "T8",
        [line["exchange"] + line["loss"] for line in lines],
        [line["step"] for line in lines],
        goal="queue (gather, enqueue, loss at 1,000 slots) <= 1 % of step time",
        command=COMMAND,
        at_most=LIMIT,
        note=(
            f"recipe small_align, {lines[0]['targets']} pictures wanted of {lines[0]['images']} a rank; gather and enqueue "
            f"{parts['exchange'] / parts['step']:.2%}, loss and its gradient {parts['loss'] / parts['step']:.2%}"
        ),
    )


def take_steps(seat: Seat, num_steps: int, log: Path) -> None:
    """One rank."""
    join_group(seat)
    config = small_align().replace(features="synthetic", num_workers=0)
    torch.manual_seed(0)
    trainer = Trainer(ChatSearcher(config.model), config, lambda _: RandomFeatures(config), lambda _step, _rank: [])
    share = config.per_step // seat.world_size
    captions = _captions(config, num_steps * config.per_step)
    for step in range(num_steps):
        first = step * config.per_step + seat.rank * share
        batch = pack(
            captions[first : first + share],
            range(seat.rank * share, (seat.rank + 1) * share),
            length=config.max_length,
            pad_id=0,
        )
        begin = time.perf_counter()
        trainer.step(step, [batch])
        step_s = time.perf_counter() - begin
        targets = int(batch.image_target.sum())
        facts = {
            "step": step_s,
            "exchange": trainer.cost.queue_seconds,
            "loss": _loss_seconds(trainer, targets),
            "targets": targets,
            "images": batch.num_images,
        }
        with log.with_suffix(f".{seat.rank}").open("a") as file:
            file.write(json.dumps(facts) + "\n")


def _captions(config: TrainConfig, number: int) -> list[Example]:
    mixed = documents(config.model, number * (CAPTIONS + PAGES) // CAPTIONS, config.max_length)
    return [example for place, example in enumerate(mixed) if place % (CAPTIONS + PAGES) < CAPTIONS]


def _loss_seconds(trainer: Trainer, targets: int) -> float:
    """The image loss against the whole queue, forward and backward, for so many targets."""
    searcher, queue = trainer.searcher, trainer.queue
    state_TH = torch.randn(targets, searcher.config.language.hidden_size, requires_grad=True)
    wanted = [state_TH, searcher.query_head.weight, searcher.gallery_head.weight, searcher.log_scale]
    begin = time.perf_counter()
    found = image_loss(
        searcher.query_embedding(state_TH),
        searcher.gallery_embedding(queue.features_QD),
        torch.arange(targets),
        torch.zeros(targets, dtype=torch.bool),
        searcher.scale,
        ids_C=queue.ids_Q,
        valid_C=torch.ones_like(queue.ids_Q, dtype=torch.bool),
        config=trainer.config.objective,
    )
    torch.autograd.grad(found.wanted.total, wanted)
    return time.perf_counter() - begin


def content(folder: Path) -> Result:
    """The queue after the same steps of a tiny run on 1, 2 and 4 workers, bit by bit."""
    held = {}
    for world_size in WORLDS:
        config = tiny_training(folder, output=str(folder / f"workers-{world_size}"))
        start_training(config, world_size, folder / "logs").finish(RUN_LIMIT_S)
        saved = max(Path(config.output, CHECKPOINTS, run_name(config)).glob("step-*"))
        held[world_size] = read_tensors(saved / COMMON_FILE, QUEUE)
    same = [all(torch.equal(held[n][key], held[1][key]) for key in QUEUE) for n in WORLDS]
    return Result(
        "T8-content",
        "met" if all(same) else "missed",
        sum(same) / len(same),
        None,
        f"the queue's content is identical at {', '.join(map(str, WORLDS))} workers",
        COMMAND,
        note="with the worker count changed in mid-run: tests/integration/test_train_elastic.py",
    )
