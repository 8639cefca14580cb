"""Forgetting: the picture is in no object of the gallery any more, and the receipt says what became of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chatsearch.errors import InputError
from chatsearch.index.live.compact import live_catalogue
from chatsearch.index.live.forget import forget
from chatsearch.index.live.log import Log
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.storage import Folder

from tests.unit.index.live.galleries import features, found, gallery_over_index, item, rows
from tests.unit.index.synthetic import picture_hash


def everything_in(uri: str) -> bytes:
    """All that can be read in a gallery's folder: raw bytes, and Parquet tables decompressed."""
    text = b""
    for path in (path for path in Path(uri).rglob("*") if path.is_file()):
        text += path.read_bytes()
        if path.suffix == ".parquet":
            text += repr(pq.read_table(path).to_pylist()).encode()
    return text


def test_an_item_is_gone_from_base_log_snapshots_and_disk(tmp_path: Path) -> None:
    uri, live = gallery_over_index(str(tmp_path), 12)
    with GalleryWriter.open(uri, "w") as writer:
        writer.compact()
        writer.snapshot("with it in the base".replace(" ", "-"))
        writer.upsert([item("secret", 77), item("other", 78)], features([77, 78]))
        writer.snapshot("in-the-log")
        writer.upsert([item("secret", 79)], features([79]))
        writer.delete(["item-0004"])
        receipt = forget(writer, "secret")
        assert (receipt.item_ids, receipt.content_hashes) == (("secret",), tuple(sorted(map(picture_hash, (77, 79)))))
        assert receipt.rebuilt == ("current", "snapshot in-the-log")
        assert any("/log/" in place for place in receipt.removed)
        text = everything_in(uri)
        assert b"secret" not in text and b"other" in text
        for number in (77, 79):
            assert picture_hash(number).encode() not in text
        receipt = forget(writer, "item-0004")
        assert receipt.rebuilt == ("snapshot with-it-in-the-base", "snapshot in-the-log")
        assert any("/bases/" in place for place in receipt.removed)
        assert b"item-0004" not in everything_in(uri)
        with pytest.raises(InputError, match="knows an item id or content hash 'secret'"):
            forget(writer, "secret")
        log, snapshots = Log(Folder(uri)), writer.state.snapshots
    assert found(LiveGallery.open(uri)) == live.keys() - {"item-0004"} | {"other"}
    held = {name: {entry.item_id for entry in live_catalogue(log, version)} for name, version in snapshots.items()}
    assert held == {
        "with-it-in-the-base": live.keys() - {"item-0004"},
        "in-the-log": live.keys() - {"item-0004"} | {"other"},
    }


def test_forgetting_a_picture_removes_all_its_items_and_its_features(tmp_path: Path) -> None:
    uri, _ = gallery_over_index(str(tmp_path), 6)
    with GalleryWriter.open(uri, "w") as writer:
        writer.upsert([item("one", 50), item("two", 50), item("three", 51)], features([50, 50, 51]))
        writer.compact()
        writer.upsert([item("three", 50)], features([50]))
        receipt = forget(writer, picture_hash(50))
        assert receipt.item_ids == ("one", "three", "two")
        assert writer.num_items == 6
    assert picture_hash(50).encode() not in everything_in(uri)
    (part,) = Path(uri).glob("bases/*/features/features/*.parquet")
    assert len(pq.read_table(part)) == 6


def test_an_item_whose_picture_others_show_goes_alone(tmp_path: Path) -> None:
    uri, _ = gallery_over_index(str(tmp_path), 3)
    with GalleryWriter.open(uri, "w") as writer:
        writer.upsert([item("one", 1), item("two", 50), item("three", 50)], features([1, 50, 50]))
        forget(writer, "two")
        forget(writer, "one")
    assert found(LiveGallery.open(uri)) == {"item-0000", "item-0001", "item-0002", "three"}
    assert rows([50]).tobytes() in everything_in(uri)


def test_what_is_out_of_reach_is_named(tmp_path: Path) -> None:
    uri, _ = gallery_over_index(str(tmp_path), 5)
    with GalleryWriter.open(uri, "w") as writer:
        receipt = forget(writer, "item-0002")
    outside = [place for place in receipt.remaining if "outside the gallery" in place]
    assert [place.split(":")[0] for place in outside] == [str(tmp_path / "index"), str(tmp_path / "features")]
    assert found(LiveGallery.open(uri)) == {"item-0000", "item-0001", "item-0003", "item-0004"}


def test_a_forgetting_that_was_interrupted_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, _ = gallery_over_index(str(tmp_path), 5)
    for stopped in ("commit_state", "collect"):
        with GalleryWriter.open(uri, "w") as writer:
            writer.upsert([item("secret", 77)], features([77]))
            with monkeypatch.context() as patched:
                patched.setattr(GalleryWriter, stopped, lambda *_, **__: pytest.fail("stopped here"))
                with pytest.raises(pytest.fail.Exception):
                    forget(writer, "secret")
        assert b"secret" in everything_in(uri)
        with GalleryWriter.open(uri, "w") as writer:
            forget(writer, "secret")
        assert b"secret" not in everything_in(uri)
