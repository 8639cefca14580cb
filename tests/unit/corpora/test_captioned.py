from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from chatsearch.corpora.base import Rejected, Sample
from chatsearch.corpora.captioned import CaptionedFolder
from chatsearch.corpora.config import CaptionedFolderConfig
from chatsearch.corpora.open import open_corpus
from chatsearch.corpora.templates import CAPTION_QUESTIONS, FIND_REQUESTS, as_phrase
from chatsearch.errors import MissingInputError
from chatsearch.storage import Folder
from chatsearch.types import Kind, Role, content_hash

from tests.unit.corpora.pictures import picture

Maker = Callable[..., Path]


def record(name: str, **changes: object) -> dict:
    return {"id": name, "file": "images/a.jpg", "captions": ["A red square ."], "split": "train"} | changes


def read(path: Path | str, **options: object) -> tuple[list[Sample], list[Rejected]]:
    corpus = CaptionedFolder(CaptionedFolderConfig(path=str(path), **options))
    found = [item for partition in corpus.partitions() for item in corpus.read(partition)]
    return [f for f in found if isinstance(f, Sample)], [f for f in found if isinstance(f, Rejected)]


def test_caption_document(captioned_folder: Maker) -> None:
    folder = captioned_folder([record("x", captions=["one", "two"], source="flickr")], {"images/a.jpg": picture()})
    samples, rejected = read(folder)
    assert not rejected
    document = samples[0].document
    name = content_hash(picture())
    assert (document.kind, document.split, document.document_id) == (Kind.CAPTION, "train", "x#caption")
    assert [s.image or s.text for s in document.segments] == [name, "one", "two"]
    assert json.loads(document.attributes["captions"]) == ["one", "two"]
    assert document.attributes["source"] == "flickr"
    assert samples[0].images == {name: picture()}


def test_record_without_split_counts_as_train(captioned_folder: Maker) -> None:
    bare = {"id": "x", "file": "images/a.jpg", "captions": ["c"]}
    folder = captioned_folder([bare, record("y", split="test")], {"images/a.jpg": picture()})
    assert [s.document.document_id for s in read(folder, split="train")[0]] == ["x#caption"]
    assert [s.document.document_id for s in read(folder, split="test")[0]] == ["y#caption"]
    assert len(read(folder)[0]) == 2


