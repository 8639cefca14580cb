from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chatsearch.corpora.base import Rejected, Sample
from chatsearch.corpora.config import ParquetImagesConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.errors import ConfigError, MissingInputError
from chatsearch.types import Kind, content_hash
from pydantic import ValidationError

from tests.unit.corpora.pictures import picture

COLOURS = ("red", "green", "blue", "white", "black")


def write(path: Path, columns: dict[str, list[Any] | pa.Array], rows_per_group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows_per_group)
    return path


def read(path: Path, **options: object) -> tuple[list[Sample], list[Rejected]]:
    corpus = open_corpus(ParquetImagesConfig(path=str(path), **options))
    payloads = json.loads(json.dumps([dict(p.payload) for p in corpus.partitions()]))  # as tasks get them
    partitions = [type(p)(p.index, payload) for p, payload in zip(corpus.partitions(), payloads, strict=True)]
    found = [item for partition in partitions for item in corpus.read(partition)]
    return [f for f in found if isinstance(f, Sample)], [f for f in found if isinstance(f, Rejected)]


def test_pictures_ids_captions_and_metadata_are_read(tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet",
        {
            "id": ["x", "y"],
            "image": [picture("red"), picture("green")],
            "caption": ["  a red thing ", "a green one"],
            "price": [1.5, None],
            "made": [datetime.date(2024, 2, 29)] * 2,
            "tags": [["a", "b"], []],
            "unused": ["u", "u"],
        },
    )
    samples, rejected = read(
        tmp_path, id="id", metadata=("price", "made", "tags"), emit=(Kind.CAPTION, Kind.GALLERY), split="test"
    )
    assert not rejected
    assert [s.document.document_id for s in samples] == ["x#caption", "x", "y#caption", "y"]
    caption, item = samples[0].document, samples[1].document
    assert [s.text for s in caption.segments] == [None, "a red thing"]
    assert [s.image for s in item.segments] == [content_hash(picture("red"))]
    assert item.attributes == {
        "captions": '["a red thing"]',
        "price": "1.5",
        "made": "2024-02-29",
        "tags": '["a", "b"]',
    }
    assert samples[2].document.attributes == {"captions": '["a green one"]', "made": "2024-02-29", "tags": "[]"}
    assert (item.kind, item.split, item.corpus) == (Kind.GALLERY, "test", "parquet_images")
    assert samples[0].images == {content_hash(picture("red")): picture("red")}


