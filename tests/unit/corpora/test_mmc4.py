from __future__ import annotations

import itertools
import json
import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from chatsearch.corpora import json_shards, mmc4
from chatsearch.corpora.base import Rejected, Sample
from chatsearch.corpora.config import Mmc4Config
from chatsearch.corpora.mmc4 import pair_up
from chatsearch.corpora.open import open_corpus
from chatsearch.errors import MissingInputError
from chatsearch.storage import Folder
from chatsearch.types import Kind, content_hash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.unit.corpora.pictures import picture

SHARD = "docs_no_face_shard_0_v3"
COLOURS = {"a.jpg": "red", "b.jpg": "green", "c.jpg": "blue", "d.jpg": "yellow"}
HASHES = {name: content_hash(picture(colour)) for name, colour in COLOURS.items()}
NAMES = {value: name for name, value in HASHES.items()}


def page(images: str, matrix: list[list[float]], **changes: object) -> dict:
    num_sentences = len(matrix[0]) if matrix else 2
    return {
        "text_list": [f"Sentence {n}." for n in range(num_sentences)],
        "image_info": [
            {"image_name": f"{name}.jpg", "raw_url": "http://x", "face_detections": None} for name in images
        ],
        "similarity_matrix": matrix,
        "url": "http://example.com/page.html",
        "could_have_url_duplicate": 0,
    } | changes


