"""Where training on a captioned folder looks for its inputs, and which jobs make them."""

from __future__ import annotations

import json
from pathlib import Path

from jobs import train
from jobs.photographs import input_steps
from jobs.recipes import train as recipes


def configured(*settings: str):
    return train.JOB.configure("small_photos", settings)[1]


def test_inputs_lie_beside_the_output_and_are_made_in_order() -> None:
    config = configured("data=pictures", "output=runs/a/bundle/")
    assert config.weights == "runs/a/bundle-inputs/weights"
    assert {stream.shards for stream in config.streams} == {"runs/a/bundle-inputs/shards-align"}
    steps = input_steps(config)
    assert [step.job.name for step in steps] == ["weights", "prepare", "embed"]
    made = [step.config.output for step in steps]
    assert made == [config.weights, config.streams[0].shards, config.features]
    _, prepare, embed = (step.config for step in steps)
    assert (prepare.corpus.path, prepare.corpus.split) == ("pictures", "train")
    assert (embed.model, embed.gallery) == (config.weights, (config.streams[0].shards,))


def test_a_folder_with_a_validation_split_gives_a_curve(tmp_path: Path) -> None:
    lines = [{"id": split, "file": "a.jpg", "captions": ["a"], "split": split} for split in ("train", "val")]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = configured(f"data={tmp_path}", "output=runs/a/bundle")
    assert config.validation.shards == "runs/a/bundle-inputs/shards-val"
    steps = {step.title: step.config for step in input_steps(config)}
    prepare, embed = steps["prepare validation captions"], steps["embed validation pictures"]
    assert (prepare.corpus.split, prepare.output) == ("val", config.validation.shards)
    assert (embed.gallery, embed.output) == ((config.validation.shards,), config.validation.features)
    assert config.content() == configured("data=pictures", "output=b").content()
    (tmp_path / "captions.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert configured(f"data={tmp_path}", "output=runs/a/bundle").validation.shards == ""


def test_what_is_named_is_not_made() -> None:
    config = configured("data=pictures", "output=b", "weights=w", "features=f")
    assert (config.weights, config.features) == ("w", "f")
    assert [step.title for step in input_steps(config)] == ["prepare captions"]


def test_without_data_nothing_is_derived() -> None:
    assert configured().weights == ""
    assert train.JOB.configure("small_align", [])[1] == recipes.small_align()
