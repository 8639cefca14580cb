from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from chatsearch.errors import ArtefactError, CorruptArtefactError, FingerprintMismatchError, StorageError
from chatsearch.manifest import MANIFEST, file_entry
from chatsearch.storage import Folder
from chatsearch.train import checkpoint
from chatsearch.train.checkpoint import (
    COMMON_FILE,
    SavedCheckpoint,
    checkpoint_name,
    committed,
    first_whole,
    prune,
    sweep,
)

FILES = ["rank-00000.safetensors", "rank-00001.safetensors", COMMON_FILE]


def write(folder: Path, step: int, *, run: str = "run", whole: bool = True, root: str | None = None) -> Folder:
    """A checkpoint of two ranks below ``root``, by default below ``folder``. Its files are no tensors: nothing here opens them."""
    target = Folder(root or str(folder / "run")).child(checkpoint_name(step, "ab12"))
    for name in FILES:
        target.write_bytes(name, name.encode() * step)
    if whole:
        files = {name: file_entry(target, name) for name in FILES}
        checkpoint.commit(target, files, run=run, step=step, world_size=2, metrics={"loss": 1.0}, versions={})
    return target


def open_it(folder: Folder, *, run: str = "run") -> SavedCheckpoint:
    return SavedCheckpoint.open(folder, run=run)


def newest(folder: Path) -> SavedCheckpoint | None:
    return first_whole(committed(Folder(str(folder / "run")), run="run"))


def test_a_whole_checkpoint_opens_with_what_was_written(tmp_path: Path) -> None:
    saved = open_it(write(tmp_path, 7))
    assert (saved.manifest.step, saved.manifest.metrics) == (7, {"loss": 1.0})
    assert saved.rank_files() == FILES[:2]
    assert saved.damage() is None
    assert (saved.fetch(FILES, str(tmp_path)) / FILES[1]).read_bytes() == FILES[1].encode() * 7


@pytest.mark.s3
def test_of_a_checkpoint_on_s3_what_is_needed_is_copied(s3: str, tmp_path: Path) -> None:
    saved = open_it(write(tmp_path, 7, root=s3))
    fetched = saved.fetch([FILES[1], COMMON_FILE], str(tmp_path / "copy"))
    assert sorted(path.name for path in fetched.iterdir()) == [COMMON_FILE, FILES[1]]
    assert (fetched / FILES[1]).read_bytes() == FILES[1].encode() * 7


@pytest.mark.s3
@pytest.mark.parametrize("name", FILES)
def test_what_was_exchanged_after_the_check_is_not_left_for_anybody_to_open(s3: str, tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, 7, root=s3)
    saved = open_it(folder)
    folder.write_bytes(name, b"harm" * 7)
    with pytest.raises(CorruptArtefactError, match=rf"{name} is damaged: sha256 \w+, manifest says \w+"):
        saved.fetch(FILES, str(tmp_path / "copy"))
    assert not (tmp_path / "copy" / name).exists()


@pytest.mark.s3
def test_a_disk_without_room_is_named(s3: str, tmp_path: Path) -> None:
    saved = open_it(write(tmp_path, 7, root=s3))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / FILES[0]).symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"rank-00000\.safetensors to .*No space left"):
        saved.fetch(FILES, str(tmp_path / "copy"))


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_named_by_the_rank_that_looks_at_the_file(tmp_path: Path, name: str) -> None:
    path = Path(write(tmp_path, 7).path(name))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    saved = open_it(Folder(str(path.parent)))
    found = [saved.damage(rank, 2) for rank in range(2)]
    assert [error is not None for error in found] == [FILES.index(name) % 2 == rank for rank in range(2)]
    said = str(next(error for error in found if error))
    assert f"{name} is damaged: sha256 " in said


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_or_missing_is_named_without_hashing(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, 7)
    folder.write_bytes(name, b"short")
    assert f"{name} is damaged: 5 bytes, manifest says" in str(open_it(folder).damage())
    folder.delete(name)
    assert f"{name} is missing" in str(open_it(folder).damage())