GOOD = page("a", [[0.3, 0.2]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mmc4"
    (folder / "images").mkdir(parents=True)
    for name, colour in COLOURS.items():
        (folder / "images" / name).write_bytes(picture(colour))
    return folder


def write(folder: Path, *lines: dict | str, shard: str = SHARD, packed: bool = False) -> None:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    data = text.encode("utf-8", "surrogateescape")
    if packed:
        with zipfile.ZipFile(folder / f"{shard}.jsonl.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{shard}.jsonl", data)
    else:
        (folder / f"{shard}.jsonl").write_bytes(data)


def read(path: Path | str, **options: object) -> tuple[list[Sample], list[Rejected]]:
    corpus = open_corpus(Mmc4Config(path=str(path), **options))
    found = [item for partition in corpus.partitions() for item in corpus.read(partition)]
    return [f for f in found if isinstance(f, Sample)], [f for f in found if isinstance(f, Rejected)]


def pairing(path: Path, document_id: str = f"{SHARD}/1") -> dict[str, str]:
    """Sentence of each picture: the one that is its neighbour under every seed, whichever side was drawn."""
    around: dict[str, set[str]] = {}
    for seed in range(24):
        segments = next(s.document for s in read(path, seed=seed)[0] if s.document.document_id == document_id).segments
        for at, segment in enumerate(segments):
            if segment.image is not None:
                near = {s.text for s in segments[max(0, at - 1) : at + 2] if s.text is not None}
                around.setdefault(NAMES[segment.image], near).intersection_update(near)
    assert all(len(found) == 1 for found in around.values())
    return {name: found.pop() for name, found in around.items()}


@given(
    similarity_IS=arrays(
        np.float64, st.tuples(st.integers(0, 5), st.integers(0, 5)), elements=st.integers(-20, 20).map(lambda n: n / 20)
    )
)
@settings(max_examples=200, deadline=None)
def test_pairing_is_one_to_one_and_the_best_of_all(similarity_IS: np.ndarray) -> None:
    num_images, num_sentences = similarity_IS.shape
    pairs = pair_up(similarity_IS)
    assert len(pairs) == len(set(pairs.values())) == min(num_images, num_sentences)
    small_AB = similarity_IS if num_images <= num_sentences else similarity_IS.T
    totals = [
        sum(small_AB[row, column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(small_AB.shape[1]), small_AB.shape[0])
    ]
    assert sum(similarity_IS[i, j] for i, j in pairs.items()) == pytest.approx(max(totals))


def test_pairing_of_the_published_example_is_the_shipped_one() -> None:
    # Document 1 of the README of allenai/mmc4: both pictures like sentence 1 best.
    similarity_IS = np.array([[0.24363446, 0.31758785, 0.27694184], [0.22331068, 0.32349196, 0.26118797]])
    assert pair_up(similarity_IS) == {0: 2, 1: 1}


def test_page_becomes_an_interleaved_document(folder: Path) -> None:
    matrix = [[0.1, 0.1, 0.1, 0.4, 0.1], [0.4, 0.1, 0.1, 0.1, 0.1]]
    write(folder, page("ab", matrix))
    samples, rejected = read(folder, split="val")
    assert not rejected
    document = samples[0].document
    assert (document.document_id, document.kind, document.split) == (f"{SHARD}/1", Kind.INTERLEAVED, "val")
    assert document.attributes == {"url": "http://example.com/page.html"}
    assert [s.text for s in document.segments if s.text] == [f"Sentence {n}." for n in range(5)]
    assert pairing(folder) == {"a.jpg": "Sentence 3.", "b.jpg": "Sentence 0."}
    assert samples[0].images == {HASHES["a.jpg"]: picture("red"), HASHES["b.jpg"]: picture("green")}


def test_a_missing_picture_leaves_its_sentence_to_another(folder: Path) -> None:
    matrix = [[0.9, 0.1, 0.1, 0.1, 0.1], [0.5, 0.1, 0.1, 0.1, 0.4]]
    write(folder, page("ab", matrix), page("gb", matrix))
    assert pairing(folder) == {"a.jpg": "Sentence 0.", "b.jpg": "Sentence 4."}
    assert pairing(folder, f"{SHARD}/2") == {"b.jpg": "Sentence 0."}
    assert read(folder)[1] == [Rejected(f"{SHARD}/2#0", "no picture at 'g.jpg'; this picture is left out")]


def test_pictures_in_excess_and_below_the_limit_are_left_out_and_counted(folder: Path) -> None:
    write(folder, page("abc", [[0.3, 0.1], [0.2, 0.1], [0.1, 0.25]]))
    samples, rejected = read(folder)
    assert samples[0].document.images() == [HASHES["a.jpg"], HASHES["c.jpg"]]
    assert [(r.key, r.reason.split(";")[0]) for r in rejected] == [(f"{SHARD}/1#1", "3 pictures for 2 sentences")]
    samples, rejected = read(folder, min_similarity=0.26)
    assert samples[0].document.images() == [HASHES["a.jpg"]]
    assert rejected[1].key == f"{SHARD}/1#2"
    assert "similarity 0.250; min_similarity is 0.26" in rejected[1].reason
    samples, rejected = read(folder, min_similarity=0.5)
    assert not samples
    assert rejected[-1] == Rejected(f"{SHARD}/1", "no picture left of 3")


def test_a_blank_sentence_gets_no_picture(folder: Path) -> None:
    write(folder, page("a", [[0.9, 0.1, 0.2]], text_list=["  ", "One.", " Two. "]))
    samples, _ = read(folder)
    texts = [s.text for s in samples[0].document.segments if s.image is None]
    assert texts == ["One.", "Two."]
    segments = samples[0].document.segments
    assert [bool(s.image) for s in segments] in ([False, True, False], [False, False, True])


def test_the_same_picture_twice_on_a_page_is_kept_once(folder: Path) -> None:
    (folder / "images" / "copy.jpg").write_bytes(picture("red"))
    infos = [{"image_name": name} for name in ("a.jpg", "copy.jpg", "a.jpg", "b.jpg")]
    write(folder, page("a", [[0.3, 0.2, 0.1, 0.1]] * 4, image_info=infos))
    samples, rejected = read(folder)
    assert sorted(samples[0].document.images()) == sorted([HASHES["a.jpg"], HASHES["b.jpg"]])
    assert [r.key for r in rejected] == [f"{SHARD}/1#1", f"{SHARD}/1#2"]
    assert "same picture as one before it: 'copy.jpg'" in rejected[0].reason


NAN = json.dumps(page("a", [[0.5, 0.2]])).replace("0.5", "NaN")
BAD: dict[str, tuple[dict | str, str]] = {
    "bad json": ('{"text_list": [', "bad record: the line"),
    "no object": ("[1, 2]", "bad record"),
    "nested": ("[" * 100_000, "bad record"),
    "no matrix": ({k: v for k, v in GOOD.items() if k != "similarity_matrix"}, "similarity_matrix: Field required"),
    "too few rows": (page("ab", [[0.3, 0.2]]), "need 2 rows of 2"),
    "too many rows": (page("a", [[0.3, 0.2], [0.1, 0.1]]), "need 1 rows of 2"),
    "ragged": (page("ab", [[0.3, 0.2], [0.3]]), r"rows of \[1, 2\] numbers"),
    "too wide": (page("a", [[0.3, 0.2]], text_list=["One."]), "need 1 rows of 1"),
    "matrix of words": (page("a", [["x", 0.2]]), r"similarity_matrix\.0\.0"),  # type: ignore[list-item]
    "flat matrix": (page("a", [[0.3, 0.2]], similarity_matrix=[0.3, 0.2]), r"similarity_matrix\.0"),
    "NaN": (NAN, "not between -1 and 1"),
    "infinite": (NAN.replace("NaN", "-Infinity"), "not between -1 and 1"),
    "huge": (NAN.replace("NaN", "1" + "0" * 400), "similarity_matrix|not between -1 and 1"),
    "no cosine": (page("a", [[7.0, 0.2]]), "not between -1 and 1"),
    "text no string": (page("a", [[0.3, 0.2]], text_list=["One.", 3]), r"text_list\.1"),
    "lone surrogate": (json.dumps(page("a", [[0.3]], text_list=["\ud800"])), "bad record"),
    "no utf-8": (json.dumps(page("a", [[0.3]], text_list=["@"])).replace("@", "\udcff"), "bad record"),
    "no name": (page("a", [[0.3, 0.2]], image_info=[{}]), "image_name"),
    "too many pictures": (page("a" * (mmc4.MAX_IMAGES + 1), [[0.1]] * (mmc4.MAX_IMAGES + 1)), "image_info"),
    "no pictures": (page("", []), "no picture left of 0"),
    "no words": (page("a", [[0.3, 0.3]], text_list=["", " "]), "no picture left of 1"),
    "escapes": (page("a", [[0.3, 0.3]], image_info=[{"image_name": "../secret.jpg"}]), "no picture left of 1"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "zipped"])
@pytest.mark.parametrize("case", BAD)
def test_bad_page_is_set_aside_with_key_and_reason(folder: Path, case: str, packed: bool) -> None:
    line, reason = BAD[case]
    (folder / "secret.jpg").write_bytes(picture())
    write(folder, GOOD, line, GOOD, packed=packed)
    samples, rejected = read(folder)
    assert [s.document.document_id for s in samples] == [f"{SHARD}/1", f"{SHARD}/3"]
    assert rejected[-1].key == f"{SHARD}/2"
    assert re.search(reason, rejected[-1].reason)


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", "..\\secret.jpg", "a\0.jpg", ".", "x" * 3000, "link.jpg"]
)
def test_name_of_a_picture_never_leads_out_of_the_folder(folder: Path, name: str) -> None:
    (folder / "secret.jpg").write_bytes(picture())
    (folder / "images" / "link.jpg").symlink_to(folder / "secret.jpg")
    write(folder, page("ab", [[0.3, 0.2], [0.2, 0.3]], image_info=[{"image_name": name}, {"image_name": "b.jpg"}]))
    samples, rejected = read(folder)
    assert samples[0].document.images() == [HASHES["b.jpg"]]
    assert [r.key for r in rejected] == [f"{SHARD}/1#0"]
    assert "leaves the folder" in rejected[0].reason or "no picture at" in rejected[0].reason


def test_overlong_line_and_blank_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_shards, "MAX_LINE_BYTES", 1000)
    write(folder, GOOD, "x" * 5000, "", GOOD)
    samples, rejected = read(folder)
    assert [s.document.document_id for s in samples] == [f"{SHARD}/1", f"{SHARD}/4"]
    assert [(r.key, "line over" in r.reason) for r in rejected] == [(f"{SHARD}/2", True)]


def test_broken_archive_keeps_what_came_before(folder: Path) -> None:
    write(folder, *[GOOD] * 5, packed=True)
    write(folder, GOOD, shard="docs_no_face_shard_1_v3")
    path = folder / f"{SHARD}.jsonl.zip"
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 16] ^= 1  # the checksum
    path.write_bytes(data)
    samples, rejected = read(folder)
    assert samples[-1].document.document_id == "docs_no_face_shard_1_v3/1"
    assert [r.key for r in rejected] == [path.name]
    assert rejected[0].reason.startswith("broken shard: no sound zip archive (Bad CRC")
    path.write_bytes(data[:-30])
    samples, rejected = read(folder)
    assert len(samples) == 1
    assert "no sound zip archive" in rejected[0].reason


