"""A disk that fills while a gallery is written or compacted: a named error, nothing acknowledged is lost, and it goes on with room."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chatsearch.errors import StorageError
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter

from tests.unit.index.live.galleries import expected, features, gallery_over_index, item
from tests.unit.index.synthetic import RETRIEVAL_DIM

pytestmark = pytest.mark.fault
DISK_BYTES = 4 << 20
PAGE = 4096
NUM_ITEMS = 400


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that holds 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "small", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def leave(disk: Path, num_bytes: int) -> None:
    """Fill the disk up to so many bytes, in whole pages."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    held = os.statvfs(disk)
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(PAGE, held.f_bavail * held.f_frsize - num_bytes))


def fits(change: Callable[[], object]) -> bool:
    """Whether there was room; every other error than that of a full disk comes through."""
    try:
        change()
    except StorageError as error:
        if "disk is full" not in str(error):
            raise
        return False
    return True


def free(disk: Path) -> None:
    (disk / "ballast").unlink()


def test_compaction_and_writing_on_a_full_disk(small_disk: Path) -> None:
    uri, live = gallery_over_index(str(small_disk), NUM_ITEMS)
    queries_BD = np.random.default_rng(0).normal(size=(3, RETRIEVAL_DIM))
    refused = {"compact": 0, "write": 0}

    def check() -> None:
        with contextlib.closing(LiveGallery.open(uri)) as gallery:
            assert gallery.search(queries_BD, 20) == expected(live, queries_BD, 20)

    for round_number, left in enumerate(range(0, 40 * PAGE, 2 * PAGE)):
        with GalleryWriter.open(uri, "w") as writer:
            name = f"new-{round_number}"
            writer.write([item(name, round_number)], features([round_number]), [f"item-{round_number:04d}"])
            live[name] = round_number
            del live[f"item-{round_number:04d}"]
            leave(small_disk, left)
            refused["compact"] += not fits(writer.compact)
            check()
            if fits(lambda writer=writer: writer.write([item("late", 5)], features([5]), [])):
                live["late"] = 5
            else:
                refused["write"] += 1
            check()
            free(small_disk)
            writer.compact()
            check()
            writer.collect(0.0)
        check()
    assert refused["compact"] > 3, "the disk was never full in mid-compaction"
    assert refused["write"] > 0
