"""The gallery job: its actions from the command line, on a gallery that lives on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter

from jobs import gallery
from jobs.command import main
from tests.unit.index.live.galleries import found, gallery_over_index, item, rows
from tests.unit.index.synthetic import write_store


def run(uri: str, recipe: str, **settings: object) -> int:
    given = {"gallery": uri, **settings}
    pairs = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    return main(gallery.JOB, ["--no-tracking", "--recipe", recipe, *pairs])


def test_the_life_of_a_gallery(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, live = gallery_over_index(str(tmp_path), 6)
    uri = str(tmp_path / "second")
    assert run(uri, "create", index=tmp_path / "index") == 0
    write_store(str(tmp_path / "more"), rows(range(9)), [item(f"more-{n}", n) for n in range(9)])
    assert run(uri, "add", features=tmp_path / "more", items_per_batch=4) == 0
    assert run(uri, "snapshot", name="grown") == 0
    assert run(uri, "delete", items='["item-0001","more-3"]') == 0
    assert run(uri, "compact", num_shards=3) == 0
    assert run(uri, "forget", what="more-5") == 0
    printed = capsys.readouterr().out
    receipt = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])
    assert receipt["item_ids"] == ["more-5"]
    assert "indices and feature stores that the gallery was made from or took items from" in receipt["remaining"]
    everything = live.keys() | {f"more-{n}" for n in range(9)}
    assert found(LiveGallery.open(uri)) == everything - {"item-0001", "more-3", "more-5"}
    assert run(uri, "rollback", name="grown") == 0
    assert run(uri, "describe") == 0
    said = capsys.readouterr().out
    assert f", {len(everything) - 1} items, M_Q" in said
    assert "snapshot grown: version" in said
    assert found(LiveGallery.open(uri)) == everything - {"more-5"}
    assert run(uri, "drop", name="grown") == 0
    assert run(uri, "collect", grace_s=0) == 0
    assert "entries and" in capsys.readouterr().out


def test_ids_of_digits_alone_and_versions_by_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri, live = gallery_over_index(str(tmp_path), 3)
    write_store(str(tmp_path / "more"), rows([0, 1]), [item("7", 0), item("8", 1)])
    assert run(uri, "add", features=tmp_path / "more") == 0
    before = LiveGallery.open(uri).version
    assert run(uri, "delete", items="[7, 9]") == 0
    assert "deleted 1 of 2" in capsys.readouterr().out
    assert found(LiveGallery.open(uri)) == live.keys() | {"8"}
    assert run(uri, "delete", items="[9]") == 0
    assert "deleted 0 of 1: the gallery holds none of these ids" in capsys.readouterr().out
    assert run(uri, "rollback", name=before) == 0
    assert found(LiveGallery.open(uri)) == live.keys() | {"7", "8"}
    assert run(uri, "snapshot", name=2026) == 2
    assert "not digits alone" in capsys.readouterr().err


def test_what_is_missing_or_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri, _ = gallery_over_index(str(tmp_path), 3)
    assert run(uri, "delete") == 2
    assert "delete needs items" in capsys.readouterr().err
    assert run(str(tmp_path / "new"), "create") == 2
    assert "needs an index to start from, or a model" in capsys.readouterr().err
    with GalleryWriter.open(uri, "the importer"):
        assert run(uri, "delete", items="item-0000") == 1
        assert "written by 'the importer'" in capsys.readouterr().err
        assert run(uri, "delete", items="item-0000", take_over="true") == 0