def test_repeated_keys_and_other_files_do_no_harm(folder: Path) -> None:
    twice = json.dumps(GOOD)[:-1] + ', "url": "http://second"}'
    write(folder, twice, twice)
    (folder / "captions.jsonl").write_text("{}\n")
    samples, rejected = read(folder)
    assert not rejected
    assert [s.document.document_id for s in samples] == [f"{SHARD}/1", f"{SHARD}/2"]
    assert samples[0].document.attributes["url"] == "http://second"


def test_placing_is_a_fair_draw_from_seed_document_and_picture(folder: Path) -> None:
    write(folder, *[page("a", [[0.3]])] * 400)
    write(folder, page("a", [[0.3]]), shard="docs_no_face_shard_1_v3", packed=True)

    def first(**options: object) -> dict[str, bool]:
        return {s.document.document_id: s.document.segments[0].image is not None for s in read(folder, **options)[0]}

    drawn = first()
    assert 160 < Counter(drawn.values())[True] < 240
    assert first() == drawn
    assert first(seed=1) != drawn
    alone = read(folder / "docs_no_face_shard_1_v3.jsonl.zip")[0]
    assert alone[0].document.document_id == "docs_no_face_shard_1_v3/1"
    assert (alone[0].document.segments[0].image is not None) == drawn["docs_no_face_shard_1_v3/1"]


