from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chatsearch.corpora.base import Rejected, Sample
from chatsearch.corpora.config import WebDatasetConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.corpora.webdataset import MAX_TEXT_BYTES
from chatsearch.errors import MissingInputError
from chatsearch.types import Kind

from tests.unit.corpora.pictures import picture

Members = list[tuple[str, bytes]]


def write_tar(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(path: Path, **options: object) -> tuple[list[Sample], list[Rejected]]:
    corpus = open_corpus(WebDatasetConfig(path=str(path), **options))
    found = [item for partition in corpus.partitions() for item in corpus.read(partition)]
    return [f for f in found if isinstance(f, Sample)], [f for f in found if isinstance(f, Rejected)]


def good(key: str, caption: str = "a thing") -> Members:
    return [
        (f"{key}.jpg", picture()),
        (f"{key}.txt", caption.encode()),
        (f"{key}.json", json.dumps({"caption": caption, "key": key}).encode()),
    ]


def test_reads_what_img2dataset_writes(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar", good("000000000", "first") + good("000000001", "second"))
    write_tar(tmp_path / "00001.tar", good("000010000", "third"))
    samples, rejected = read(tmp_path)
    assert not rejected
    assert [s.document.document_id for s in samples] == [
        "00000/000000000#caption",
        "00000/000000001#caption",
        "00001/000010000#caption",
    ]
    assert [s.document.segments[1].text for s in samples] == ["first", "second", "third"]
    assert all(s.document.kind == Kind.CAPTION and s.document.split == "train" for s in samples)
    assert len(open_corpus(WebDatasetConfig(path=str(tmp_path))).partitions()) == 2


def test_one_tar_and_gallery_items(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "one.tar", good("k"))
    samples, _ = read(path, emit=("gallery",), split="test")
    assert [(s.document.document_id, s.document.kind, s.document.split) for s in samples] == [
        ("one/k", Kind.GALLERY, "test")
    ]


def test_caption_may_be_in_the_json_alone(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("k.png", picture(form="PNG")), ("k.json", b'{"caption": "from json"}')])
    samples, _ = read(path)
    assert samples[0].document.segments[1].text == "from json"


BAD: dict[str, tuple[Members, str]] = {
    "no picture": ([("bad.txt", b"words")], "caption without picture"),
    "no text": ([("bad.jpg", picture())], "empty text"),
    "blank text": ([("bad.jpg", picture()), ("bad.txt", b"  \n")], "empty text"),
    "not utf-8": ([("bad.jpg", picture()), ("bad.txt", b"\xff\xfe\xfa")], "not UTF-8"),
    "bad json": ([("bad.jpg", picture()), ("bad.json", b"{")], "bad JSON"),
    "json no object": ([("bad.jpg", picture()), ("bad.json", b"[1]")], "empty text"),
    "truncated": ([("bad.jpg", picture(size=(200, 200))[:700]), ("bad.txt", b"x")], "truncated"),
    "repeated key": (good("first"), "duplicate key"),
    "repeated key at once": (good("mid", "another"), "duplicate key"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sample_is_set_aside(tmp_path: Path, case: str) -> None:
    members, reason = BAD[case]
    path = write_tar(tmp_path / "a.tar", good("first") + good("mid") + members + good("last"))
    samples, rejected = read(path)
    assert [s.document.document_id for s in samples] == ["a/first#caption", "a/mid#caption", "a/last#caption"]
    assert len(rejected) == 1
    assert reason in rejected[0].reason
    assert rejected[0].key == "a/" + members[0][0].partition(".")[0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x.pkl", "suffix"),
        ("x.pyd", "suffix"),
        ("x.jpg.exe", "suffix"),
        ("../../etc/x.jpg", "no plain key"),
        ("/etc/x.jpg", "no plain key"),
        ("a b;rm.jpg", "no plain key"),
    ],
)
def test_hostile_member_is_refused_by_name(tmp_path: Path, name: str, reason: str) -> None:
    path = write_tar(tmp_path / "a.tar", [*good("first"), (name, b"payload"), *good("last")])
    samples, rejected = read(path)
    assert len(samples) == 2
    assert reason in rejected[0].reason
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE), ("d.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    samples, rejected = read(path)
    assert not samples
    assert len(rejected) == 3
    assert all("not a plain file" in r.reason for r in rejected)


def test_oversized_text_is_refused_unread(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("k.jpg", picture()), ("k.txt", b"x" * (MAX_TEXT_BYTES + 1))])
    _, rejected = read(path)
    assert any("the limit for .txt" in r.reason for r in rejected)


@pytest.mark.parametrize("cut", range(0, 7168, 256))
def test_broken_tar_keeps_what_came_before(tmp_path: Path, cut: int) -> None:
    path = write_tar(tmp_path / "a.tar", good("first") + good("second"))
    with tarfile.open(path) as tar:
        ends = {m.name.removesuffix(".txt"): m.offset_data + m.size for m in tar if m.name.endswith(".txt")}
    path.write_bytes(path.read_bytes()[:cut])
    samples, rejected = read(path)
    # Picture and text make a sample, whatever happened to the .json after them.
    whole = [key for key, end in ends.items() if cut >= end]
    assert [s.document.document_id for s in samples] == [f"a/{key}#caption" for key in whole]
    assert any("broken tar" in r.reason for r in rejected)


def test_no_tar_at_all_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"this is no tar" * 100)
    _, rejected = read(path)
    assert "broken tar" in rejected[0].reason


