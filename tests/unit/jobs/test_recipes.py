"""Every recipe builds, survives a round trip, and the paper's carry the printed values."""

from __future__ import annotations

import importlib
import inspect
import math
from pathlib import Path

import pytest
from chatsearch.config import Config

from jobs.recipes import prepare, train

RECIPES = Path(train.__file__).parent
ALL = [
    (module.__name__.rsplit(".", 1)[-1], name)
    for module in (importlib.import_module(f"jobs.recipes.{p.stem}") for p in sorted(RECIPES.glob("[!_]*.py")))
    for name, value in vars(module).items()
    if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
]


@pytest.mark.parametrize(("module", "name"), ALL)
def test_recipe_builds_a_documented_config(module: str, name: str) -> None:
    recipe = getattr(importlib.import_module(f"jobs.recipes.{module}"), name)
    config = recipe()
    assert isinstance(config, Config)
    assert recipe.__doc__
    assert type(config).model_validate_json(config.model_dump_json()) == config


def test_stage_1_has_the_papers_values() -> None:
    config = train.paper_align()
    assert config.steps == 200_000
    assert [stream.per_step for stream in config.streams] == [256, 64]
    assert (config.optimiser.learning_rate, config.optimiser.warmup_steps) == (2e-5, 6000)
    assert (config.optimiser.weight_decay, config.optimiser.betas, config.optimiser.max_grad_norm) == (
        0.0,
        (0.9, 0.999),
        1.0,
    )
    assert (config.objective.queue_size, config.objective.image_weight) == (1000, 1.0)
    assert (config.num_workers, config.zero_stage, config.precision) == (8, 1, "bf16")
    assert not config.answer_only
    assert config.model.vision.image_size == 224
    assert (config.model.num_queries, config.model.retrieval_dim, config.model.tau0) == (32, 256, 0.07)
    assert config.model.block_length == 35


def test_stage_1_reads_what_its_prepare_recipes_write() -> None:
    made = [prepare.paper_captions().output, prepare.paper_interleaved().output]
    assert [stream.shards for stream in train.paper_align().streams] == made


def test_stage_2_has_the_papers_values() -> None:
    config = train.paper_instruct()
    assert config.steps == 10_000
    assert config.per_step == 64
    assert (config.optimiser.learning_rate, config.optimiser.warmup_steps) == (2e-6, 300)
    assert config.answer_only
    assert config.weights == train.paper_align().output
    assert config.model == train.paper_align().model


def test_stage_3_has_the_values_of_llava_1_5() -> None:
    config = train.paper_conversation()
    assert config.steps == math.ceil(665_298 / 128)
    assert config.per_step == 128
    assert config.optimiser.learning_rate == 2e-5
    assert config.optimiser.warmup_steps == round(0.03 * config.steps)
    assert config.optimiser.weight_decay == 0.0
    assert config.answer_only
    assert config.weights == train.paper_instruct().output
    assert config.model == train.paper_align().model
