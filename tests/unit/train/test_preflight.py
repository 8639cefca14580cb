"""Before the first step: room on the disk, and the largest micro-batch, which leaves no trace."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from chatsearch.data.steps import StepBuilder
from chatsearch.errors import DiskBudgetError, MemoryBudgetError, TrainingError
from chatsearch.model.config import HeadsConfig, ObjectiveConfig
from chatsearch.storage import Folder
from chatsearch.testing.training import tiny_training
from chatsearch.train import disk, loop
from chatsearch.train.config import TrainConfig
from chatsearch.train.deepspeed_engine import Engine
from chatsearch.train.disk import bundle_bytes, check_disk, checkpoint_bytes
from chatsearch.train.preflight import largest, rehearse
from chatsearch.train.run import CHECKPOINTS, train
from chatsearch.train.start import load_start
from chatsearch.train.trainer import Trainer

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("preflight")


def assembled(config: TrainConfig) -> tuple[StepBuilder, Trainer]:
    loop._join_group()
    return loop.assemble(config, load_start(config))


# ---- the disk ---------------------------------------------------------------------------------------------------


def test_checkpoints_and_bundle_take_what_is_reckoned(folder: Path) -> None:
    config = tiny_training(folder, output=str(folder / "sizes"), keep_checkpoints=9)
    made = train(config)
    files = made.folder.sizes()
    small = 64 << 10  # random states, names and checksums
    for step in ("step-00000002", "step-00000006"):
        written = sum(size for name, size in files.items() if f"/{step}-" in name)
        assert 0 <= written - checkpoint_bytes(config) < small
    weights = sum(size for name, size in files.items() if name.endswith(".safetensors") and "/" not in name)
    assert 0 <= weights - bundle_bytes(config) < small


def test_a_disk_that_is_too_small_is_refused_by_name_before_anything_is_written(folder: Path, monkeypatch) -> None:
    config = tiny_training(folder, output=str(folder / "full"))
    needed = 3 * checkpoint_bytes(config) + bundle_bytes(config)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: Usage(0, 0, needed - 1))
    with pytest.raises(
        DiskBudgetError, match=rf"\({needed - 1} bytes\) free, .* \({needed} bytes\) more: 3 checkpoints"
    ) as caught:
        train(config)
    assert "keep_checkpoints=2" in str(caught.value)
    assert not list(Path(config.output).glob("checkpoints/*"))
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: Usage(0, 0, needed))
    train(config)


def test_what_an_interrupted_run_has_left_is_there_already_and_a_store_is_not_asked(folder: Path, monkeypatch) -> None:
    config = tiny_training(folder, output=str(folder / "again"))
    checkpoints = Folder(config.output).child(CHECKPOINTS, "run")
    each, bundle = checkpoint_bytes(config), bundle_bytes(config)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: Usage(0, 0, 2 * each + bundle))
    with pytest.raises(DiskBudgetError):
        check_disk(config, checkpoints)
    checkpoints.write_bytes("step-00000002-ab12/rank-00000.safetensors", bytes(each))
    check_disk(config, checkpoints)
    check_disk(config.replace(steps=4), Folder(str(folder / "empty")))  # two checkpoints are all there will be
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    check_disk(config.replace(output="s3://bucket/model"), Folder(str(folder / "empty")))


# ---- the rehearsal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"accumulation": 2}, {"answer_only": True}, {"max_length": 512}])
def test_the_largest_micro_batch_is_full_and_of_the_same_kind(folder: Path, changes: dict) -> None:
    config = tiny_training(folder, **changes)
    builder, trainer = assembled(config)
    batches = builder.build(0, 0, 1)
    mock = largest(batches, config)
    (num_rows, length), block = mock.labels.shape, config.model.block_length
    batch = max(batches, key=lambda batch: (len(batch.labels), batch.num_images))
    assert (num_rows, length) == (len(batch.labels) + 1, config.max_length)
    assert (mock.document_ids == 0).all()
    for row in range(num_rows):
        slots = mock.image_col[mock.image_row == row]
        assert slots.min() >= 1
        assert slots.max() + block - 2 < length
        assert (np.diff(slots) >= block).all()
    filled = (batch.document_ids >= 0).sum()
    assert mock.num_images / mock.labels.size >= batch.num_images / filled
    assert (mock.labels >= 0).mean() >= (batch.labels >= 0).sum() / filled
    trainer.rehearse(mock)


@pytest.mark.parametrize(
    "changes",
    [
        {"zero_stage": 0},
        {"zero_stage": 1, "activation_checkpointing": True},
        {"zero_stage": 2, "accumulation": 2},
        {"zero_stage": 2, "precision": "bf16"},
        {"precision": "mixed", "objective": ObjectiveConfig(queue_size=0), "heads": HeadsConfig(num_steps=4)},
    ],
    ids=lambda changes: "-".join(map(str, changes)),
)
def test_a_run_with_and_without_rehearsal_gives_the_same_bits(folder: Path, monkeypatch, changes: dict) -> None:
    config = tiny_training(folder, steps=4, **changes)
    perceiver = config.model.perceiver.replace(dropout=0.1)  # random numbers are drawn in the forward pass
    config = config.replace(model=config.model.replace(perceiver=perceiver))
    name = "-".join(map(str, changes.values())).replace(" ", "")
    rehearsed: list[tuple[int, int]] = []
    engine_rehearse = Engine.rehearse

    def counting(self, *inputs):
        engine_rehearse(self, *inputs)
        assert all(parameter.grad is None for parameter in self._engine.module.parameters())
        rehearsed.append(inputs[0].labels_RL.shape)

    monkeypatch.setattr(Engine, "rehearse", counting)
    made = train(config.replace(output=str(folder / f"with-{name}")))
    assert len(rehearsed) == 1
    monkeypatch.setattr(loop, "rehearse", lambda *_: None)
    plain = train(config.replace(output=str(folder / f"without-{name}")))
    assert len(rehearsed) == 1
    assert made.manifest.facts["last_step"] == plain.manifest.facts["last_step"]
    assert made.manifest.files == plain.manifest.files


def test_it_fails_where_the_step_would_with_the_shape_and_what_to_do(folder: Path, monkeypatch) -> None:
    config = tiny_training(folder)
    builder, trainer = assembled(config)

    def attempt(fail) -> str:
        monkeypatch.setattr(Engine, "rehearse", lambda self, *inputs: fail())
        with pytest.raises((MemoryBudgetError, TrainingError)) as caught:
            rehearse(trainer, lambda: builder.build(0, 0, 1))
        return f"{type(caught.value).__name__}: {caught.value}"

    rows = len(builder.build(0, 0, 1)[0].labels) + 1
    for no_room in (lambda: torch.empty(1 << 60), lambda: _raise(torch.OutOfMemoryError("CUDA out of memory"))):
        said = attempt(no_room)
        assert said.startswith("MemoryBudgetError: The memory of rank 0 does not hold the largest micro-batch")
        assert f"{rows} rows of 320 positions with" in said
        assert "Raise accumulation=1 or num_workers, set activation_checkpointing=true" in said
    said = attempt(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))
    assert said.startswith(f"TrainingError: The model cannot compute a micro-batch of {rows} rows of 320 positions")
    assert "RuntimeError: mat1 and mat2 shapes cannot be multiplied" in said


def _raise(error: Exception) -> None:
    raise error
