"""One step is one step, on however many workers and in however many micro-batches (paper-spec, check 7).

Two real processes over gloo against one, through DeepSpeed: same losses, same queue, same weights.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from chatsearch.model.config import HeadsConfig
from chatsearch.testing.ports import free_ports
from chatsearch.testing.training import tiny_training
from chatsearch.train.config import TrainConfig
from chatsearch.train.loop import assemble
from chatsearch.train.start import load_start

NUM_STEPS = 4
VARIANTS = [
    {"zero_stage": 1, "accumulation": 1},
    {"zero_stage": 1, "accumulation": 2},
    {"zero_stage": 2, "accumulation": 1},
    {"zero_stage": 2, "accumulation": 2},
    {"zero_stage": 1, "heads": HeadsConfig(num_steps=4), "scale_image_inputs": True},
]


def run_steps(config: TrainConfig, rank: int, world_size: int) -> dict[str, object]:
    """What one rank knows after some steps."""
    builder, trainer = assemble(config, load_start(config))
    metrics = [trainer.step(step, builder.build(step, rank, world_size)) for step in range(NUM_STEPS)]
    features, ids = trainer.queue.contents()
    weights = {name: tensor.detach().clone() for name, tensor in trainer.searcher.state_dict().items()}
    return {"metrics": metrics, "features": features, "ids": ids, "weights": weights}


def worker(rank: int, world_size: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world_size), DS_ACCELERATOR="cpu")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    known = [run_steps(tiny_training(Path(folder), **variant), rank, world_size) for variant in VARIANTS]
    torch.save(known, Path(folder, f"{world_size}-{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], list[dict]]:
    """By (number of workers, rank): what is known after the steps of each variant."""
    folder = tmp_path_factory.mktemp("workers")
    tiny_training(folder)
    for world_size in (1, 2):
        torch.multiprocessing.spawn(worker, (world_size, free_ports(1)[0], str(folder)), nprocs=world_size)
    return {
        (world_size, rank): torch.load(folder / f"{world_size}-{rank}.pt", weights_only=True)
        for world_size in (1, 2)
        for rank in range(world_size)
    }


@pytest.mark.parametrize(
    "variant", range(len(VARIANTS)), ids=lambda n: "-".join(f"{k}{v}" for k, v in VARIANTS[n].items())
)
def test_two_workers_take_the_same_steps_as_one(known, variant: int) -> None:
    alone = known[1, 0][variant if "heads" in VARIANTS[variant] else 0]
    for rank in (0, 1):
        other = known[2, rank][variant]
        for step, (mine, theirs) in enumerate(zip(alone["metrics"], other["metrics"], strict=True)):
            for name in ("loss", "word_loss", "image_loss", "image_loss_first"):
                # Later steps stand on weights that have been rounded differently before.
                assert theirs[name] == pytest.approx(mine[name], rel=1e-5 if step == 0 else 1e-4), (step, name)
            assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-3)
            assert (theirs["num_tokens"], theirs["num_images"]) == (mine["num_tokens"], mine["num_images"])
        assert torch.equal(other["ids"], alone["ids"])
        assert torch.equal(other["features"], alone["features"])
        # Of all weights together: Adam can turn a rounded gradient near zero into a step of full size in one element. How many such
        # elements there are depends on the processor: without AVX-512 up to 2e-5 were seen.
        ours, theirs = (torch.cat([t.double().flatten() for t in k["weights"].values()]) for k in (alone, other))
        assert (ours - theirs).norm() <= 5e-5 * ours.norm()


def test_every_rank_holds_the_same_bits(known) -> None:
    for first, second in zip(known[2, 0], known[2, 1], strict=True):
        assert first["metrics"] == second["metrics"]
        assert torch.equal(first["ids"], second["ids"])
        assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])


def test_micro_batches_on_one_worker_change_nothing(known) -> None:
    once, split = known[1, 0][0], known[1, 0][1]
    for mine, theirs in zip(once["metrics"], split["metrics"], strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-4)
    assert torch.equal(once["features"], split["features"])
