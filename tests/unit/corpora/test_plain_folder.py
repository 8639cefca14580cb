from __future__ import annotations

from pathlib import Path

import pytest
from chatsearch.corpora.base import Rejected, Sample
from chatsearch.corpora.config import PlainFolderConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.errors import MissingInputError
from chatsearch.types import Kind, Segment, content_hash

from tests.unit.corpora.pictures import picture


def test_every_picture_is_an_item_under_its_path(tmp_path: Path) -> None:
    files = {
        "b.jpg": picture("red"),
        "a/deep/x.PNG": picture("blue", form="PNG"),
        "a/y.webp": picture("green", form="WEBP"),
        "a/cut.jpg": picture()[:50],
        "notes.txt": b"words",
        ".hidden/z.jpg": picture(),
        "a/.DS_Store": b"x",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "outside.jpg").symlink_to("/etc/hostname")
    corpus = open_corpus(PlainFolderConfig(path=str(tmp_path), records_per_partition=2))
    found = [record for partition in corpus.partitions() for record in corpus.read(partition)]
    samples = [record for record in found if isinstance(record, Sample)]
    assert [s.document.document_id for s in samples] == ["a/deep/x.PNG", "a/y.webp", "b.jpg"]
    assert all(s.document.kind is Kind.GALLERY and s.document.split == "test" for s in samples)
    data = files["b.jpg"]
    assert samples[2].document.segments == (Segment(image=content_hash(data)),)
    assert samples[2].images == {content_hash(data): data}
    rejected = {record.key: record.reason for record in found if isinstance(record, Rejected)}
    assert list(rejected) == ["a/cut.jpg", "notes.txt", "outside.jpg"]
    assert rejected["notes.txt"] == "suffix .txt is not read; known are jpeg, jpg, png, webp"
    assert "leaves the folder through a link" in rejected["outside.jpg"]


def test_the_fingerprint_follows_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="missing or empty"):
        open_corpus(PlainFolderConfig(path=str(tmp_path / "none")))
    (tmp_path / "a.jpg").write_bytes(picture())
    config = PlainFolderConfig(path=str(tmp_path))
    first = open_corpus(config).fingerprint()
    (tmp_path / "b.jpg").write_bytes(picture())
    assert open_corpus(config).fingerprint() != first