BAD = {
    "no picture": (record("bad", file="images/none.jpg"), "no picture at 'images/none.jpg'"),
    "truncated": (record("bad", file="images/cut.jpg"), "truncated"),
    "no image": (record("bad", file="images/text.jpg"), "not a JPEG, PNG or WebP"),
    "empty text": (record("bad", captions=["", "  "]), "empty text"),
    "no captions": (record("bad", captions=[]), "captions"),
    "caption no list": (record("bad", captions="words"), "captions"),
    "caption no string": (record("bad", captions=[3]), "captions"),
    "no file": ({"id": "bad", "captions": ["c"]}, "file: Field required"),
    "escapes": (record("bad", file="../secret.jpg"), "leaves the folder"),
    "escapes deep": (record("bad", file="images/../../secret.jpg"), "leaves the folder"),
    "absolute": (record("bad", file="/etc/passwd"), "leaves the folder"),
    "duplicate": (record("good"), "duplicate id"),
    "bad json": ('{"id": "x"', "bad JSON line"),
    "no object": ("[1, 2]", "bad record"),
    "nested": ("[" * 100_000, "bad"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_record_is_set_aside_with_key_and_reason(captioned_folder: Maker, case: str) -> None:
    line, reason = BAD[case]
    files = {"images/a.jpg": picture(), "images/cut.jpg": picture(size=(200, 200))[:700], "images/text.jpg": b"hello"}
    folder = captioned_folder([record("good"), line, record("last")], files)
    (folder.parent / "secret.jpg").write_bytes(picture())
    samples, rejected = read(folder)
    assert [s.document.document_id for s in samples] == ["good#caption", "last#caption"]
    assert len(rejected) == 1
    assert reason in rejected[0].reason
    expected = line["id"] if isinstance(line, dict) else "captions.jsonl:2"
    assert rejected[0].key == expected


def test_link_out_of_the_folder_is_refused(captioned_folder: Maker) -> None:
    folder = captioned_folder([record("x", file="link.jpg")], {"images/a.jpg": picture()})
    (folder.parent / "secret.jpg").write_bytes(picture())
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    samples, rejected = read(folder)
    assert not samples
    assert "through a link" in rejected[0].reason


def test_one_empty_caption_costs_only_itself(captioned_folder: Maker) -> None:
    folder = captioned_folder([record("x", captions=["good", " "])], {"images/a.jpg": picture()})
    samples, rejected = read(folder)
    assert [s.text for s in samples[0].document.segments[1:]] == ["good"]
    assert rejected == [Rejected("x#1", rejected[0].reason)]
    assert "empty text" in rejected[0].reason


def test_half_a_surrogate_pair_in_an_id_costs_only_its_record(captioned_folder: Maker) -> None:
    folder = captioned_folder([record("x"), record("half \ud83d"), record("half \ud83d")], {"images/a.jpg": picture()})
    samples, rejected = read(folder)
    assert [s.document.document_id for s in samples] == ["x#caption"]
    assert len(rejected) == 2


def test_duplicate_is_found_across_partitions(captioned_folder: Maker) -> None:
    lines = [record(f"r{n % 7}") for n in range(10)]
    folder = captioned_folder(lines, {"images/a.jpg": picture()})
    samples, rejected = read(folder, records_per_partition=2)
    assert [s.document.document_id for s in samples] == [f"r{n}#caption" for n in range(7)]
    assert [r.key for r in rejected] == ["r0", "r1", "r2"]


def test_partitions_read_apart_give_all(captioned_folder: Maker) -> None:
    folder = captioned_folder([record(f"é{n}") for n in range(9)], {"images/a.jpg": picture()})
    whole, _ = read(folder, records_per_partition=100)
    parts, _ = read(folder, records_per_partition=2)
    assert [s.document for s in whole] == [s.document for s in parts]


def test_missing_folder_and_missing_file_say_so(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="missing or empty"):
        open_corpus(CaptionedFolderConfig(path=str(tmp_path / "none")))
    (tmp_path / "a.jpg").write_bytes(picture())
    with pytest.raises(MissingInputError, match=r"no captions\.jsonl"):
        open_corpus(CaptionedFolderConfig(path=str(tmp_path)))


def test_requests_questions_and_gallery(captioned_folder: Maker) -> None:
    folder = captioned_folder([record("x")], {"images/a.jpg": picture()})
    samples, _ = read(folder, emit=("chatsearch_t", "question", "gallery"))
    request, question, item = (s.document for s in samples)
    name = content_hash(picture())
    assert request.kind == Kind.T
    assert request.query()[1] == name
    assert request.segments[0].text in [template.format("a red square") for template in FIND_REQUESTS]
    assert [(s.role, s.loss) for s in request.segments] == [(Role.USER, False), (Role.ASSISTANT, True)]
    assert request.attributes["target_id"] == "x"
    assert [s.role for s in question.segments] == [Role.USER, Role.USER, Role.ASSISTANT]
    assert question.segments[1].text in CAPTION_QUESTIONS
    assert question.segments[2].text == "a red square"
    assert (item.document_id, item.kind, item.images()) == ("x", Kind.GALLERY, [name])
    assert len(FIND_REQUESTS) >= 20


def test_templates_depend_on_id_and_seed_only(captioned_folder: Maker) -> None:
    lines = [record(f"r{n}", captions=[f"caption {n}", "other"]) for n in range(20)]
    folder = captioned_folder(lines, {"images/a.jpg": picture()})
    first = [s.document for s in read(folder, emit=("chatsearch_t",), seed=1)[0]]
    again = [s.document for s in read(folder, emit=("chatsearch_t",), seed=1, records_per_partition=3)[0]]
    other = [s.document for s in read(folder, emit=("chatsearch_t",), seed=2)[0]]
    assert first == again
    assert first != other
    assert len({d.segments[0].text.split()[0] for d in first}) > 3


def test_fingerprint_follows_content_not_place(captioned_folder: Maker, tmp_path: Path) -> None:
    folder = captioned_folder([record("x")], {"images/a.jpg": picture()})

    def fingerprint(path: Path, **options: object) -> str:
        return CaptionedFolder(CaptionedFolderConfig(path=str(path), **options)).fingerprint()

    before = fingerprint(folder)
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert fingerprint(moved) == before
    assert fingerprint(moved, split="train") != before
    (moved / "images" / "a.jpg").write_bytes(picture(size=(90, 90)))
    changed = fingerprint(moved)
    assert changed != before
    (moved / "captions.jsonl").write_text(json.dumps(record("y")) + "\n")
    assert fingerprint(moved) not in (before, changed)


@pytest.mark.parametrize(
    ("caption", "phrase"),
    [("A dog runs .", "a dog runs"), ("Paris at night.", "Paris at night"), (" two  cats ", "two cats"), ("A", "a")],
)
def test_phrase(caption: str, phrase: str) -> None:
    assert as_phrase(caption) == phrase


@pytest.mark.photographs
def test_sample_photographs(sample_data: Path) -> None:
    samples, rejected = read(sample_data / "captioned" / "flickr8k", split="test", emit=("gallery", "caption"))
    assert not rejected
    assert len(samples) == 400
    assert all(len(json.loads(s.document.attributes["captions"])) == 5 for s in samples)


@pytest.mark.s3
def test_bucket_reads_as_the_folder(captioned_folder: Maker, s3: str) -> None:
    folder = captioned_folder([record("x"), record("bad", file="none.jpg")], {"images/a.jpg": picture()})
    bucket = Folder(s3)
    for name in Folder(str(folder)).list():
        bucket.upload(folder / name, name)
    local, remote = read(folder), read(s3)
    assert [s.document for s in local[0]] == [s.document for s in remote[0]]
    assert local[1] == remote[1]
    with pytest.raises(MissingInputError):
        read(f"{s3}/nothing")


def test_named_keys_of_a_line_travel_along(captioned_folder: Callable[..., Path]) -> None:
    line = {"id": "a", "file": "a.jpg", "captions": ["a thing"], "source": "s", "price": 3, "colour": "red"}
    folder = captioned_folder([line], {"a.jpg": picture()})
    corpus = open_corpus(CaptionedFolderConfig(path=str(folder), emit=(Kind.GALLERY,), metadata=("price", "captions")))
    (sample,) = [record for partition in corpus.partitions() for record in corpus.read(partition)]
    assert isinstance(sample, Sample)
    assert sample.document.attributes == {
        "captions": '["a thing"]',
        "source": "s",
        "target_id": "a",
        "price": "3",
    }
