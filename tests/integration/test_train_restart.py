"""Everything that a step depends on is in the checkpoint, and is needed (R5).

One part after the other is taken out of a whole checkpoint, which is then sealed again so that no checksum gives it away:
going on must fail and name the part. Put back as it was at the start of the run, it must change the result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from chatsearch.errors import ArtefactError, CorruptArtefactError, FingerprintMismatchError
from chatsearch.manifest import MANIFEST, Artefact, file_entry
from chatsearch.storage import Folder
from chatsearch.testing.training import tiny_training
from chatsearch.train import trainer as trainer_module
from chatsearch.train.checkpoint import COMMON_FILE, CheckpointManifest, checkpoint_name, rank_file
from chatsearch.train.config import TrainConfig
from chatsearch.train.run import train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

STOP_AT = 5
Tensors = dict[str, Tensor]
Pieces = dict[str, list[int]]


class Interrupt(Exception):
    pass


def configure(folder: Path, name: str) -> TrainConfig:
    config = tiny_training(folder, output=str(folder / name), keep_checkpoints=1)
    # With dropout the random state counts too.
    perceiver = config.model.perceiver.replace(dropout=0.1)
    return config.replace(model=config.model.replace(perceiver=perceiver))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("restart")


@pytest.fixture(scope="module")
def calm(folder: Path) -> Artefact:
    return train(configure(folder, "calm"))


@pytest.fixture(scope="module")
def stopped(folder: Path, calm: Artefact) -> Path:
    """The output of a run that was interrupted behind its checkpoint of step 4."""
    step = trainer_module.Trainer.step

    def stopping(self, number, batches):
        if number == STOP_AT:
            raise Interrupt
        return step(self, number, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "step", stopping)
        with pytest.raises(Interrupt):
            train(configure(folder, "stopped"))
    return folder / "stopped"


def copied(stopped: Path, name: str) -> tuple[TrainConfig, Path]:
    """A copy of the stopped run with its newest checkpoint alone."""
    config = configure(stopped.parent, name)
    shutil.copytree(stopped, config.output)
    *older, found = sorted(Path(config.output).glob("checkpoints/*/step-*"))
    for folder in older:
        shutil.rmtree(folder)
    assert found.name.startswith(checkpoint_name(4, ""))
    return config, found


def rewrite(file: Path, change: Callable[[Tensors, Pieces], None]) -> None:
    """Change the tensors and the index of pieces in one file and seal the checkpoint again."""
    with safe_open(file, "pt") as held:
        pieces = json.loads(held.metadata()["pieces"])
    tensors = load_file(file)
    change(tensors, pieces)
    save_file(tensors, file, {"pieces": json.dumps(pieces)})
    folder = Folder(str(file.parent))
    manifest = CheckpointManifest.model_validate_json(folder.read_bytes(MANIFEST))
    files = manifest.files | {file.name: file_entry(folder, file.name)}
    seal(folder, manifest.model_copy(update={"files": files}))


def seal(folder: Folder, manifest: CheckpointManifest) -> None:
    folder.write_bytes(MANIFEST, manifest.sealed().model_dump_json().encode())


def test_untouched_it_ends_as_the_calm_run(stopped: Path, calm: Artefact) -> None:
    config, _ = copied(stopped, "untouched")
    torch.manual_seed(999)  # another process would have another random state
    again = train(config)
    assert again.manifest.facts["last_step"] == calm.manifest.facts["last_step"]
    assert again.manifest.files == calm.manifest.files


def drop(*prefixes: str) -> Callable[[Tensors, Pieces], None]:
    def change(tensors: Tensors, pieces: Pieces) -> None:
        gone = [name for name in tensors if name.startswith(prefixes)]
        assert gone
        for name in gone:
            del tensors[name]

    return change


def drop_temperature(tensors: Tensors, pieces: Pieces) -> None:
    drop("weight/searcher.log_scale", "exp_avg/searcher.log_scale", "exp_avg_sq/searcher.log_scale")(tensors, pieces)
    del pieces["searcher.log_scale"]


MISSING = [
    ("moments", rank_file(0), drop("exp_avg/"), "has no exp_avg/searcher"),
    ("squares", rank_file(0), drop("exp_avg_sq/"), "has no exp_avg_sq/searcher"),
    ("random", rank_file(0), drop("random_cpu"), "has no random_cpu"),
    ("queue", COMMON_FILE, drop("features_QD"), "has no features_QD"),
    ("queue-ids", COMMON_FILE, drop("ids_Q"), "has no ids_Q"),
    ("queue-place", COMMON_FILE, drop("pointer"), "has no pointer"),
    ("temperature", rank_file(0), drop_temperature, "holds 0 of 1 elements of searcher.log_scale"),
]


@pytest.mark.parametrize(("part", "file", "change", "said"), MISSING, ids=[case[0] for case in MISSING])
def test_a_part_that_is_missing_is_named(stopped: Path, part: str, file: str, change, said: str) -> None:
    config, found = copied(stopped, f"without-{part}")
    rewrite(found / file, change)
    with pytest.raises(CorruptArtefactError, match=said):
        train(config)


def test_a_checkpoint_without_cursor_or_rate_is_refused(stopped: Path) -> None:
    config, found = copied(stopped, "without-cursor")
    folder = Folder(str(found))
    held = json.loads(folder.read_bytes(MANIFEST))
    folder.write_bytes(MANIFEST, json.dumps({k: v for k, v in held.items() if k != "step"}).encode())
    with pytest.raises(ArtefactError, match="step: Field required"):
        train(config)
    metrics = {k: v for k, v in held["metrics"].items() if k != "learning_rate"}
    seal(folder, CheckpointManifest.model_validate(held | {"metrics": metrics}))
    with pytest.raises(
        FingerprintMismatchError, match="was made with learning rate None, this version's schedule gives"
    ):
        train(config)


def test_the_cursor_of_another_step_is_refused(stopped: Path) -> None:
    config, found = copied(stopped, "other-cursor")
    held = json.loads((found / MANIFEST).read_bytes())
    moved = found.rename(found.with_name(checkpoint_name(2, "ab12")))
    seal(Folder(str(moved)), CheckpointManifest.model_validate(held | {"step": 2}))
    with pytest.raises(FingerprintMismatchError, match="step 2 was made with learning rate"):
        train(config)


def fill(value: float, *prefixes: str) -> Callable[[Tensors, Pieces], None]:
    def change(tensors: Tensors, pieces: Pieces) -> None:
        for name, tensor in tensors.items():
            if name.startswith(prefixes):
                tensor.fill_(value)

    return change


def forget_updates(tensors: Tensors, pieces: Pieces) -> None:
    for place in pieces.values():
        place[2] = 0


def draw_anew(tensors: Tensors, pieces: Pieces) -> None:
    tensors["random_cpu"] = torch.Generator().manual_seed(5).get_state()


def empty_queue(tensors: Tensors, pieces: Pieces) -> None:
    fill(0, "features_QD", "pointer", "count")(tensors, pieces)
    fill(-1, "ids_Q")(tensors, pieces)


def first_temperature(tensors: Tensors, pieces: Pieces) -> None:
    (name,) = [name for name in tensors if name == "weight/searcher.log_scale"]
    tensors[name].copy_(-torch.log(torch.tensor(0.07)))


RESET = [
    ("moments", rank_file(0), fill(0.0, "exp_avg/")),
    ("squares", rank_file(0), fill(0.0, "exp_avg_sq/")),
    ("updates", rank_file(0), forget_updates),
    ("random", rank_file(0), draw_anew),
    ("queue", COMMON_FILE, empty_queue),
    ("temperature", rank_file(0), first_temperature),
]


@pytest.mark.parametrize(("part", "file", "change"), RESET, ids=[case[0] for case in RESET])
def test_a_part_put_back_to_its_start_changes_what_follows(
    stopped: Path, calm: Artefact, part: str, file: str, change
) -> None:
    config, found = copied(stopped, f"reset-{part}")
    rewrite(found / file, change)
    again = train(config)
    assert again.manifest.files["searcher.safetensors"] != calm.manifest.files["searcher.safetensors"]
    assert again.manifest.facts["last_step"]["loss"] != calm.manifest.facts["last_step"]["loss"]
