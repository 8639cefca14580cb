"""The writer of a live gallery: one at a time, fenced, and nothing that cannot be searched gets in."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chatsearch.errors import (
    ChatSearchError,
    ConfigError,
    ConflictingOutputError,
    CorruptArtefactError,
    FingerprintMismatchError,
    GalleryError,
    InputError,
    LimitExceededError,
    MissingInputError,
    StorageError,
    WriterConflictError,
)
from chatsearch.index.live import batch as batch_module
from chatsearch.index.live import catalogue as catalogue_module
from chatsearch.index.live.batch import Features
from chatsearch.index.live.create import create_gallery
from chatsearch.index.live.lease import Lease
from chatsearch.index.live.log import Log, entry_name
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.storage import Folder
from chatsearch.types import GalleryItem

from tests.unit.index.live.galleries import (
    empty_gallery,
    expected,
    features,
    found,
    gallery_over_index,
    item,
    put,
    rows,
    write_model,
)
from tests.unit.index.synthetic import RETRIEVAL_DIM, picture_hash


def test_a_second_writer_is_refused_by_name(gallery: str) -> None:
    with GalleryWriter.open(gallery, "nightly import") as writer:
        put(writer, a=1)
        with pytest.raises(
            WriterConflictError, match=r"being written by 'nightly import' \(fence 1\) until 20.*s from now"
        ):
            GalleryWriter.open(gallery, "second")
        put(writer, b=2)
    with pytest.raises(WriterConflictError, match="closed"):
        put(writer, c=3)
    with GalleryWriter.open(gallery, "second") as writer:
        assert writer.num_items == 2


def test_an_overtaken_writer_cannot_commit(gallery: str) -> None:
    old = GalleryWriter.open(gallery, "old")
    put(old, a=1)
    new = GalleryWriter.open(gallery, "new", take_over=True)
    for _ in range(2):
        with pytest.raises(
            WriterConflictError, match=r"'old' \(fence 1\) is not the writer .* 'new' took over with fence 2"
        ):
            put(old, b=2)
    put(new, c=3)
    assert found(LiveGallery.open(gallery)) == {"a", "c"}
    old.close()
    new.close()


def test_a_writer_that_sleeps_until_its_next_number_is_collected_is_not_acknowledged(gallery: str) -> None:
    old = GalleryWriter.open(gallery, "old")
    put(old, a=1)
    follower = LiveGallery.open(gallery)
    with GalleryWriter.open(gallery, "new", take_over=True) as new:
        put(new, b=2)
        new.compact()
        assert old.version + 1 in new.collect(grace_s=0.0).entries
        with pytest.raises(WriterConflictError, match="took over"):
            put(old, z=9)
        assert Log(Folder(gallery)).has(old.version + 1), "its write fell into the gap"
        put(new, c=3)
        follower.refresh()
        follower._next_listing = 0.0
        follower.refresh()
        assert found(follower) == found(LiveGallery.open(gallery)) == {"a", "b", "c"}
        new.collect(grace_s=0.0)
        assert not Log(Folder(gallery)).has(old.version + 1)


def test_a_lease_that_ended_is_taken_and_one_that_is_renewed_is_not(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    first = Lease.acquire(folder, "first", 0.3)
    first.renew()
    with pytest.raises(WriterConflictError, match="'first'"):
        Lease.acquire(folder, "second", 0.3)
    time.sleep(0.35)
    second = Lease.acquire(folder, "second", 30)
    assert (first.fence, second.fence) == (1, 2)
    with pytest.raises(WriterConflictError, match="'second' took over with fence 2"):
        first.check()
    second.release()
    second.renew()
    assert Lease.acquire(folder, "third", 30).fence == 3


def test_an_open_writer_keeps_its_lease_alive(gallery: str) -> None:
    with GalleryWriter.open(gallery, "slow", lease_s=0.3):
        time.sleep(0.7)
        with pytest.raises(WriterConflictError, match="slow"):
            GalleryWriter.open(gallery, "second")


def test_a_damaged_lease_is_named_and_can_be_overruled(gallery: str) -> None:
    GalleryWriter.open(gallery, "first").close()
    folder = Folder(gallery)
    (name,) = folder.list("lease")
    folder.write_bytes(name, folder.read_bytes(name)[:-1])
    with pytest.raises(CorruptArtefactError, match=r"(?s)Cannot tell who writes.*take_over=True"):
        GalleryWriter.open(gallery, "second")
    GalleryWriter.open(gallery, "second", take_over=True).close()


def nan(number: int) -> Features:
    bad = rows([number])
    bad[0, 2] = np.nan
    return Features(bad, "encoder-a", "plain-64")


@pytest.mark.parametrize(
    ("items", "given", "error", "names"),
    [
        ([item("a", 1)], nan(1), InputError, "item 'a' hold nan at position 2"),
        (
            [item("a", 1)],
            Features(np.full((1, 12), 1e39), "encoder-a", "plain-64"),
            InputError,
            "hold inf at position 0",
        ),
        (
            [item("a", 1)],
            Features(rows([1])[:, :5], "encoder-a", "plain-64"),
            InputError,
            r"\(1, 5\) for 1 items.*\(1, 12\)",
        ),
        ([item("a", 1)], features([1, 2]), InputError, r"\(2, 12\) for 1 items"),
        ([item("a", 1)], Features([["x"] * 12], "encoder-a", "plain-64"), InputError, "array of numbers"),  # type: ignore[arg-type]
        (
            [item("a", 1)],
            Features(np.zeros((1, 12), np.float32), "encoder-a", "plain-64"),
            InputError,
            "'a'.*no direction",
        ),
        ([item("a", 1), item("a", 2)], features([1, 2]), GalleryError, "'a' appears more than once in the batch"),
        (
            [item("a", 1), item("b", 1)],
            Features(rows([1, 2]), "encoder-a", "plain-64"),
            InputError,
            "'a' and 'b' show the same",
        ),
        ([item("", 1)], features([1]), InputError, "'' is no item id"),
        ([item("a\ud800", 1)], features([1]), InputError, "not valid Unicode"),
        ([item("a" * 5000, 1)], features([1]), InputError, "5000 bytes"),
        ([GalleryItem("a", "short")], features([1]), InputError, "content hash 'short'"),
        ([GalleryItem("a", picture_hash(1), {"n": 1})], features([1]), InputError, "'n': 1"),  # type: ignore[dict-item]
        (
            [item("a", 1)],
            features([1], encoder="encoder-b"),
            FingerprintMismatchError,
            "encoder-b.*encoder-a.*jobs.embed",
        ),
        ([item("a", 1)], None, InputError, "without features"),
        ([], None, InputError, "neither items nor deletions"),
    ],
)
def test_a_batch_that_cannot_be_searched_is_refused_whole(
    gallery: str, items: list[GalleryItem], given: Features | None, error: type[ChatSearchError], names: str
) -> None:
    with GalleryWriter.open(gallery, "w") as writer:
        put(writer, kept=1)
        before = writer.version
        with pytest.raises(error, match=names):
            writer.write(items, given)
        assert writer.version == before
        assert put(writer, more=2) == before + 1
    assert found(LiveGallery.open(gallery)) == {"kept", "more"}


def test_an_id_added_and_deleted_in_one_batch_and_too_many_changes_are_refused(
    gallery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GalleryWriter.open(gallery, "w") as writer:
        with pytest.raises(GalleryError, match="'a' appears more than once"):
            writer.write([item("a", 1)], features([1]), ["a"])
        monkeypatch.setattr(batch_module, "MAX_CHANGES", 3)
        with pytest.raises(LimitExceededError, match="4 changes; write at most 3"):
            writer.delete(["a", "b", "c", "d"])


def test_items_with_one_faiss_id_are_refused(gallery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "faiss_id", len)
    with GalleryWriter.open(gallery, "w") as writer:
        put(writer, a=1)
        with pytest.raises(GalleryError, match="'a' and 'b' have the same 63-bit id 1"):
            put(writer, b=2)
        with pytest.raises(GalleryError, match="'bb' and 'cc'"):
            put(writer, bb=2, cc=3)
        writer.write([item("b", 2)], features([2]), ["a"])


def test_add_refuses_what_is_there_and_upsert_replaces_it(gallery: str) -> None:
    with GalleryWriter.open(gallery, "w") as writer:
        writer.add([item("a", 1)], features([1]))
        with pytest.raises(GalleryError, match="'a' is in gallery"):
            writer.add([item("b", 2), item("a", 2)], features([2, 2]))
        put(writer, a=2)
        writer.delete("a")
        writer.add([item("a", 3)], features([3]))
    assert LiveGallery.open(gallery).item("a") == item("a", 3)


def test_an_answer_that_was_lost_is_found_out(gallery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store wrote the entry, and the answer never came; or it did not, and it fails as well."""
    create = Folder.create

    def answer_lost(written: bool) -> Callable[..., bool]:
        def failing(self: Folder, name: str, data: bytes) -> bool:
            if written:
                create(self, name, data)
            monkeypatch.setattr(Folder, "create", create)
            raise StorageError("the store answered 500")

        return failing

    with GalleryWriter.open(gallery, "w") as writer:
        for number, written in enumerate([True, False]):
            before = writer.version
            monkeypatch.setattr(Folder, "create", answer_lost(written))
            with pytest.raises(StorageError, match="500"):
                put(writer, **{f"lost{number}": number})
            assert put(writer, **{f"next{number}": number}) == before + 1 + written
        with pytest.raises(GalleryError, match="'lost0' is in gallery"):
            writer.add([item("lost0", 1)], features([1]))
    assert found(LiveGallery.open(gallery)) == {"lost0", "next0", "next1"}


