"""The cells of every sweep: what they set arrives, what they share they share, and nothing reads what nobody makes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from chatsearch.errors import ConfigError, UnknownNameError
from chatsearch.manifest import input_uris
from chatsearch.types import Kind

from jobs.cell import CellConfig, SweepConfig, cell_steps, shared_steps
from jobs.recipes import sweep

RECIPES = [
    sweep.scenes_table2,
    sweep.scenes_queue,
    sweep.scenes_ablations,
    sweep.scenes_instruction_mix,
    sweep.scenes_long_mix,
    sweep.scenes_data_scale,
]
PLAIN = SweepConfig(cells=(CellConfig(name="plain"),))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_every_input_is_made_by_an_earlier_step(recipe: Callable[[], SweepConfig]) -> None:
    config = recipe().replace(folder="s3://bucket/x/")
    shared = {step.config.output for step in shared_steps(config)}
    outputs = set()
    for cell in config.cells:
        for seed in config.seeds:
            made = {*shared, "~/.cache/chatsearch/downloads"}
            for step in [*shared_steps(config), *cell_steps(config, cell, seed)]:
                for key, uri in input_uris(step.config):
                    assert uri in made or step.config.output in shared, f"{step.title} reads {key}={uri}"
                made.add(step.config.output)
            outputs.add(step.config.output)
            assert step.job.name == "evaluate"
    assert len(outputs) == len(config.cells) * len(config.seeds)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_claims_are_about_cells_that_are_run(recipe: Callable[[], SweepConfig]) -> None:
    config = recipe()
    rows = {cell.name for cell in config.cells} | {"FROMAGe", "dual encoder (t)", "dual encoder (ti)"}
    assert {name for claim in config.claims for name in (claim.row, claim.over)} <= rows


def stages(config: SweepConfig, name: str, seed: int = 0) -> list:
    """Configurations of both stages of a cell."""
    cell = next(cell for cell in config.cells if cell.name == name)
    return [step.config for step in cell_steps(config, cell, seed) if step.job.name == "train"]


def test_what_a_cell_sets_arrives() -> None:
    assert [s.objective.queue_size for s in stages(sweep.scenes_queue(), "queue 250")] == [250, 250]
    assert [s.objective.queue_size for s in stages(sweep.scenes_ablations(), "no queue")] == [0, 0]
    frozen = stages(sweep.scenes_ablations(), "frozen language model")
    assert [s.model.freeze_language for s in frozen] == [True, True]
    mixed = stages(sweep.scenes_instruction_mix(), "t only + questions + edits")
    assert mixed[1].streams[0].kinds == (Kind.T, Kind.QUESTION, Kind.EDIT)
    assert stages(sweep.scenes_instruction_mix(), "ChatSearch only, as many dialogues")[1].steps == 500 * 9500 // 13300
    assert stages(sweep.scenes_long_mix(), "all")[1] == stages(PLAIN, "plain")[1].replace(
        steps=1264, output=stages(sweep.scenes_long_mix(), "all")[1].output
    )
    scaled = stages(sweep.scenes_data_scale(), "ChatSearch x 0.1")
    assert scaled[1].streams[0].fractions == {Kind.T: 0.1, Kind.I: 0.1, Kind.M: 0.1}
    assert [(s.seed, s.num_workers, s.registered_name) for s in stages(PLAIN, "plain", 7)] == [(7, 0, "")] * 2
    small = PLAIN.replace(align=("steps=60",), num_workers=2)
    assert [(s.steps, s.num_workers) for s in stages(small, "plain")] == [(60, 2), (500, 2)]


def test_what_cells_have_in_common_is_trained_once() -> None:
    whole = [
        stages(sweep.scenes_table2(), "ChatSearcher"),
        stages(sweep.scenes_queue(), "queue 1000"),
        stages(sweep.scenes_ablations(), "ChatSearcher"),
        stages(sweep.scenes_instruction_mix(), "all"),
        stages(sweep.scenes_data_scale(), "ChatSearch x 1"),
    ]
    assert len({second.output for _, second in whole}) == 1
    mix = sweep.scenes_instruction_mix()
    found = [stages(mix, cell.name) for cell in mix.cells]
    assert len({first.output for first, _ in found}) == 1
    assert len({second.output for _, second in found}) == 5
    assert stages(mix, "all", 0)[0].output != stages(mix, "all", 1)[0].output


def test_a_cell_that_differs_in_stage_1_has_a_stage_2_of_its_own() -> None:
    cells = (CellConfig(name="a"), CellConfig(name="b", align=("optimiser.learning_rate=0.01",)))
    config = PLAIN.replace(cells=cells)
    assert stages(config, "a")[1].output != stages(config, "b")[1].output
    assert stages(config, "b")[1].weights == stages(config, "b")[0].output


def test_baselines_have_the_models_budget() -> None:
    config = sweep.scenes_table2()
    trained = [step.config for step in cell_steps(config, config.cells[0], 2) if step.job.name == "baseline"]
    assert [(own.seed, [phase.steps for phase in own.phases]) for own in trained] == [(2, [50, 500])] * 2
    fewer = config.replace(instruct=("steps=60",))
    with pytest.raises(ConfigError, match="that would be no comparison"):
        cell_steps(fewer, config.cells[0], 0)
    cell_steps(fewer.replace(baseline=("phases.1.steps=60",)), config.cells[0], 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": (CellConfig(name="a"), CellConfig(name="a"))}, "cells holds 'a' twice"),
        ({"seeds": (1, 1)}, "seeds holds 1 twice"),
        ({"output": "runs/sweeps/x"}, "must name a .json file"),
        (
            {"cells": (CellConfig(name="a", baselines=("random",)), CellConfig(name="b", baselines=("random",)))},
            "more than one cell",
        ),
    ],
)
def test_mistakes_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PLAIN.replace(**changes)


def test_a_setting_that_names_no_key_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"objective\.queue_size"):
        cell_steps(PLAIN, CellConfig(name="a", align=("objective.queue_sise=0",)), 0)
