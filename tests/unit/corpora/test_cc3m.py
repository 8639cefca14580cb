from __future__ import annotations

import json
from pathlib import Path

import pytest
from chatsearch.corpora.base import Rejected, Sample
from chatsearch.corpora.config import Cc3mConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.errors import MissingInputError
from chatsearch.storage import Folder
from chatsearch.types import Kind, content_hash

from tests.unit.corpora.pictures import picture


def corpus_of(tmp_path: Path, *rows: str | bytes, header: str = "caption\timage") -> Path:
    folder = tmp_path / "cc3m"
    (folder / "images").mkdir(parents=True)
    for name, colour in (("a.jpg", "red"), ("b.jpg", "green"), ("c.jpg", "blue")):
        (folder / "images" / name).write_bytes(picture(colour))
    (folder / "images" / "cut.jpg").write_bytes(picture(size=(200, 200))[:700])
    (folder / "secret.jpg").write_bytes(picture())
    lines = [header, *rows]
    (folder / "cc3m.tsv").write_bytes(b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in lines))
    return folder / "cc3m.tsv"


def read(path: Path | str, **options: object) -> tuple[list[Sample], list[Rejected]]:
    corpus = open_corpus(Cc3mConfig(path=str(path), **options))
    found = [item for partition in corpus.partitions() for item in corpus.read(partition)]
    return [f for f in found if isinstance(f, Sample)], [f for f in found if isinstance(f, Rejected)]


def test_rows_become_captions_and_gallery_items(tmp_path: Path) -> None:
    path = corpus_of(tmp_path, "a red thing\ta.jpg", 'a "quoted, green" thing \tb.jpg')
    samples, rejected = read(path, emit=("caption", "gallery"), split="val")
    assert not rejected
    assert [(s.document.document_id, s.document.kind, s.document.split) for s in samples] == [
        ("a.jpg#caption", Kind.CAPTION, "val"),
        ("a.jpg", Kind.GALLERY, "val"),
        ("b.jpg#caption", Kind.CAPTION, "val"),
        ("b.jpg", Kind.GALLERY, "val"),
    ]
    name = content_hash(picture("green"))
    assert [s.image or s.text for s in samples[2].document.segments] == [name, 'a "quoted, green" thing']
    assert json.loads(samples[2].document.attributes["captions"]) == ['a "quoted, green" thing']
    assert samples[2].images == {name: picture("green")}


@pytest.mark.parametrize("header", ["image\tcaption", "\ufeffimage\tcaption\r", "image\tcaption\tsource"])
def test_columns_are_found_by_name(tmp_path: Path, header: str) -> None:
    row = "\t".join(["a.jpg", "words", "flickr"][: header.count("\t") + 1])
    samples, rejected = read(corpus_of(tmp_path, row + "\r", header=header))
    assert not rejected
    assert [(s.document.document_id, s.document.segments[1].text) for s in samples] == [("a.jpg#caption", "words")]