def test_zipped_plain_and_both_give_the_same_documents(folder: Path) -> None:
    lines = [page("abc", [[0.3, 0.2, 0.1], [0.3, 0.1, 0.2], [0.1, 0.1, 0.1]])] * 3
    write(folder, *lines, packed=True)
    packed = read(folder)[0]
    write(folder, *lines)
    both = read(folder)[0]
    (folder / f"{SHARD}.jsonl.zip").unlink()
    assert packed == both == read(folder)[0]
    assert len(packed) == 3


def test_pictures_may_lie_in_a_folder_a_shard(folder: Path, tmp_path: Path) -> None:
    other = "docs_no_face_shard_12_v3"
    write(folder, GOOD)
    write(folder, GOOD, shard=other, packed=True)
    (folder / f"{SHARD}_images").mkdir()
    (folder / f"{SHARD}_images" / "a.jpg").write_bytes(picture("yellow"))
    (folder / "images").rename(tmp_path / f"{other}_images")
    (tmp_path / f"{other}_images").rename(folder / f"{other}_images")
    samples, _ = read(folder, images="{shard}_images")
    assert [s.document.images() for s in samples] == [[HASHES["d.jpg"]], [HASHES["a.jpg"]]]


def test_missing_input_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="holds no shard of mmc4"):
        open_corpus(Mmc4Config(path=str(folder)))
    with pytest.raises(MissingInputError, match="is missing"):
        open_corpus(Mmc4Config(path=str(folder / f"{SHARD}.jsonl.zip")))
    write(folder, GOOD)
    with pytest.raises(MissingInputError, match=r"holds no picture.*corpus\.images"):
        open_corpus(Mmc4Config(path=str(folder), images=str(tmp_path / "none"))).fingerprint()


