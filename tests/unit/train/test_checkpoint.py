from __future__ import annotations

from pathlib import Path

import pytest
from chatsearch.errors import (
    ArtefactError,
    CorruptArtefactError,
    FingerprintMismatchError,
    IncompleteArtefactError,
    StorageError,
)
from chatsearch.storage import Folder
from chatsearch.train import checkpoint
from chatsearch.train.checkpoint import SavedCheckpoint, checkpoint_name, newest, sweep


def write(
    folder: Path, step: int, *, run: str = "run", world_size: int = 2, whole: bool = True, root: str | None = None
) -> Folder:
    """A checkpoint below ``root``, by default below ``folder``, by way of files in ``folder``."""
    scratch = folder / "scratch"
    (scratch / "deepspeed" / "state").mkdir(parents=True, exist_ok=True)
    (scratch / "deepspeed" / "state" / "weights.pt").write_bytes(b"weights" * step)
    (scratch / checkpoint.rank_file(0)).write_bytes(b"queue" * step)
    target = Folder(root or str(folder / "run")).child(checkpoint_name(step, "ab12"))
    files = checkpoint.upload(str(scratch), target)
    if whole:
        checkpoint.commit(target, files, run=run, step=step, world_size=world_size, metrics={"loss": 1.0}, versions={})
    return target


def open_it(folder: Folder, *, run: str = "run", world_size: int = 2) -> SavedCheckpoint:
    return SavedCheckpoint.open(folder, run=run, world_size=world_size)


def test_a_whole_checkpoint_opens_with_what_was_written(tmp_path: Path) -> None:
    saved = open_it(write(tmp_path, 7))
    assert (saved.manifest.step, saved.manifest.metrics) == (7, {"loss": 1.0})
    assert sorted(saved.manifest.files) == ["deepspeed/state/weights.pt", "rank-00000.safetensors"]
    assert (saved.fetch(str(tmp_path)) / "deepspeed/state/weights.pt").read_bytes() == b"weights" * 7


@pytest.mark.s3
def test_a_checkpoint_on_s3_is_copied_whole(s3: str, tmp_path: Path) -> None:
    saved = open_it(write(tmp_path, 7, root=s3))
    fetched = saved.fetch(str(tmp_path / "copy"))
    assert (fetched / "deepspeed/state/weights.pt").read_bytes() == b"weights" * 7
    assert (fetched / checkpoint.rank_file(0)).read_bytes() == b"queue" * 7


@pytest.mark.s3
@pytest.mark.parametrize("name", ["deepspeed/state/weights.pt", "rank-00000.safetensors"])
def test_what_was_exchanged_after_the_check_is_not_left_for_anybody_to_open(s3: str, tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, 7, root=s3)
    saved = open_it(folder)
    folder.write_bytes(name, b"harm" * 7)
    with pytest.raises(CorruptArtefactError, match=rf"{name} is damaged: sha256 \w+, manifest says \w+"):
        saved.fetch(str(tmp_path / "copy"))
    assert not (tmp_path / "copy" / name).exists()


@pytest.mark.s3
def test_a_disk_without_room_is_named(s3: str, tmp_path: Path) -> None:
    saved = open_it(write(tmp_path, 7, root=s3))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "rank-00000.safetensors").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"rank-00000\.safetensors to .*No space left"):
        saved.fetch(str(tmp_path / "copy"))


def test_a_torn_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompleteArtefactError, match=r"no manifest\.json"):
        open_it(write(tmp_path, 7, whole=False))


@pytest.mark.parametrize("name", ["deepspeed/state/weights.pt", "rank-00000.safetensors"])
def test_one_flipped_bit_is_refused_and_named(tmp_path: Path, name: str) -> None:
    path = Path(write(tmp_path, 7).path(name))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtefactError, match=rf"{name} is damaged: sha256 \w+, manifest says \w+"):
        open_it(Folder(str(path)[: -len(name) - 1]))


def test_a_missing_file_and_a_broken_manifest_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, 7)
    folder.delete("rank-00000.safetensors")
    with pytest.raises(CorruptArtefactError, match=r"rank-00000\.safetensors is missing"):
        open_it(folder)
    folder.write_bytes("manifest.json", b'{"step": 7}')
    with pytest.raises(CorruptArtefactError, match="is no checkpoint manifest"):
        open_it(folder)


def test_another_configuration_or_number_of_workers_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, 7)
    with pytest.raises(FingerprintMismatchError, match="belongs to run run, this configuration makes run other"):
        open_it(folder, run="other")
    with pytest.raises(FingerprintMismatchError, match=r"written by 2 workers, this run has 4\. Set num_workers=2"):
        open_it(folder, world_size=4)


def test_the_newest_whole_one_is_taken_and_damage_falls_back(tmp_path: Path) -> None:
    root = Folder(str(tmp_path / "run"))
    assert newest(root, run="run", world_size=2) is None
    write(tmp_path, 2)
    fourth = write(tmp_path, 4)
    write(tmp_path, 6, whole=False)
    found = newest(root, run="run", world_size=2)
    assert found is not None and found.manifest.step == 4
    fourth.write_bytes("rank-00000.safetensors", b"changed")
    found = newest(root, run="run", world_size=2)
    assert found is not None and found.manifest.step == 2


def test_when_none_holds_the_run_does_not_quietly_start_anew(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    folder.write_bytes("rank-00000.safetensors", b"changed")
    with pytest.raises(ArtefactError, match="is damaged"):
        newest(Folder(str(tmp_path / "run")), run="run", world_size=2)


def test_sweeping_takes_torn_checkpoints_only(tmp_path: Path) -> None:
    root = Folder(str(tmp_path / "run"))
    write(tmp_path, 2)
    write(tmp_path, 4, whole=False)
    root.write_bytes("checkpoint_manager_snapshot.json", b"{}")
    sweep(root)
    assert root.list(recursive=False) == ["checkpoint_manager_snapshot.json", "step-00000002-ab12"]