@pytest.mark.parametrize("field", ["step", "world_size", "metrics", "files", "run", "seal"])
def test_a_manifest_that_lacks_a_field_or_was_changed_is_refused(tmp_path: Path, field: str) -> None:
    folder = write(tmp_path, 7)
    held = json.loads(folder.read_bytes(MANIFEST))
    changed = {"step": 8, "world_size": 1, "metrics": {"loss": 2.0}, "files": {}, "run": "other", "seal": "0" * 64}
    folder.write_bytes(MANIFEST, json.dumps(held | {field: changed[field]}).encode())
    with pytest.raises(CorruptArtefactError, match="is damaged: it is not what was sealed"):
        open_it(folder)
    folder.write_bytes(MANIFEST, json.dumps({k: v for k, v in held.items() if k != field}).encode())
    said = (
        "not what was sealed"
        if field == "seal"
        else rf"no checkpoint manifest of this version \({field}: Field required"
    )
    with pytest.raises(CorruptArtefactError, match=said):
        open_it(folder)


def test_every_flipped_bit_of_a_manifest_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path, 7)
    whole, data = open_it(folder), Path(folder.path(MANIFEST)).read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        Path(folder.path(MANIFEST)).write_bytes(flipped)
        try:
            assert open_it(folder).manifest == whole.manifest  # a space that became another
        except CorruptArtefactError:
            continue


def test_a_checkpoint_under_the_name_of_another_step_is_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path, 7).uri)
    moved = path.rename(path.with_name(checkpoint_name(9, "ab12")))
    with pytest.raises(CorruptArtefactError, match="is of step 7, its folder is another's"):
        open_it(Folder(str(moved)))


def test_a_checkpoint_without_our_manifest_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, 7, whole=False)
    folder.write_bytes(MANIFEST, b'{"weights": "model.pt"}')
    with pytest.raises(CorruptArtefactError, match="is no checkpoint manifest of this version"):
        open_it(folder)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, 7)
    with pytest.raises(FingerprintMismatchError, match="belongs to run run, this configuration makes run other"):
        open_it(folder, run="other")


def test_the_newest_whole_one_is_taken_and_damage_falls_back(tmp_path: Path, caplog) -> None:
    assert newest(tmp_path) is None
    write(tmp_path, 2)
    fourth = write(tmp_path, 4)
    sixth = write(tmp_path, 6)
    write(tmp_path, 8, whole=False)
    found = newest(tmp_path)
    assert found is not None
    assert found.manifest.step == 6
    fourth.write_bytes(FILES[0], b"changed")
    sixth.write_bytes(MANIFEST, b"{}")
    with caplog.at_level(logging.WARNING):
        found = newest(tmp_path)
    assert found is not None
    assert found.manifest.step == 2
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert sixth.uri in said[0]
    assert fourth.uri in said[1]


def test_when_none_holds_the_run_does_not_quietly_start_anew(tmp_path: Path) -> None:
    folder = write(tmp_path, 2)
    folder.write_bytes(FILES[0], b"changed")
    with pytest.raises(ArtefactError, match="is damaged"):
        newest(tmp_path)


def test_sweeping_takes_torn_checkpoints_only_and_names_them(tmp_path: Path, caplog) -> None:
    root = Folder(str(tmp_path / "run"))
    write(tmp_path, 2)
    torn = write(tmp_path, 4, whole=False)
    root.write_bytes("checkpoint_manager_snapshot.json", b"{}")
    with caplog.at_level(logging.WARNING):
        sweep(root)
    assert root.list(recursive=False) == ["checkpoint_manager_snapshot.json", "step-00000002-ab12"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{torn} has no manifest.json: writing it was interrupted. Deleting it."
    ]


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        write(tmp_path, step)
    prune(Folder(str(tmp_path / "run")), 2)
    assert [name[:13] for name in Folder(str(tmp_path / "run")).list(recursive=False)] == [
        "step-00000004",
        "step-00000006",
    ]