def test_what_hugging_face_datasets_write_is_read(tmp_path: Path) -> None:
    """Structs of bytes and path, several captions a row, no ids."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": picture(c), "path": "p.jpg"} for c in COLOURS], kind)
    captions = [[f"a {c} thing", "", "another"] for c in COLOURS]
    write(tmp_path / "data" / "train-0.parquet", {"picture": images, "texts": captions})
    samples, rejected = read(tmp_path, image="picture", caption="texts", records_per_partition=1)
    assert not rejected
    assert [s.document.document_id for s in samples] == [f"data/train-0/{n}#caption" for n in range(5)]
    assert [s.text for s in samples[3].document.segments] == [None, "a white thing", "another"]


def test_row_groups_are_never_divided(tmp_path: Path) -> None:
    columns = {"image": [picture(c) for c in COLOURS], "caption": list(COLOURS)}
    corpus = open_corpus(ParquetImagesConfig(path=str(write(tmp_path / "a.parquet", columns)), records_per_partition=3))
    payloads = [partition.payload for partition in corpus.partitions()]
    assert [(p["first"], p["groups"]) for p in payloads] == [(0, [0, 1]), (4, [2])]
    ids = [[s.document.document_id for s in corpus.read(p)] for p in corpus.partitions()]  # type: ignore[union-attr]
    assert ids == [[f"a/{n}#caption" for n in range(4)], ["a/4#caption"]]


def test_bad_rows_are_set_aside_by_key(tmp_path: Path) -> None:
    write(
        tmp_path / "a.parquet",
        {
            "id": ["ok", "cut", "none", "silent", None, "ok"],
            "image": [picture(), picture()[:80], None, picture(), picture(), picture("blue")],
            "caption": ["c", "c", "c", " ", "c", "c"],
        },
    )
    write(tmp_path / "b.parquet", {"id": ["ok", "fine"], "image": [picture(), picture()], "caption": ["c", "c"]})
    samples, rejected = read(tmp_path, id="id")
    assert [s.document.document_id for s in samples] == ["ok#caption", "fine#caption"]
    reasons = {(r.key, r.reason.split(":")[0].split(".")[0]) for r in rejected}
    assert [r.key for r in rejected] == ["cut", "none", "silent", "a/4", "ok", "ok"]
    assert ("none", "no picture in column 'image'") in reasons
    assert ("a/4", "no id in column 'id'") in reasons
    assert ("silent", "empty text") in reasons
    assert ("ok", "duplicate id") in reasons


def test_a_broken_file_is_set_aside_and_the_others_are_read(tmp_path: Path) -> None:
    columns = {"image": [picture(c) for c in COLOURS], "caption": list(COLOURS)}
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no parquet at all PAR1")
    write(tmp_path / "b.parquet", columns)
    damaged = bytearray(write(tmp_path / "c.parquet", columns).read_bytes())
    offset = pq.read_metadata(tmp_path / "c.parquet").row_group(1).column(0).data_page_offset
    damaged[offset : offset + 40] = b"\xff" * 40
    (tmp_path / "c.parquet").write_bytes(damaged)
    samples, rejected = read(tmp_path)
    ids = [s.document.document_id for s in samples]
    assert ids == [*(f"b/{n}#caption" for n in range(5)), *(f"c/{n}#caption" for n in range(2))]
    assert [r.key for r in rejected] == ["a.parquet", "c.parquet"]
    assert all("broken Parquet file" in r.reason for r in rejected)


def test_a_row_group_over_the_limit_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"image": [picture(), picture("blue"), b"x" * 9000, picture()], "caption": list("abcd")}
    write(tmp_path / "a.parquet", columns)
    monkeypatch.setattr("chatsearch.corpora.parquet_images.MAX_GROUP_BYTES", 8000)
    samples, rejected = read(tmp_path)
    assert [s.document.document_id for s in samples] == ["a/0#caption", "a/1#caption"]
    assert [(r.key, r.reason) for r in rejected] == [
        ("a.parquet:group 1", "over 8,000 bytes; write smaller row groups")
    ]


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"holds no \.parquet file"):
        read(tmp_path)
    with pytest.raises(MissingInputError, match=r"a\.parquet is missing"):
        read(tmp_path / "a.parquet")
    write(tmp_path / "a.parquet", {"image": ["http://somewhere/x.jpg"], "caption": ["c"]})
    with pytest.raises(MissingInputError, match=r"of type string.*URLs are not followed"):
        read(tmp_path)
    with pytest.raises(MissingInputError, match=r"'price' is asked for.*corpus\.metadata="):
        read(tmp_path, metadata=("price",))
    with pytest.raises((ConfigError, ValidationError), match="names no column"):
        ParquetImagesConfig(path="x", caption="")


def test_the_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    columns = {"image": [picture(c) for c in COLOURS], "caption": list(COLOURS)}
    one, two = (write(tmp_path / name / "a.parquet", columns).parent for name in ("one", "two"))
    prints = [open_corpus(ParquetImagesConfig(path=str(path))).fingerprint() for path in (one, two)]
    assert prints[0] == prints[1]
    write(two / "a.parquet", columns | {"caption": [*COLOURS[:4], "other"]})
    assert open_corpus(ParquetImagesConfig(path=str(two))).fingerprint() != prints[0]
    assert open_corpus(ParquetImagesConfig(path=str(one), split="val")).fingerprint() != prints[0]
