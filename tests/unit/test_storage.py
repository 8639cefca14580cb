"""Folders on a local disk: whole files or none, and errors that say what to do."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest
from chatsearch.errors import MissingInputError, StorageError
from chatsearch.storage import Folder, cache_root, filesystem, is_remote, join, resolve


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "f"))


def test_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("a/../b") == str(tmp_path / "b")
    assert resolve("file:///x/y") == "/x/y"
    assert resolve("s3://bucket/a/") == "s3://bucket/a"
    assert join("s3://bucket/a/", "b", "c") == "s3://bucket/a/b/c"
    assert is_remote("s3://b") and not is_remote("/x") and not is_remote("file:///x")
    assert Folder("b") == Folder(str(tmp_path / "b")) and str(Folder("b").child("c")) == str(tmp_path / "b" / "c")


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(StorageError, match="scheme 'gopher' is not supported"):
        filesystem("gopher://x/y")


def test_files_round_trip(folder: Folder) -> None:
    assert not folder.exists()
    assert folder.list() == [] and folder.sizes() == {}
    folder.write_bytes("a/b.bin", b"12345")
    folder.write_bytes("c.txt", b"hello!")
    assert folder.list() == ["a/b.bin", "c.txt"]
    assert folder.list("a") == ["a/b.bin"]
    assert folder.list(recursive=False) == ["a", "c.txt"]
    assert folder.sizes() == {"a/b.bin": 5, "c.txt": 6}
    assert folder.sizes("a") == {"a/b.bin": 5}
    assert folder.size("c.txt") == 6
    assert folder.read_bytes("a/b.bin") == b"12345"
    assert folder.exists() and folder.exists("c.txt") and not folder.exists("a") and not folder.exists("d")
    assert folder.sha256("c.txt") == "ce06092fb948d9ffac7d1a376e404b26b7575bcc11ee05a4615fef4fec3a308b"
    assert folder.local_path("c.txt") == folder.path("c.txt")
    folder.delete("c.txt")
    folder.delete("c.txt")
    folder.delete_all()
    folder.delete_all()
    assert not folder.exists()


def test_of_many_that_create_one_file_one_wins_and_it_is_whole(folder: Folder) -> None:
    for name in map(str, range(20)):
        start, won = threading.Barrier(4), []

        def create(number: int, name: str = name, start: threading.Barrier = start, won: list[int] = won) -> None:
            start.wait()
            if folder.create(f"log/{name}", b"writer %d" % number * 1000):
                won.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [b"writer %d" % number * 1000 for number in won] == [folder.read_bytes(f"log/{name}")]
    assert folder.create("log/0", folder.read_bytes("log/0")), "the same bytes again are the same file"
    assert not folder.create("log/0", b"others")
    assert sorted(os.listdir(folder.path("log"))) == sorted(map(str, range(20))), "nothing else is left"


@pytest.mark.parametrize("call", ["read_bytes", "size", "sha256", "local_path"])
def test_a_missing_file_is_named(folder: Folder, call: str) -> None:
    folder.write_bytes("there", b"")
    with pytest.raises(MissingInputError, match="f/gone"):
        getattr(folder, call)("gone")


def test_writing_that_fails_leaves_nothing(folder: Folder) -> None:
    folder.write_bytes("file", b"old")
    with pytest.raises(RuntimeError, match="half way"), folder.writing("file") as local:
        Path(local).write_bytes(b"half")
        raise RuntimeError("half way")
    assert folder.read_bytes("file") == b"old"
    assert os.listdir(folder.uri) == ["file"]


def test_a_file_being_written_is_not_listed(folder: Folder) -> None:
    with folder.writing("file") as local:
        Path(local).write_bytes(b"x")
        assert folder.list() == []
    assert folder.list() == ["file"]


def test_links_that_lead_round_and_names_that_are_no_text_are_listed_past(folder: Folder) -> None:
    folder.write_bytes("here/file", b"1")
    for name in ("a", "b"):
        os.symlink(folder.uri, folder.path(name))
        os.symlink("..", folder.path(f"here/{name}"))
    os.symlink("file", folder.path("here/link"))
    os.symlink("nowhere", folder.path("dangling"))
    os.mkfifo(folder.path("pipe"))
    odd = os.fsdecode(b"caf\xe9")
    Path(folder.path(odd)).write_bytes(b"22")
    assert folder.sizes() == {"here/file": 1, "here/link": 1, odd: 2}
    assert folder.list(recursive=False) == sorted(["a", "b", "here", "dangling", "pipe", odd])
    with pytest.raises(StorageError, match=r"caf\\udce9: its name is not UTF-8. Rename it"):
        folder.read_bytes(odd)
    folder.delete_all(keep="pipe")
    assert folder.list(recursive=False) == ["pipe"]


def test_readers_see_the_old_or_the_new_file_and_nothing_between(folder: Folder) -> None:
    versions = [bytes([n]) * 200_000 for n in range(20)]
    folder.write_bytes("file", versions[0])
    torn: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            data = folder.read_bytes("file")
            if data not in versions:
                torn.append(data)

    done = threading.Event()
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for data in versions:
        folder.write_bytes("file", data)
    done.set()
    for reader in readers:
        reader.join()
    assert torn == []


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "The disk is full: free some space and run the same command again"),
        (errno.EROFS, "read-only: choose another output"),
        (errno.EACCES, "Permission denied: choose another output"),
        (errno.ENOTDIR, "A file is where a folder should be"),
        (errno.EISDIR, "A folder is where a file should be"),
        (errno.EIO, "Check the address, the credentials"),
    ],
)
def test_a_failing_disk_says_what_to_do(folder: Folder, code: int, advice: str) -> None:
    with pytest.raises(StorageError, match=advice) as caught, folder.writing("file"):
        raise OSError(code, os.strerror(code))
    assert folder.path("file") in str(caught.value)
    assert folder.list() == []


def test_no_space_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path / "full"))
    folder.write_bytes("file", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="The disk is full"):
        folder.write_bytes("file", b"new")
    assert folder.read_bytes("file") == b"old"
    assert folder.list() == ["file"]


def test_a_path_through_a_file_is_a_storage_error(folder: Folder) -> None:
    folder.write_bytes("file", b"x")
    with pytest.raises(StorageError, match="Cannot write"):
        folder.write_bytes("file/below", b"y")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_device_is_named_where_a_library_writes(folder: Folder) -> None:
    """FAISS raises an error of its own, which is no OSError."""
    index = faiss.IndexFlatIP(8)
    index.add(np.zeros((5000, 8), np.float32))
    with pytest.raises(StorageError, match="The disk is full"), folder.writing("file") as local:
        os.symlink("/dev/full", local)
        faiss.write_index(index, local)
    assert folder.list() == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_really_full_device_is_named(folder: Folder) -> None:
    with pytest.raises(StorageError, match="The disk is full"), folder.writing("file") as local:
        os.symlink("/dev/full", local)
        with open(local, "wb") as handle:
            handle.write(b"x" * 100_000)
    assert folder.list() == []


@pytest.mark.parametrize("fault", ["mode", "link", "owner"])
def test_a_cache_that_others_can_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.delenv("CHATSEARCH_CACHE", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = Path(cache_root())
    assert root.parent == tmp_path and root.stat().st_mode & 0o777 == 0o700
    assert cache_root() == str(root)
    if fault == "mode":
        root.chmod(0o777)
    elif fault == "link":
        root.rmdir()
        (tmp_path / "elsewhere").mkdir(0o700)
        root.symlink_to(tmp_path / "elsewhere")
    else:
        uid = os.getuid()
        root.rename(tmp_path / f"chatsearch-cache-{uid + 1}")
        monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(StorageError, match="CHATSEARCH_CACHE"):
        cache_root()
    monkeypatch.setenv("CHATSEARCH_CACHE", str(tmp_path / "mine"))
    assert cache_root() == str(tmp_path / "mine")