BAD: dict[str, tuple[str | bytes, str, str]] = {
    "no picture": ("words\tnone.jpg", "none.jpg", "no picture at 'none.jpg'"),
    "truncated": ("words\tcut.jpg", "cut.jpg", "truncated"),
    "escapes": ("words\t../secret.jpg", "../secret.jpg", "leaves the folder"),
    "absolute": ("words\t/etc/passwd", "/etc/passwd", "leaves the folder"),
    "a folder": ("words\t.", ".", "no picture at"),
    "duplicate": ("other words\ta.jpg", "a.jpg", "duplicate picture"),
    "no caption": (" \tc.jpg", "c.jpg", "empty text"),
    "no name": ("words\t ", "cc3m.tsv:3", "no picture is named"),
    "one column": ("words", "cc3m.tsv:3", "1 columns; the header has 2"),
    "three columns": ("words\tc.jpg\tmore", "cc3m.tsv:3", "3 columns; the header has 2"),
    "not utf-8": (b"\xff\xfe\tc.jpg", "c.jpg", "not UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_row_is_set_aside_with_key_and_reason(tmp_path: Path, case: str) -> None:
    row, key, reason = BAD[case]
    samples, rejected = read(corpus_of(tmp_path, "first\ta.jpg", row, "", "last\tb.jpg"))
    assert [s.document.document_id for s in samples] == ["a.jpg#caption", "b.jpg#caption"]
    assert [r.key for r in rejected] == [key]
    assert reason in rejected[0].reason


def test_partitions_read_apart_give_all_and_find_repeats(tmp_path: Path) -> None:
    path = corpus_of(tmp_path, *[f"caption é{n}\t{'abc'[n % 3]}.jpg" for n in range(7)])
    whole, parts = read(path), read(path, records_per_partition=2)
    assert whole == parts
    assert [s.document.segments[1].text for s in whole[0]] == [f"caption é{n}" for n in range(3)]
    assert [r.key for r in whole[1]] == ["a.jpg", "b.jpg", "c.jpg", "a.jpg"]


URLS = "author : a life in photography\thttps://i.pinimg.com/736x/66.jpg"


@pytest.mark.parametrize("header", [URLS, "caption\turl", "url\tcaption"])
def test_the_published_list_of_urls_is_sent_to_img2dataset(tmp_path: Path, header: str) -> None:
    with pytest.raises(MissingInputError, match=r"img2dataset.*corpus\.type=webdataset"):
        open_corpus(Cc3mConfig(path=str(corpus_of(tmp_path, URLS, header=header))))


@pytest.mark.parametrize("header", ["", "caption", "caption,image", "caption\timage\timage", "\0\xff\t"])
def test_other_columns_are_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(MissingInputError, match="the columns 'caption' and 'image' are needed"):
        open_corpus(Cc3mConfig(path=str(corpus_of(tmp_path, "a\tb", header=header))))


def test_missing_input_and_empty_tables(tmp_path: Path) -> None:
    path = corpus_of(tmp_path)
    assert read(path) == ([], [])
    for wrong in (path.parent, path.parent / "none.tsv"):
        with pytest.raises(MissingInputError, match="Name the TSV itself"):
            open_corpus(Cc3mConfig(path=str(wrong)))
    path.write_bytes(b"")
    with pytest.raises(MissingInputError, match="columns"):
        open_corpus(Cc3mConfig(path=str(path)))


def test_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    def fingerprint(path: Path, **options: object) -> str:
        return open_corpus(Cc3mConfig(path=str(path), **options)).fingerprint()

    before = fingerprint(corpus_of(tmp_path, "words\ta.jpg"))
    moved = (tmp_path / "cc3m").rename(tmp_path / "moved")
    assert fingerprint(moved / "cc3m.tsv") == before
    assert fingerprint(moved / "cc3m.tsv", images=str(moved / "images")) == before
    assert fingerprint(moved / "cc3m.tsv", emit=("gallery",)) != before
    (moved / "images" / "a.jpg").write_bytes(picture(size=(90, 90)))
    changed = fingerprint(moved / "cc3m.tsv")
    assert changed != before
    (moved / "cc3m.tsv").write_text("caption\timage\nwords\tb.jpg\n")
    assert fingerprint(moved / "cc3m.tsv") not in (before, changed)


@pytest.mark.photographs
def test_samples(sample_data: Path) -> None:
    folder = sample_data / "formats" / "cc3m"
    samples, rejected = read(folder / "cc3m_local.tsv")
    assert not rejected
    rows = [line.split("\t") for line in (folder / "cc3m_local.tsv").read_text().splitlines()[1:]]
    assert [(s.document.segments[1].text, s.document.document_id) for s in samples] == [
        (caption, f"{image}#caption") for caption, image in rows
    ]
    with pytest.raises(MissingInputError, match="img2dataset"):
        read(folder / "Validation_GCC-1.1.0-Validation.first2000.tsv")


@pytest.mark.s3
def test_bucket_reads_as_the_folder(tmp_path: Path, s3: str) -> None:
    path = corpus_of(tmp_path, "a\ta.jpg", "b\tnone.jpg", "c\tc.jpg")
    bucket = Folder(s3)
    for name in Folder(str(path.parent)).list():
        bucket.upload(path.parent / name, name)
    assert read(f"{s3}/cc3m.tsv", records_per_partition=2) == read(path, records_per_partition=2)
    here, there = (open_corpus(Cc3mConfig(path=p)).fingerprint() for p in (str(path), f"{s3}/cc3m.tsv"))
    assert here == there
    with pytest.raises(MissingInputError):
        read(f"{s3}/none.tsv")
