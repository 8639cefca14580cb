"""Compactions: the kind of index that they make, and what is collected while they run."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatsearch.errors import IncompleteArtefactError, InputError, UnknownNameError
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.live.bulk import add_store
from chatsearch.index.live.compact import build_base
from chatsearch.index.live.pinned import open_pinned
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.kinds import GALLERY_INDEX

from tests.unit.index.live.galleries import empty_gallery, found, item, put, rows
from tests.unit.index.synthetic import write_store


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


@pytest.mark.parametrize("kind", ["ivfpq", "auto"])
def test_an_unknown_kind_is_refused_before_anything_is_written(gallery: str, kind: str) -> None:
    with GalleryWriter.open(gallery, "w") as writer:
        put(writer, a=1)
        with pytest.raises(UnknownNameError, match="Unknown kind of index"):
            writer.compact(kind=kind)
        assert not Path(gallery, "bases").exists()


def test_states_collected_during_a_compaction_are_not_missed(gallery: str) -> None:
    with GalleryWriter.open(gallery, "w") as writer:
        put(writer, a=1, b=2)
        made = build_base(writer.plan_compaction())
        writer.snapshot("one")
        put(writer, c=3)
        writer.snapshot("two")
        writer.delete(["a"])
        writer.snapshot("three")
        assert writer.collect(grace_s=0.0).entries
        writer.commit_compaction(made)
        assert found(LiveGallery.open(gallery)) == {"b", "c"}
    with GalleryWriter.open(gallery, "next") as writer:
        writer.compact()
    assert found(LiveGallery.open(gallery)) == {"b", "c"}


def test_a_gallery_is_not_taken_for_an_index_that_is_not_finished(gallery: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a gallery that changes"):
        GalleryIndex.open(gallery)
    with pytest.raises(IncompleteArtefactError, match="nothing is there"):
        GalleryIndex.open(str(tmp_path / "nowhere"))
