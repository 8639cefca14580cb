"""The quickstart's steps fit together: what one writes is what another reads."""

from __future__ import annotations

from typing import Any

import pytest
from chatsearch.errors import ConfigError
from chatsearch.manifest import input_uris

from jobs import steps
from jobs.recipes import quickstart

DATA = "/photographs/flickr"


@pytest.mark.parametrize(
    "config",
    [quickstart.tiny(), quickstart.tiny().replace(output="s3://bucket/x/"), quickstart.small().replace(data=DATA)],
    ids=["tiny", "s3", "photographs"],
)
def test_every_input_is_made_by_an_earlier_step(config: quickstart.QuickstartConfig) -> None:
    made: set[str] = {DATA, "~/.cache/chatsearch/downloads"}
    for step in steps.steps(config):
        for key, uri in input_uris(step.config):
            assert uri in made, f"{step.title} reads {key}={uri}, which no step before it makes"
        assert step.config.output.startswith(config.output.rstrip("/"))
        made.add(step.config.output)


def test_every_output_is_a_place_of_its_own() -> None:
    outputs = [step.config.output for step in steps.steps(quickstart.tiny())]
    assert len(set(outputs)) == len(outputs)


def test_photographs_go_to_every_step_that_reads_them() -> None:
    path = steps.steps(quickstart.small().replace(data=DATA))
    corpora = [step.config.corpus.path for step in path if step.job.name == "prepare"]
    assert corpora == [DATA] * 3
    assert [step.config.data for step in path if step.job.name == "evaluate"] == [DATA]


def test_the_spelling_of_the_folder_of_photographs_changes_no_fingerprint() -> None:
    def contents(data: str) -> list[dict[str, Any]]:
        return [step.config.content() for step in steps.steps(quickstart.small().replace(data=data))]

    assert contents(DATA) == contents(f"{DATA}/") == contents("../photographs/flickr")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (quickstart.small(), "DATA=FOLDER"),
        (quickstart.tiny().replace(data=DATA), "SIZE=small"),
    ],
)
def test_size_and_data_that_do_not_go_together_are_refused(config: quickstart.QuickstartConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        steps.steps(config)


def test_stages_use_both_zero_levels() -> None:
    stages = [step.config for step in steps.steps(quickstart.tiny()) if step.job.name == "train"]
    assert [(s.stage, s.zero_stage, s.num_workers) for s in stages] == [("align", 1, 2), ("instruct", 2, 2)]
