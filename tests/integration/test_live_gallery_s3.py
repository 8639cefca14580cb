"""A live gallery on a real S3 server: one writer of many wins, errors of the store lose nothing, compaction and forgetting."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from chatsearch import conditional_put
from chatsearch.errors import StorageError, WriterConflictError
from chatsearch.index.live.forget import forget
from chatsearch.index.live.log import Log
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.storage import Folder

from tests.integration.flaky_s3 import Fault, flaky_s3
from tests.unit.index.live.galleries import empty_gallery, expected, features, found, gallery_over_index, item
from tests.unit.index.synthetic import RETRIEVAL_DIM

pytestmark = pytest.mark.s3


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATSEARCH_CACHE", str(tmp_path / "cache"))


def put(writer: GalleryWriter, numbers: dict[str, int]) -> int:
    return writer.upsert([item(i, n) for i, n in numbers.items()], features(list(numbers.values())))


def test_of_many_that_create_one_object_one_wins(s3: str) -> None:
    folder = Folder(s3)
    for name in map(str, range(5)):
        won: list[int] = []

        def create(number: int, name: str = name, won: list[int] = won) -> None:
            if folder.create(name, b"writer %d" % number):
                won.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [b"writer %d" % number for number in won] == [folder.read_bytes(name)]
        assert folder.create(name, folder.read_bytes(name)), "the same bytes again are the same object"


def test_a_gallery_lives_on_s3_as_on_disk(s3: str, tmp_path: Path) -> None:
    uri, live = gallery_over_index(s3, 30)
    queries_BD = np.random.default_rng(0).normal(size=(4, RETRIEVAL_DIM))
    follower = LiveGallery.open(uri)
    with GalleryWriter.open(uri, "first") as writer:
        with pytest.raises(WriterConflictError, match="being written by 'first'"):
            GalleryWriter.open(uri, "second")
        put(writer, {"a": 40, "b": 41})
        writer.snapshot("kept")
        writer.delete(["item-0003", "a"])
        writer.compact()
        put(writer, {"c": 42})
        follower.refresh()
        live = {i: n for i, n in live.items() if i != "item-0003"} | {"b": 41, "c": 42}
        assert follower.search(queries_BD, 50) == LiveGallery.open(uri).search(queries_BD, 50)
        assert follower.search(queries_BD, 50) == expected(live, queries_BD, 50)
        overtaking = GalleryWriter.open(uri, "second", take_over=True)
        with pytest.raises(WriterConflictError, match="'second' took over"):
            put(writer, {"z": 1})
    overtaking.rollback("kept")
    receipt = forget(overtaking, "a")
    overtaking.close()
    assert receipt.rebuilt == ("current", "snapshot kept")
    assert found(LiveGallery.open(uri)) == {f"item-{n:04d}" for n in range(30)} | {"b"}
    held = {name.split("/")[1] for name in Folder(uri).list("bases")}
    assert len(held) == 2, "the current base and the snapshot's"
    cached = [path for path in (tmp_path / "cache").rglob("*.parquet") if b'"a"' in path.read_bytes()]
    assert cached == []


def test_a_store_that_answers_500_loses_nothing(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures before and after the store did what it was asked, shorter and longer than the client's patience."""
    uri, live, unclear = empty_gallery(s3), {}, {}
    with flaky_s3(os.environ["AWS_ENDPOINT_URL"]) as door, monkeypatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", door.endpoint)
        patched.setattr(conditional_put, "_ATTEMPTS", 3)  # of five, the last ones wait for long
        writer = GalleryWriter.open(uri, "w")
        plan: list[Fault] = []

        def fault(method: str, path: str) -> Fault:
            return plan.pop(0) if plan and method == "PUT" and "/log/" in path else ""

        door.fault = fault
        for number, faults in enumerate([["before"], ["after"], ["before", "after"], ["before"] * 3, ["after"] * 3]):
            plan[:] = faults
            try:
                put(writer, {f"x{number}": number})
                live[f"x{number}"] = number
            except StorageError:
                unclear[f"x{number}"] = number
            assert not plan
            put(writer, {f"y{number}": number})
            live[f"y{number}"] = number
        assert door.num_failed >= 9
        writer.close()
    there = found(LiveGallery.open(uri))
    assert live.keys() <= there <= live.keys() | unclear.keys()
    assert len(live) >= 8
    assert len(Log(Folder(uri)).numbers()) == 2 + len(there), "no write was made twice"
