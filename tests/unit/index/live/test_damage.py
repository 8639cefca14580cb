"""Flipped bits and cut files: found before anything is answered, and before FAISS or Arrow reads a byte."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from chatsearch.errors import ChatSearchError, CorruptArtefactError
from chatsearch.index.live.entry import decode
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.index.shard import IndexShard
from chatsearch.kinds import GALLERY_INDEX
from chatsearch.manifest import open_artefact
from chatsearch.storage import Folder

from tests.unit.index.live.galleries import empty_gallery, features, gallery_over_index, item


def mutate(path: Path, rng: random.Random) -> str:
    """Damage a file: one bit, or a cut. Says what was done."""
    data = bytearray(path.read_bytes())
    if rng.random() < 0.25:
        size = rng.randrange(len(data))
        path.write_bytes(data[:size])
        return f"{path.name} cut from {len(data)} to {size}"
    bit = rng.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return f"{path.name} bit {bit} of {8 * len(data)}"


def damage_and_open(uri: str, files: list[Path], rng: random.Random) -> None:
    """Damage one file, check that a reader refuses it by name, and mend it."""
    path = rng.choice(files)
    good = path.read_bytes()
    done = mutate(path, rng)
    try:
        with pytest.raises(ChatSearchError, match=path.name):
            pytest.fail(f"{done} was not noticed: {LiveGallery.open(uri).version}")
    finally:
        path.write_bytes(good)


def a_gallery_with_all_kinds_of_files(base: str) -> tuple[str, list[Path]]:
    """Base, log and states; and the files that a reader reads."""
    uri, _ = gallery_over_index(base, 20)
    with GalleryWriter.open(uri, "w") as writer:
        writer.compact()
        writer.upsert([item("x", 30)], features([30]))
        writer.delete(["item-0001"])
        writer.snapshot("kept")
        writer.upsert([item("y", 31)], features([31]))
        writer.collect(grace_s=0.0)
    log = sorted(Path(uri).glob("log/*.entry"))
    base_files = [
        path for path in Path(uri).glob("bases/*/index/**/*") if path.is_file() and path.name != "started.json"
    ]
    return uri, log + base_files


def test_damage_anywhere_is_found_before_the_first_answer(tmp_path: Path) -> None:
    uri, files = a_gallery_with_all_kinds_of_files(str(tmp_path))
    assert {path.suffix for path in files} == {".entry", ".faiss", ".parquet", ".json"}
    rng = random.Random(0)
    for _ in range(150):
        damage_and_open(uri, files, rng)
    assert LiveGallery.open(uri).num_items == 21


def test_neither_faiss_nor_arrow_reads_a_damaged_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, files = a_gallery_with_all_kinds_of_files(str(tmp_path))
    for path in files:
        good = path.read_bytes()
        bad = good[:-1] + bytes([good[-1] ^ 0x10])
        path.write_bytes(bad)
        if path.suffix == ".entry":
            with monkeypatch.context() as patched, pytest.raises(CorruptArtefactError, match=path.name):
                patched.setattr("pyarrow.ipc.open_stream", lambda *_: pytest.fail("Arrow read a damaged entry"))
                decode(bad, path.name)
        if path.suffix in (".faiss", ".parquet"):
            index, shard = open_artefact(str(path.parents[1]), GALLERY_INDEX), int(path.stem[-5:])
            with monkeypatch.context() as patched, pytest.raises(CorruptArtefactError, match=path.name):
                patched.setattr("faiss.read_index", lambda *_: pytest.fail("FAISS read a damaged file"))
                if path.suffix == ".parquet":
                    patched.setattr("pyarrow.parquet.read_table", lambda *_: pytest.fail("Arrow read a damaged table"))
                IndexShard(index, shard)
        with pytest.raises(ChatSearchError, match=path.name):
            LiveGallery.open(uri)
        path.write_bytes(good)


def test_damaged_features_stop_a_compaction_and_change_nothing(tmp_path: Path) -> None:
    uri, _ = a_gallery_with_all_kinds_of_files(str(tmp_path))
    parts = sorted(Path(uri).glob("bases/*/features/features/*.parquet"))
    assert parts
    rng = random.Random(1)
    with GalleryWriter.open(uri, "w") as writer:
        before = writer.version
        for _ in range(10):
            path = rng.choice(parts)
            good = path.read_bytes()
            mutate(path, rng)
            with pytest.raises(ChatSearchError, match=path.name):
                writer.compact()
            path.write_bytes(good)
        assert writer.version == before
        writer.compact()
    assert LiveGallery.open(uri).num_items == 21


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    uri, files = a_gallery_with_all_kinds_of_files(str(tmp_path))
    for path in files[1:]:
        if path.suffix == ".entry" and path == max(p for p in files if p.suffix == ".entry"):
            continue  # without its last entry a log is a valid older one
        moved = path.with_suffix(".moved")
        shutil.move(path, moved)
        with pytest.raises(ChatSearchError):
            LiveGallery.open(uri)
        shutil.move(moved, path)
    assert Folder(empty_gallery(str(tmp_path / "other"))).list() == [f"log/{1:020d}.entry"]
