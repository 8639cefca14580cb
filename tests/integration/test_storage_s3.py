"""Folders and manifests on a real S3 server behave as on a local disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

import pytest
from chatsearch.config import Config
from chatsearch.errors import ConflictingOutputError, IncompleteArtefactError, MissingInputError, StorageError
from chatsearch.manifest import begin_output, open_artefact
from chatsearch.storage import Folder

pytestmark = pytest.mark.s3


class Small(Config):
    size: int = 1


def test_files_round_trip(s3: str) -> None:
    folder = Folder(s3)
    assert not folder.exists()
    assert folder.list() == []
    folder.write_bytes("a/b.bin", b"x" * (9 << 20))
    folder.write_bytes("c.txt", b"hello")
    assert folder.list() == ["a/b.bin", "c.txt"]
    assert folder.list(recursive=False) == ["a", "c.txt"]
    assert folder.size("a/b.bin") == 9 << 20
    assert folder.read_bytes("c.txt") == b"hello"
    assert folder.exists("c.txt") and not folder.exists("d.txt")
    folder.delete("c.txt")
    folder.delete("c.txt")
    assert folder.list() == ["a/b.bin"]
    folder.delete_all()
    assert not folder.exists()


def test_writing_that_fails_leaves_nothing(s3: str) -> None:
    folder = Folder(s3)
    with pytest.raises(RuntimeError, match="half way"), folder.writing("file") as local:
        with open(local, "wb") as handle:
            handle.write(b"half")
        raise RuntimeError("half way")
    assert folder.list() == []


def test_an_upload_that_is_interrupted_leaves_nothing(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: BinaryIO, sink: BinaryIO, length: int) -> None:
        sink.write(source.read(6 << 20))
        raise KeyboardInterrupt

    folder = Folder(s3)
    monkeypatch.setattr(shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.write_bytes("part", b"x" * (9 << 20))
    assert folder.list() == []


def test_local_copy_is_cached_by_content_time(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATSEARCH_CACHE", str(tmp_path / "cache"))
    folder = Folder(s3)
    folder.write_bytes("weights", b"one")
    first = folder.local_path("weights")
    assert folder.local_path("weights") == first
    folder.write_bytes("weights", b"other")
    with open(folder.local_path("weights"), "rb") as handle:
        assert handle.read() == b"other"


def test_artefact_life(s3: str) -> None:
    uri = f"{s3}/artefact"
    with pytest.raises(IncompleteArtefactError, match="nothing is there"):
        open_artefact(uri, "thing")
    output = begin_output(uri, "thing", Small(), {})
    output.folder.write_bytes("part", b"data")
    with pytest.raises(IncompleteArtefactError, match="has not finished"):
        open_artefact(uri, "thing")
    continued = begin_output(uri, "thing", Small(), {})
    assert continued.finished is None and continued.folder.exists("part")
    made = continued.commit(counts={"parts": 1})
    assert open_artefact(uri, "thing", verify=True).fingerprint == made.fingerprint
    assert begin_output(uri, "thing", Small(), {}).finished is not None
    with pytest.raises(ConflictingOutputError, match="overwrite=true"):
        begin_output(uri, "thing", Small(size=2), {})
    replaced = begin_output(uri, "thing", Small(size=2), {}, overwrite=True)
    assert replaced.finished is None and not replaced.folder.exists("part")


def test_missing_file_and_wrong_key_are_named(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingInputError, match="does not exist"):
        Folder(s3).read_bytes("absent")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    with pytest.raises(StorageError, match="credentials"):
        Folder(s3).list()
