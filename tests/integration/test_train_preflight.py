"""The rehearsal on several ranks: one that fails stops all with the same error, one that goes well leaves no trace."""

from __future__ import annotations

from pathlib import Path

from chatsearch.testing.training import tiny_training

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
