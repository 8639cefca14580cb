"""Compactions that are continued, and the kind of index that they make."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatsearch.errors import IncompleteArtefactError, InputError
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.live.bulk import add_store
from chatsearch.index.live.compact import build_base
from chatsearch.index.live.pinned import open_pinned
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.kinds import GALLERY_INDEX

from tests.unit.index.live.galleries import empty_gallery, features, found, item, rows
from tests.unit.index.synthetic import write_store


@pytest.fixture
def gallery(tmp_path: Path) -> str:
    return empty_gallery(str(tmp_path))


def put(writer: GalleryWriter, **pictures: int) -> int:
    return writer.upsert([item(i, n) for i, n in pictures.items()], features(list(pictures.values())))


def base_folders(gallery: str) -> list[Path]:
    return sorted(Path(gallery).glob("bases/*"))


def test_the_next_writer_goes_on_with_a_compaction(gallery: str) -> None:
    with GalleryWriter.open(gallery, "killed before it committed") as writer:
        put(writer, a=1, b=2)
        build_base(writer.plan_compaction())
    (begun,) = base_folders(gallery)
    made = {path: path.stat().st_mtime_ns for path in begun.rglob("*") if path.is_file()}
    with GalleryWriter.open(gallery, "next") as writer:
        writer.snapshot("in-between")
        writer.compact()
        assert base_folders(gallery) == [begun]
        assert {path: path.stat().st_mtime_ns for path in made} == made
        assert writer.state.current.base is not None
        put(writer, c=3)
        writer.compact()
        assert len(base_folders(gallery)) == 2
    assert found(LiveGallery.open(gallery)) == {"a", "b", "c"}


@pytest.mark.parametrize("change", ["written", "damaged", "rolled back", "other kind"])
def test_a_compaction_of_something_else_starts_anew(gallery: str, change: str) -> None:
    with GalleryWriter.open(gallery, "killed before it committed") as writer:
        put(writer, a=1)
        writer.snapshot("one")
        put(writer, b=2)
        build_base(writer.plan_compaction())
    (begun,) = base_folders(gallery)
    with GalleryWriter.open(gallery, "next") as writer:
        if change == "written":
            put(writer, c=3)
        if change == "damaged":
            next(begun.glob("index/shards/*.faiss")).write_bytes(b"")
        if change == "rolled back":
            writer.rollback("one")
        writer.compact(kind="sq8" if change == "other kind" else None)
        assert len(base_folders(gallery)) == 2
    wanted = {"written": {"a", "b", "c"}, "rolled back": {"a"}}
    assert found(LiveGallery.open(gallery)) == wanted.get(change, {"a", "b"})


def test_a_gallery_that_started_empty_takes_a_kind_and_keeps_it(tmp_path: Path) -> None:
    write_store(str(tmp_path / "features"), rows(range(1200)), [item(f"i-{n}", n) for n in range(1200)])
    uri = empty_gallery(str(tmp_path))
    with GalleryWriter.open(uri, "w") as writer:
        add_store(writer, str(tmp_path / "features"), items_per_batch=500)
        for kind in ("sq8", None):
            writer.compact(kind=kind)
            base = writer.state.current.base
            assert base is not None
            assert open_pinned(writer.log.folder, base.index, GALLERY_INDEX).manifest.facts["kind"] == "sq8"
            writer.delete(["i-3"])
    assert found(LiveGallery.open(uri), 1300) == {f"i-{n}" for n in range(1200) if n != 3}


def test_a_gallery_is_not_taken_for_an_index_that_is_not_finished(gallery: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a gallery that changes"):
        GalleryIndex.open(gallery)
    with pytest.raises(IncompleteArtefactError, match="nothing is there"):
        GalleryIndex.open(str(tmp_path / "nowhere"))