def test_fingerprint_follows_content_not_place(folder: Path, tmp_path: Path) -> None:
    def fingerprint(path: Path, **options: object) -> str:
        return open_corpus(Mmc4Config(path=str(path), **options)).fingerprint()

    write(folder, GOOD)
    seen = [fingerprint(folder)]
    moved = folder.rename(tmp_path / "moved")
    assert fingerprint(moved) == seen[0]
    (moved / "images").rename(tmp_path / "elsewhere")
    assert fingerprint(moved, images=str(tmp_path / "elsewhere")) == seen[0]
    (tmp_path / "elsewhere").rename(moved / "images")
    for options in ({"seed": 1}, {"split": "val"}, {"min_similarity": 0.1}):
        seen.append(fingerprint(moved, **options))
    (moved / "images" / "b.jpg").unlink()
    seen.append(fingerprint(moved))
    write(moved, page("b", [[0.3, 0.2]]))
    seen.append(fingerprint(moved))
    write(moved, GOOD, shard="docs_shard_7_v2")
    seen.append(fingerprint(moved))
    assert len(set(seen)) == len(seen)


@pytest.mark.photographs
def test_sample_shard(sample_data: Path) -> None:
    folder = sample_data / "formats" / "mmc4"
    samples, rejected = read(folder)
    assert [s.document.document_id for s in samples] == [f"{SHARD}/{n}" for n in (2, 3, 4)]
    assert [r.key for r in rejected] == [f"{SHARD}/1#0", f"{SHARD}/1#1", f"{SHARD}/1"]
    assert read(folder / f"{SHARD}.jsonl.zip", images=str(folder / "images")) == (samples, rejected)
    pages = [json.loads(line) for line in (folder / f"{SHARD}.jsonl").read_text().splitlines()]
    for values in pages:
        shipped = {i: info["matched_text_index"] for i, info in enumerate(values["image_info"])}
        assert pair_up(np.array(values["similarity_matrix"])) == shipped
    for sample, values in zip(samples, pages[1:], strict=True):
        segments = sample.document.segments
        assert [s.text for s in segments if s.text is not None] == values["text_list"]
        for info in values["image_info"]:
            name = content_hash((folder / "images" / info["image_name"]).read_bytes())
            at = [s.image for s in segments].index(name)
            assert values["text_list"][info["matched_text_index"]] in [
                s.text for s in segments[max(0, at - 1) : at + 2]
            ]


@pytest.mark.s3
def test_bucket_reads_as_the_folder(folder: Path, s3: str) -> None:
    write(
        folder,
        page("ab", [[0.3, 0.2, 0.1], [0.1, 0.2, 0.3]]),
        page("a", [[0.1, 0.2]], image_info=[{"image_name": "x"}]),
    )
    write(folder, *[GOOD] * 20, shard="docs_no_face_shard_1_v3", packed=True)
    bucket = Folder(s3)
    for name in Folder(str(folder)).list():
        bucket.upload(folder / name, name)
    assert read(s3) == read(folder)
    assert len(read(s3)[0]) == 21
    assert read(f"{s3}/docs_no_face_shard_1_v3.jsonl.zip") == read(folder / "docs_no_face_shard_1_v3.jsonl.zip")
    here, there = (open_corpus(Mmc4Config(path=path)).fingerprint() for path in (str(folder), s3))
    assert here == there
    with pytest.raises(MissingInputError, match="holds no shard"):
        read(f"{s3}/nothing")
