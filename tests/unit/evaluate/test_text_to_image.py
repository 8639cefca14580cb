"""Captioned folders: splits, bad records, duplicate pictures."""

import io
import json

import numpy as np
import pytest
from chatsearch.errors import InputError, MissingInputError, TooManyRejectedError
from chatsearch.evaluate.inputs import choose_split
from chatsearch.evaluate.text_to_image import read_split
from PIL import Image


def jpeg(number):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_folder(folder, records):
    folder.mkdir(exist_ok=True)
    lines = []
    for number, (record, data) in enumerate(records):
        file = f"{number}.jpg"
        if data is not None:
            (folder / file).write_bytes(data)
        lines.append(json.dumps({"id": f"r{number}", "file": file, "captions": ["a thing", "some thing"], **record}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_the_test_split_is_taken_if_there_is_one(tmp_path):
    splits = ["train", "test", "val", "test"]
    folder = write_folder(tmp_path / "a", [({"split": s}, jpeg(n)) for n, s in enumerate(splits)])
    assert choose_split(folder, "") == "test"
    assert choose_split(folder, "val") == "val"
    data = read_split(folder, "test")
    assert data.report() == {
        "split": "test",
        "num_queries": 4,
        "num_gallery": 2,
        "num_records": 2,
        "num_rejected": 0,
        "rejected": [],
    }
    assert [q.text for q in data.queries] == ["a thing", "some thing"] * 2
    assert {q.target for q in data.queries} == set(data.gallery)


def test_without_a_test_split_everything_is_taken(tmp_path):
    folder = write_folder(tmp_path / "a", [({}, jpeg(0)), ({"split": "val"}, jpeg(1))])
    assert choose_split(folder, "") is None
    assert read_split(folder, None).report()["num_gallery"] == 2
    assert read_split(folder, None).split == "all"


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    folder = write_folder(tmp_path / "a", [({}, jpeg(0)), ({"split": "val"}, jpeg(1))])
    with pytest.raises(InputError, match=r"'dev'; it holds train \(1\), val \(1\)"):
        choose_split(folder, "dev")
    with pytest.raises(MissingInputError):
        choose_split(str(tmp_path / "nowhere"), "")


def test_bad_records_are_counted_and_named_and_too_many_fail(tmp_path):
    good = [({}, jpeg(n)) for n in range(4)]
    bad = [({}, jpeg(9)[:200]), ({"captions": []}, jpeg(8)), ({}, None)]
    folder = write_folder(tmp_path / "a", [*good, *bad])
    report = read_split(folder, None, max_rejected_fraction=0.5).report()
    assert (report["num_records"], report["num_rejected"], report["num_gallery"]) == (4, 3, 4)
    assert [r["key"] for r in report["rejected"]] == ["r4", "r5", "r6"]
    with pytest.raises(TooManyRejectedError, match="3 of 7 records"):
        read_split(folder, None, max_rejected_fraction=0.4)
    only_bad = write_folder(tmp_path / "b", bad)
    with pytest.raises(InputError, match="3 records are bad"):
        read_split(only_bad, None)


def test_two_records_of_one_picture_are_one_candidate(tmp_path):
    folder = write_folder(tmp_path / "a", [({}, jpeg(0)), ({}, jpeg(0)), ({}, jpeg(1))])
    report = read_split(folder, None).report()
    assert (report["num_records"], report["num_gallery"], report["num_queries"]) == (3, 2, 6)