def test_an_entry_that_turns_up_late_is_found_out(gallery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write timed out, the writer looked, saw nothing, went on, and then the store carried it out."""
    create, sent = Folder.create, []

    def timed_out(self: Folder, name: str, data: bytes) -> bool:
        sent.append((name, data))
        raise StorageError("timed out")

    with GalleryWriter.open(gallery, "w") as writer:
        monkeypatch.setattr(Folder, "create", timed_out)
        with pytest.raises(StorageError, match="timed out"):
            put(writer, late=1)
        monkeypatch.setattr(Folder, "create", create)
        writer._ready()
        assert Folder(gallery).create(*sent[0])
        with pytest.raises(StorageError, match="turned up late"):
            put(writer, other=2)
        put(writer, other=2)
    assert found(LiveGallery.open(gallery)) == {"late", "other"}


def test_snapshots_and_rollback(gallery: str) -> None:
    with GalleryWriter.open(gallery, "w") as writer:
        put(writer, a=1, b=2)
        writer.snapshot("two")
        at_two = writer.version
        writer.delete(["a"])
        put(writer, c=3)
        writer.compact()
        writer.collect(grace_s=0.0)
        with pytest.raises(ConfigError, match="'two' is there already, of version"):
            writer.snapshot("two")
        with pytest.raises(ConfigError, match="no name"):
            writer.snapshot("../two")
        with pytest.raises(InputError, match=r"No snapshot 'three'.*there are: two"):
            writer.rollback("three")
        with pytest.raises(InputError, match=f"Version {at_two} .* is not kept"):
            writer.rollback(at_two)
        before = writer.version
        writer.rollback("two")
        reader = LiveGallery.open(gallery)
        assert found(reader) == {"a", "b"}
        writer.rollback(before)
        reader.refresh()
        assert found(reader) == {"b", "c"}
        writer.drop_snapshot("two")
        writer.collect(grace_s=0.0)
        with pytest.raises(InputError, match="there are: none"):
            writer.rollback("two")
        assert len(Log(Folder(gallery)).numbers()) == 1
    assert found(LiveGallery.open(gallery)) == {"b", "c"}


def test_what_was_replaced_stays_for_the_grace_period(tmp_path: Path) -> None:
    uri, live = gallery_over_index(str(tmp_path), 12)
    with GalleryWriter.open(uri, "w") as writer:
        for number in range(3):
            put(writer, **{f"x{number}": number})
            writer.compact()
        assert writer.collect(grace_s=3600).entries == ()
        collected = writer.collect(grace_s=0.0)
        assert len(collected.bases) == 2
        assert Folder(str(tmp_path / "index")).exists("manifest.json"), (
            "what the gallery did not make it does not delete"
        )
    live |= {f"x{number}": number for number in range(3)}
    queries_BD = np.random.default_rng(0).normal(size=(3, RETRIEVAL_DIM))
    assert LiveGallery.open(uri).search(queries_BD, 9) == expected(live, queries_BD, 9)


def test_creating(tmp_path: Path, gallery: str) -> None:
    with pytest.raises(ConflictingOutputError, match="not empty"):
        create_gallery(gallery, model=str(tmp_path / "model"))
    with pytest.raises(MissingInputError, match=r"No gallery at .*jobs.gallery"):
        GalleryWriter.open(str(tmp_path / "absent"), "w")
    with pytest.raises(InputError, match="needs a name"):
        GalleryWriter.open(gallery, "")
    other = write_model(str(tmp_path / "other"), seed=1)
    gallery_over_index(str(tmp_path / "second"), 3)
    with pytest.raises(FingerprintMismatchError, match=r"(?s)built with M_Q .*jobs.index"):
        create_gallery(str(tmp_path / "g"), index=str(tmp_path / "second" / "index"), model=other)


def test_entries_of_another_gallery_or_place_are_refused(tmp_path: Path) -> None:
    galleries = [empty_gallery(str(tmp_path / name)) for name in "ab"]
    for uri in galleries:
        with GalleryWriter.open(uri, "w") as writer:
            put(writer, a=1)
            put(writer, b=2)
    ours, theirs = map(Folder, galleries)
    last = Log(ours).numbers()[-1]
    good = ours.read_bytes(entry_name(last))
    for wrong in (theirs.read_bytes(entry_name(last)), ours.read_bytes(entry_name(last - 1))):
        ours.write_bytes(entry_name(last), wrong)
        with pytest.raises(CorruptArtefactError, match=r"swapped|do not follow|not the newest"):
            LiveGallery.open(galleries[0])
    ours.write_bytes(entry_name(last), good)
    ours.delete(entry_name(last - 1))
    with pytest.raises(CorruptArtefactError, match="has a hole"):
        LiveGallery.open(galleries[0])
