"""Readers of a live gallery: which model they insist on, which shards they serve, how soon they see what was committed."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from chatsearch.errors import CorruptArtefactError, FingerprintMismatchError, InputError, WriterConflictError
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.live.compact import Compaction, build_base
from chatsearch.index.live.live_set import open_shards
from chatsearch.index.live.log import Log, entry_name
from chatsearch.index.live.reader import KEPT_VIEWS, LiveGallery
from chatsearch.index.live.state import Version
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.index.merge import merge_batches
from chatsearch.index.shard import IndexShard
from chatsearch.storage import Folder

from tests.unit.index.live.galleries import (
    empty_gallery,
    expected,
    features,
    found,
    gallery_over_index,
    item,
    weights,
    write_model,
)
from tests.unit.index.synthetic import RETRIEVAL_DIM, picture_hash


def queries(num: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, RETRIEVAL_DIM))


def fingerprint(uri: str) -> str:
    return LiveGallery.open(uri).view.version.lineage.mq_fingerprint


def put(writer: GalleryWriter, numbers: dict[str, int]) -> int:
    return writer.upsert([item(i, n) for i, n in numbers.items()], features(list(numbers.values())))


def test_an_untouched_gallery_answers_as_the_index_below_it(tmp_path: Path) -> None:
    uri, live = gallery_over_index(str(tmp_path), 40)
    index = GalleryIndex.open(str(tmp_path / "index"))
    exclude = [{picture_hash(n)} for n in range(4)]
    assert LiveGallery.open(uri).search(queries(), 7, exclude) == index.search(queries(), 7, exclude)
    assert index.search(queries(), 60) == expected(live, queries(), 60)


def test_empty_and_deleted_only_galleries_find_nothing(tmp_path: Path) -> None:
    uri = empty_gallery(str(tmp_path), num_shards=3)
    reader = LiveGallery.open(uri)
    assert reader.search(queries(), 5) == [[]] * 4
    with GalleryWriter.open(uri, "w") as writer:
        writer.compact()
        put(writer, {"a": 1, "b": 2})
        writer.compact()
        writer.delete(["a", "b", "never there"])
        reader.refresh()
        assert (reader.search(queries(), 5), reader.num_items) == ([[]] * 4, 0)
        writer.compact()
        reader.refresh()
        assert reader.search(queries(), 5) == [[]] * 4
        assert reader.view.version.base is None
        put(writer, {"c": 3})
        reader.refresh()
        assert found(reader) == {"c"}
    for k, error in ((0, "k is 0"), (10**9, "1000000000")):
        with pytest.raises(InputError, match=error):
            reader.search(queries(), k)
    with pytest.raises(InputError, match=r"\(4, 3\)"):
        reader.search(queries()[:, :3], 5)
    with pytest.raises(InputError, match="No item 'a' in version"):
        reader.item("a")


def test_many_deletions_in_the_base_are_never_found_and_nothing_else_is_missed(tmp_path: Path) -> None:
    uri, live = gallery_over_index(str(tmp_path), 300, num_shards=3)
    reader = LiveGallery.open(uri)
    order = np.random.default_rng(1).permutation(sorted(live))
    with GalleryWriter.open(uri, "w") as writer:
        for gone in np.array_split(order, 12):
            for k in (1, 10, 400):
                assert reader.search(queries(), k) == expected(live, queries(), k)
            writer.delete(gone.tolist())
            live = {i: n for i, n in live.items() if i not in set(gone)}
            reader.refresh()
    assert reader.search(queries(), 10) == [[]] * 4


def test_a_long_log_is_searched_exactly(tmp_path: Path) -> None:
    """More rows than the segment starts with, replaced and deleted ones among them."""
    uri, live = empty_gallery(str(tmp_path)), {}
    reader = LiveGallery.open(uri)
    with GalleryWriter.open(uri, "w") as writer:
        for start in range(0, 3000, 500):
            old = reader.view
            before = dict(live)
            batch = {f"item-{n:04d}": n for n in range(start, start + 700)}
            put(writer, batch)
            live |= batch
            writer.delete([f"item-{start:04d}"])
            del live[f"item-{start:04d}"]
            reader.refresh()
            for k in (3, 40):
                assert reader.search(queries(), k, [{picture_hash(start + 3)}] * 4) == expected(
                    live, queries(), k, [{picture_hash(start + 3)}] * 4
                )
                assert old.search(queries(), k, (), reader._pool) == expected(before, queries(), k)


def test_a_gallery_of_another_projection_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    uri, live = gallery_over_index(str(tmp_path), 10)
    ours, other = fingerprint(uri), write_model(str(tmp_path / "other"), seed=1)
    assert LiveGallery.open(uri, ours).version == 1
    for arguments in ({"mq_fingerprint": "f" * 16, "model": None}, {"mq_fingerprint": None, "model": other}):
        with pytest.raises(FingerprintMismatchError, match=f"{ours}.*has M_Q .*jobs.gallery --recipe compact"):
            LiveGallery.open(uri, **arguments)
    locked, following = LiveGallery.open(uri, ours), LiveGallery.open(uri)
    with GalleryWriter.open(uri, "w") as writer:
        put(writer, {"x": 3})
        writer.compact(model=other)
        put(writer, {"y": 4})
    following.refresh()
    assert following.search(queries(), 9) == expected(live | {"x": 3, "y": 4}, queries(), 9, seed=1)
    with pytest.raises(FingerprintMismatchError, match=f"has M_Q {ours}"):
        locked.refresh()
    own = expected(live | {"x": 3}, queries(), 9)
    assert locked.search(queries(), 9) == own, "it goes on with the last version of its own projection"


def test_a_model_with_another_encoder_cannot_project_the_gallery(tmp_path: Path) -> None:
    uri, _ = gallery_over_index(str(tmp_path), 10)
    other = write_model(str(tmp_path / "other"), seed=1, encoder="encoder-b")
    with (
        GalleryWriter.open(uri, "w") as writer,
        pytest.raises(FingerprintMismatchError, match=r"encoder-a.*encoder-b.*jobs.embed"),
    ):
        writer.compact(model=other)


def test_a_new_projection_answers_as_an_index_built_with_it(tmp_path: Path) -> None:
    """Items of the base and of the log, without touching a picture again."""
    uri, live = gallery_over_index(str(tmp_path), 30)
    other = write_model(str(tmp_path / "other"), seed=2)
    with GalleryWriter.open(uri, "w") as writer:
        put(writer, {"x": 31})
        writer.compact(model=other, num_shards=1)
    reader = LiveGallery.open(uri)
    assert reader.view.version.lineage.model == other
    assert reader.search(queries(), 40) == expected(live | {"x": 31}, queries(), 40, seed=2)
    assert weights(2).shape[0] == RETRIEVAL_DIM


def test_processes_that_serve_a_shard_each_answer_together_as_one(tmp_path: Path) -> None:
    uri, live = gallery_over_index(str(tmp_path), 40, num_shards=3)
    readers = [LiveGallery.open(uri, shards=[shard]) for shard in range(3)]
    with GalleryWriter.open(uri, "w") as writer:
        batch = {f"item-{n:04d}": n + 50 for n in range(30, 60)}
        put(writer, batch)
        writer.delete(["item-0000", "item-0031"])
        live = {i: n for i, n in (live | batch).items() if i not in ("item-0000", "item-0031")}
        version = put(writer, {"new": 7})
    live["new"] = 7
    readers[0].refresh()
    answers = [reader.shard_hits(queries(), 9, at=version) for reader in readers]
    assert merge_batches(answers, 9) == expected(live, queries(), 9)
    assert sum(reader.num_items for reader in readers) == len(live)
    with pytest.raises(FingerprintMismatchError, match="different index versions"):
        merge_batches([readers[0].shard_hits(queries(), 9), readers[1].shard_hits(queries(), 9, at=1)], 9)
    with pytest.raises(InputError, match=f"Version {version + 1} of the gallery is not held; this reader has"):
        readers[0].shard_hits(queries(), 9, at=version + 1)


def test_old_versions_are_let_go(tmp_path: Path) -> None:
    uri = empty_gallery(str(tmp_path))
    reader = LiveGallery.open(uri)
    with GalleryWriter.open(uri, "w") as writer:
        for number in range(2 * KEPT_VIEWS):
            put(writer, {f"x{number}": number})
            reader.refresh()
    assert len(reader._views) == KEPT_VIEWS


def test_a_reader_that_holds_an_old_version_keeps_answering_while_its_objects_are_deleted(tmp_path: Path) -> None:
    uri, live = gallery_over_index(str(tmp_path), 20)
    with GalleryWriter.open(uri, "w") as writer:
        writer.compact()
        old = LiveGallery.open(uri)
        put(writer, {"x": 3})
        writer.compact(num_shards=1)
        assert len(writer.collect(grace_s=0.0).bases) == 1
        assert old.search(queries(), 30) == expected(live, queries(), 30)
        old.refresh()
        assert old.search(queries(), 30) == expected(live | {"x": 3}, queries(), 30)


def test_what_was_written_during_a_compaction_is_there_afterwards(tmp_path: Path) -> None:
    uri, live = gallery_over_index(str(tmp_path), 20)
    reader = LiveGallery.open(uri)
    with GalleryWriter.open(uri, "w") as writer:
        put(writer, {"x": 3, "y": 4})
        work = Compaction(**{**vars(writer.plan_compaction()), "num_shards": 3})
        writer.delete(["x", "item-0003"])
        writer.snapshot("meanwhile")
        put(writer, {"y": 5, "z": 6})
        made = build_base(work)
        assert build_base(work) == made, "made once"
        writer.commit_compaction(made)
        with pytest.raises(WriterConflictError, match=r"is void: gallery .* was compacted or rolled back at version"):
            writer.commit_compaction(made)
        live = {i: n for i, n in live.items() if i != "item-0003"} | {"y": 5, "z": 6}
        reader.refresh()
        assert reader.search(queries(), 30) == LiveGallery.open(uri).search(queries(), 30)
        assert reader.search(queries(), 30) == expected(live, queries(), 30)


def test_commits_are_found_while_a_new_base_is_being_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, live = gallery_over_index(str(tmp_path), 20)
    go_on = threading.Event()

    def slowly(log: Log, version: Version, shards: Collection[int] | None) -> dict[int, IndexShard]:
        go_on.wait()
        return open_shards(log, version, shards)

    reader = LiveGallery.open(uri)
    old_base = dict(reader.view.shards)
    monkeypatch.setattr("chatsearch.index.live.reader.open_shards", slowly)
    with GalleryWriter.open(uri, "w") as writer:
        put(writer, {"x": 30})
        writer.compact(num_shards=3)
        put(writer, {"item-0001": 31, "y": 32})
        writer.delete(["x"])
        live |= {"item-0001": 31, "y": 32}
        assert reader.refresh() == writer.version
        assert reader.view.shards == old_base
        assert reader.search(queries(), 30) == expected(live, queries(), 30)
        go_on.set()
        deadline = time.monotonic() + 5
        while reader.view.shards == old_base and time.monotonic() < deadline:
            reader.refresh()
            time.sleep(0.01)
        assert len(reader.view.shards) == 3
        assert reader.search(queries(), 30) == expected(live, queries(), 30)
        put(writer, {"x": 33})
        reader.refresh()
        assert reader.search(queries(), 30) == expected(live | {"x": 33}, queries(), 30)
        assert reader.item("item-0001") == item("item-0001", 31)


def test_a_damaged_new_base_is_noted_and_commits_go_on_being_found(tmp_path: Path) -> None:
    uri, live = gallery_over_index(str(tmp_path), 20)
    reader = LiveGallery.open(uri)
    with GalleryWriter.open(uri, "w") as writer:
        made = build_base(writer.plan_compaction())
        writer.commit_compaction(made)
        (path, *_) = Path(uri).glob("bases/*/index/shards/*.faiss")
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        deadline, noted = time.monotonic() + 5, False
        while not noted and time.monotonic() < deadline:
            try:
                reader.refresh()
            except CorruptArtefactError as error:
                noted = path.name in str(error)
            time.sleep(0.01)
        assert noted
        put(writer, {"x": 33})
        with pytest.raises(CorruptArtefactError, match=path.name):
            reader.refresh()
        assert reader.search(queries(), 30) == expected(live | {"x": 33}, queries(), 30)


def test_a_follower_sees_a_commit_within_a_second_by_poll_and_at_once_by_notice(tmp_path: Path) -> None:
    uri = empty_gallery(str(tmp_path))
    polling, told = LiveGallery.open(uri), LiveGallery.open(uri)
    polling.follow(poll_s=0.1)
    told.follow(poll_s=3600.0)
    with GalleryWriter.open(uri, "w") as writer:
        for number in range(5):
            version = put(writer, {f"x{number}": number})
            told.notify()
            begin = time.monotonic()
            for reader in (told, polling):
                while reader.version < version:
                    assert time.monotonic() - begin < 1.0
                    time.sleep(0.01)
    polling.close()
    told.close()


def test_a_damaged_commit_is_noted_and_the_last_good_version_goes_on(tmp_path: Path) -> None:
    uri = empty_gallery(str(tmp_path))
    folder = Folder(uri)
    with GalleryWriter.open(uri, "w") as writer:
        put(writer, {"a": 1})
        reader = LiveGallery.open(uri)
        version = put(writer, {"b": 2})
    good = folder.read_bytes(entry_name(version))
    folder.write_bytes(entry_name(version), good[:-40] + bytes([good[-40] ^ 1]) + good[-39:])
    with pytest.raises(CorruptArtefactError, match=entry_name(version)):
        reader.refresh()
    reader.follow(poll_s=0.05)
    deadline = time.monotonic() + 5
    while reader.problem is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert isinstance(reader.problem, CorruptArtefactError)
    assert found(reader) == {"a"}
    folder.write_bytes(entry_name(version), good)
    while reader.version < version and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found(reader) == {"a", "b"}
    reader.close()
    assert reader.problem is None


def test_ranks_start_at_one_and_scores_fall(tmp_path: Path) -> None:
    uri, _ = gallery_over_index(str(tmp_path), 9)
    with GalleryWriter.open(uri, "w") as writer:
        put(writer, {"a": 20, "b": 21})
    for hits in LiveGallery.open(uri).search(queries(), 100):
        assert [hit.rank for hit in hits] == list(range(1, 12))
        assert all((-x.score, x.item_id) < (-y.score, y.item_id) for x, y in itertools.pairwise(hits))
