"""What several ranks check before and between steps: documents that teach nothing, and a rehearsal; one that fails stops all with the same error, one that goes well leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatsearch.data.config import StreamConfig
from chatsearch.errors import TooManyRejectedError
from chatsearch.testing.training import tiny_training
from chatsearch.train.config import TrainConfig
from chatsearch.train.run import train

from tests.bad_documents import answered, too_long, unanswered, write_documents
from tests.ranks import start_training


def take_memory_of_rank_one(rank: int) -> None:
    """The rehearsal of rank 1 asks for an exbibyte; an update on any rank would show."""
    import torch
    from chatsearch.train import trainer

    rehearse = trainer.Engine.rehearse

    def hungry(self, *inputs):
        if rank == 1:
            torch.empty(1 << 60)
        rehearse(self, *inputs)

    def update(self, rate):
        raise AssertionError("the weights were updated")

    trainer.Engine.rehearse = hungry
    trainer.Engine.update = update


def test_all_ranks_stop_and_name_the_one_without_room(tmp_path: Path) -> None:
    ranks = start_training(tiny_training(tmp_path), 2, tmp_path / "logs", take_memory_of_rank_one)
    assert ranks.join() == [1, 1]
    said = [ranks.lines(rank)[-1] for rank in range(2)]
    assert [line["error"] for line in said] == ["MemoryBudgetError"] * 2
    assert said[0]["said"] == said[1]["said"]
    assert said[0]["said"].startswith("The memory of rank 1 does not hold the largest micro-batch, ")


def leave_rehearsal_out(rank: int) -> None:
    from chatsearch.train import loop

    loop.rehearse = lambda *_: None


def test_two_ranks_with_and_without_it_end_in_the_same_bits(tmp_path: Path) -> None:
    config = tiny_training(tmp_path, zero_stage=2, accumulation=2, steps=4, log_every=1, checkpoint_every=4)
    losses, weights = [], []
    for name, prepare in (("with", None), ("without", leave_rehearsal_out)):
        made = config.replace(output=str(tmp_path / name))
        ranks = start_training(made, 2, tmp_path / "logs", prepare)
        ranks.finish()
        losses.append(ranks.losses())
        weights.append(Path(made.output, "searcher.safetensors").read_bytes())
    assert sorted(losses[0]) == [1, 2, 3, 4]
    assert losses[0] == losses[1]
    assert weights[0] == weights[1]


def configured(folder: Path, name: str, samples, **changes) -> TrainConfig:
    """Of stage 2, on documents of its own."""
    shards = write_documents(str(folder / f"{name}-shards"), samples)
    streams = (StreamConfig(shards=shards, per_step=4),)
    return tiny_training(folder, output=str(folder / name), streams=streams, answer_only=True, steps=20, **changes)


def test_all_ranks_stop_at_the_same_step_when_one_meets_too_many_bad_documents(tmp_path: Path) -> None:
    """One of four is bad: whichever rank meets them, both stop together, and say the same."""
    samples = [too_long(i) if i % 4 == 1 else answered(i) for i in range(40)]
    ranks = start_training(configured(tmp_path, "some", samples), 2, tmp_path / "logs")
    assert ranks.join() == [1, 1]
    said = [ranks.lines(rank)[-1] for rank in range(2)]
    assert [line["error"] for line in said] == ["TooManyRejectedError"] * 2
    assert said[0]["said"] == said[1]["said"]
    assert "gave no example" in said[0]["said"]
    assert "max_length is 320" in said[0]["said"]


def test_one_rank_with_something_to_learn_is_enough(tmp_path: Path) -> None:
    """The only good document of an epoch's eight is on one rank, in its first step or its second."""
    samples = [answered(0), *(unanswered(i) for i in range(7))]
    config = configured(tmp_path, "one", samples, max_rejected_fraction=1.0).replace(steps=2, checkpoint_every=2)
    ranks = start_training(config, 2, tmp_path / "logs")
    ranks.finish()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_corpus_without_answers_is_refused_by_name_and_not_tried_again(tmp_path: Path) -> None:
    samples = [unanswered(i) for i in range(30)]
    config = configured(tmp_path, "none", samples, num_workers=2)
    with pytest.raises(
        TooManyRejectedError, match=r"None of the first 80 documents of stage align \(answer_only=true\)"
    ) as caught:
        train(config)
    assert str(caught.value).count("nothing to fall on") == 3
    assert not list(Path(config.output).glob("checkpoints/*/step-*"))
