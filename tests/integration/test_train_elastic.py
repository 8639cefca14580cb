"""A run that goes on with another number of workers: same samples, same queue, the loss to rounding (R4, paper-spec check 8).

Ranks are bare processes over gloo, killed with SIGKILL; the reference is one run that nobody disturbs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from chatsearch.storage import Folder
from chatsearch.testing.training import tiny_training
from chatsearch.train.checkpoint import COMMON_FILE, SavedCheckpoint, committed
from chatsearch.train.config import TrainConfig
from chatsearch.train.run import CHECKPOINTS
from chatsearch.train.state import read_tensors
from safetensors.torch import load_file

from tests.ranks import Ranks, run_name, start_training

EVERY, STEPS = 20, 60
QUEUE = ("features_QD", "ids_Q", "pointer", "count")


def configure(folder: Path, name: str, zero_stage: int = 1) -> TrainConfig:
    return tiny_training(
        folder,
        steps=STEPS,
        checkpoint_every=EVERY,
        keep_checkpoints=9,
        log_every=1,
        zero_stage=zero_stage,
        output=str(folder / name),
    )


def checkpoints(config: TrainConfig) -> dict[int, SavedCheckpoint]:
    """By step."""
    run = run_name(config)
    held = committed(Folder(config.output).child(CHECKPOINTS, run), run=run)
    return {saved.manifest.step: saved for saved in held if isinstance(saved, SavedCheckpoint)}


def run_with(config: TrainConfig, numbers: list[int], folder: Path) -> list[Ranks]:
    """Train with each number of workers from one checkpoint to the next, then kill them; the last go to the end."""
    made = []
    for phase, world_size in enumerate(numbers):
        ranks = start_training(config, world_size, folder)
        if phase < len(numbers) - 1:
            ranks.wait_until(lambda phase=phase: EVERY * (phase + 1) in checkpoints(config))
            ranks.kill()
        else:
            ranks.finish()
        made.append(ranks)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elastic")
    tiny_training(folder)
    return folder


@pytest.mark.parametrize(
    ("zero_stage", "numbers"),
    [(1, [2, 1, 2]), (2, [1, 4]), (0, [2, 1])],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else f"zero{value}",
)
def test_another_number_of_workers_goes_on_as_if_nothing_had_happened(
    folder: Path, zero_stage: int, numbers: list[int]
) -> None:
    name = "-".join(map(str, [zero_stage, *numbers]))
    calm_config, config = (configure(folder, f"{kind}-{name}", zero_stage) for kind in ("calm", "changed"))
    (calm,) = run_with(calm_config, numbers[:1], folder / "logs")
    expected = calm.losses()
    assert sorted(expected) == list(range(1, STEPS + 1))

    phases = run_with(config, numbers, folder / "logs")
    for phase, ranks in enumerate(phases):
        losses = ranks.losses()
        first = min(losses)
        assert first == 1 if phase == 0 else first % EVERY == 1, "it goes on where a checkpoint was"
        assert (phase > 0) == (first > 1), "a checkpoint was used"
        for step in range(first, min(first + 20, max(losses) + 1)):
            assert losses[step] == pytest.approx(expected[step], rel=1e-6 if phase else 0.0), (phase, step)
    assert max(phases[-1].losses()) == STEPS
    assert [saved.manifest.world_size for _, saved in sorted(checkpoints(config).items())][-1] == numbers[-1]

    # Every step's images have gone in, in the same order: ids, and with them the samples, are the same bits.
    queues = [read_tensors(Path(checkpoints(c)[STEPS].folder.path(COMMON_FILE)), QUEUE) for c in (calm_config, config)]
    assert all(torch.equal(queues[0][key], queues[1][key]) for key in QUEUE)
    ours, theirs = (
        torch.cat([t.double().flatten() for _, t in sorted(load_file(Path(c.output, "searcher.safetensors")).items())])
        for c in (config, calm_config)
    )
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def poison_rank_one(rank: int) -> None:
    """The pictures of one rank give features that are no numbers; an update on any rank would show."""
    from chatsearch.train import trainer

    encode = trainer.Trainer._encode

    def poisoned(self, batch):
        encoded = encode(self, batch)
        if rank == 1:
            encoded.tokens_IKE.fill_(float("nan"))
        return encoded

    def update(self, rate):
        raise AssertionError("the weights were updated")

    trainer.Trainer._encode = poisoned
    trainer.Engine.update = update


def test_a_loss_that_is_not_finite_stops_all_ranks_and_names_the_one_it_comes_from(folder: Path) -> None:
    ranks = start_training(configure(folder, "poisoned"), 2, folder / "logs", poison_rank_one)
    assert ranks.join() == [1, 1]
    said = [ranks.lines(rank)[-1] for rank in range(2)]
    assert [line["error"] for line in said] == ["NonFiniteLossError"] * 2
    assert said[0]["said"] == said[1]["said"]
    assert "The loss of step 0 is not finite on rank 1 with documents " in said[0]["said"]
    assert "rank 0" not in said[0]["said"]