def test_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        open_corpus(WebDatasetConfig(path=str(tmp_path)))
    with pytest.raises(MissingInputError):
        open_corpus(WebDatasetConfig(path=str(tmp_path / "none.tar")))


@pytest.mark.photographs
def test_sample_tars(sample_data: Path) -> None:
    samples, rejected = read(sample_data / "formats" / "cc3m" / "webdataset")
    assert not rejected
    assert len(samples) == 48


@pytest.mark.photographs
def test_sample_tars_agree_with_the_tables_beside_them(sample_data: Path) -> None:
    """img2dataset also writes a table and statistics a tar: they are no part of the corpus, and name what failed."""
    folder = sample_data / "formats" / "cc3m" / "webdataset"
    samples, _ = read(folder)
    captions = {s.document.document_id: s.document.segments[1].text for s in samples}
    rows = [
        (f"{path.stem}/{row['key']}#caption", row["status"], row["caption"])
        for path in sorted(folder.glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert captions == {key: caption for key, status, caption in rows if status == "success"}
    failed = [key for key, status, _ in rows if status != "success"]
    assert len(failed) == 2
    assert not captions.keys() & set(failed)
    statistics = [json.loads(path.read_text()) for path in folder.glob("*_stats.json")]
    assert sum(s["successes"] for s in statistics) == len(samples)


def test_fingerprint_follows_content_not_place_and_reads_no_tar_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(path: Path, **options: object) -> str:
        return open_corpus(WebDatasetConfig(path=str(path), **options)).fingerprint()

    monkeypatch.delattr("chatsearch.storage.Folder.sha256")
    folder = tmp_path / "here"
    folder.mkdir()
    write_tar(folder / "00000.tar", good("000000000", "first"))
    before = fingerprint(folder)
    moved = folder.rename(tmp_path / "there")
    assert fingerprint(moved) == before
    assert fingerprint(moved, split="val") != before
    write_tar(moved / "00000.tar", good("000000000", "fir5t"))
    changed = fingerprint(moved)
    assert changed != before
    write_tar(moved / "00001.tar", good("000010000", "second"))
    assert fingerprint(moved) not in (before, changed)


def test_named_keys_of_the_json_travel_along(tmp_path: Path) -> None:
    members = [
        ("a.jpg", picture()),
        ("a.txt", b"a thing"),
        ("a.json", json.dumps({"caption": "x", "width": 640, "url": "u", "n": None}).encode()),
    ]
    write_tar(tmp_path / "t.tar", members + good("b"))
    samples, _ = read(tmp_path, metadata=("width", "url", "n"), emit=(Kind.GALLERY,))
    assert samples[0].document.attributes == {"captions": '["a thing"]', "width": "640", "url": "u"}
    assert samples[1].document.attributes == {"captions": '["a thing"]'}
    plain = open_corpus(WebDatasetConfig(path=str(tmp_path))).config.content()
    assert "metadata" not in plain
