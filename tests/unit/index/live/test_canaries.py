"""Canaries of a live gallery: what only memory has lost is opened anew, what the files have lost is not answered."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from chatsearch.errors import CorruptArtefactError
from chatsearch.index.items import ItemTable
from chatsearch.index.live import reader as reader_module
from chatsearch.index.live.create import create_gallery
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.shard import items_name
from chatsearch.manifest import Artefact

from tests.unit.index.synthetic import RETRIEVAL_DIM, make_gallery

QUERIES_BD = np.random.default_rng(0).normal(size=(3, RETRIEVAL_DIM))


def lose(gallery: LiveGallery, index: Artefact) -> None:
    """The items of a shard in memory move on by one row."""
    table = pq.read_table(index.folder.local_path(items_name(0)))
    order = np.roll(np.arange(len(table)), 1)
    for name in ("item_id", "content_hash", "metadata"):
        table = table.set_column(table.column_names.index(name), name, table.column(name).take(order))
    gallery.view.shards[0].items = ItemTable(table)


@pytest.fixture
def made(tmp_path: Path) -> tuple[LiveGallery, Artefact]:
    index = make_gallery(str(tmp_path / "gallery")).index(2)
    create_gallery(str(tmp_path / "live"), index=index.uri)
    return LiveGallery.open(str(tmp_path / "live")), index


def test_what_memory_has_lost_is_opened_anew(made: tuple[LiveGallery, Artefact]) -> None:
    gallery, index = made
    wanted = gallery.search(QUERIES_BD, 5)
    gallery.check()
    lose(gallery, index)
    assert gallery.search(QUERIES_BD, 60) != wanted
    gallery.check()
    assert gallery.search(QUERIES_BD, 5) == wanted


def test_while_the_files_are_damaged_too_nothing_is_answered(made: tuple[LiveGallery, Artefact]) -> None:
    gallery, index = made
    wanted = gallery.search(QUERIES_BD, 5)
    lose(gallery, index)
    path = Path(index.folder.path(items_name(1)))
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(CorruptArtefactError, match=path.name):
        gallery.check()
    for answer in (gallery.search, gallery.shard_hits):
        with pytest.raises(CorruptArtefactError, match="does not answer as it did when it was built"):
            answer(QUERIES_BD, 5)
    path.write_bytes(good)
    gallery.check()
    assert gallery.search(QUERIES_BD, 5) == wanted


def test_a_follower_checks_by_itself(made: tuple[LiveGallery, Artefact], monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, index = made
    wanted = gallery.search(QUERIES_BD, 5)
    lose(gallery, index)
    monkeypatch.setattr(reader_module, "CANARIES_EVERY_S", 0.0)
    gallery._next_check = 0.0
    gallery.follow(poll_s=0.01)
    try:
        for _ in range(2000):
            with contextlib.suppress(CorruptArtefactError):  # while everything is opened anew
                if gallery.search(QUERIES_BD, 5) == wanted:
                    break
            gallery._closed.wait(0.01)
        assert gallery.search(QUERIES_BD, 5) == wanted
    finally:
        gallery.close()
