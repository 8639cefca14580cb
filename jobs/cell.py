"""The cells of a sweep: the training, the baselines and the measurement of each, as ordinary jobs on shared inputs.

What a step makes lies in a folder named after everything that decides it, so two cells, or two sweeps over the same
inputs, train what they have in common once.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from chatsearch.config import Config, apply_overrides, digest, runtime
from chatsearch.errors import ConfigError
from chatsearch.evaluate.config import Baseline, BaselineConfig
from chatsearch.evaluate.seeds import ClaimConfig
from chatsearch.train.config import TrainConfig
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from jobs import baseline, embed, evaluate, index, prepare, train, weights
from jobs.command import Job
from jobs.recipes.places import Places
from jobs.recipes.quickstart import QuickstartConfig
from jobs.step import Step
from jobs.steps import steps

_SHARED = (weights.JOB, prepare.JOB, embed.JOB)
_BASELINE_RECIPES = {"dual_encoder": "tiny", "fromage": "tiny_fromage"}


class CellConfig(Config):
    """One point of a sweep: what of the path of jobs is set otherwise, as ``--set`` takes it."""

    name: str = Field(min_length=1)
    align: tuple[str, ...] = ()
    """Settings of stage 1: ``objective.queue_size=0``."""
    instruct: tuple[str, ...] = ()
    """Settings of stage 2."""
    baselines: tuple[Baseline, ...] = ()
    """Measured beside it, each a row of its own."""


class SweepConfig(Config):
    """Cells on the scenes world, each at every seed."""

    cells: tuple[CellConfig, ...] = Field(min_length=1)
    """In the order of running: all seeds of the first one come first."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    claims: tuple[ClaimConfig, ...] = ()
    gallery: Literal["targets", "all"] = "all"
    """What the table and the claims are about: the targets of each sub-task, as published, or the whole index."""
    align: tuple[str, ...] = ()
    """Settings of stage 1 in every cell: ``--set 'align=["steps=5"]'``."""
    instruct: tuple[str, ...] = ()
    """Settings of stage 2 in every cell."""
    baseline: tuple[str, ...] = ()
    """Settings of every baseline: ``--set 'baseline=["phases.0.steps=5"]'``."""
    num_workers: int = Field(0, ge=0)
    """Of a training run. 0 trains in this process, without a cluster and its start; from 1 on Ray Train does it."""
    threads: PositiveInt = runtime(2)
    """Of this process, when it trains."""
    steps_per_second: PositiveFloat = runtime(4.0)
    """What ``--dry-run`` reckons with."""
    folder: str = runtime("runs/sweeps/scenes")
    """Folder or ``s3://bucket/prefix`` of everything that is made. Sweeps that share it share what they have in common."""
    output: str = runtime("runs/sweeps/sweep.json")
    """JSON file of the result."""
    overwrite: bool = runtime(False)
    """Make shared inputs again that were made with other recipes."""

    @model_validator(mode="after")
    def _check(self) -> SweepConfig:
        counted = {"cells": Counter(repr(cell.name) for cell in self.cells), "seeds": Counter(map(repr, self.seeds))}
        for what, counts in counted.items():
            value, number = counts.most_common(1)[0]
            if number > 1:
                raise ConfigError(f"{what} holds {value} twice. Leave one out, or give it another name.")
        if sum(bool(cell.baselines) for cell in self.cells) > 1:
            raise ConfigError(
                "Baselines are rows of their own, and more than one cell asks for them. Name them in one cell."
            )
        if not self.output.endswith(".json"):
            raise ConfigError(f"output={self.output!r} must name a .json file.")
        return self


def shared_steps(config: SweepConfig) -> list[Step]:
    """What all cells start from: weights, document shards, features. No seed of a sweep changes them."""
    return [step for step in steps(QuickstartConfig(output=config.folder)) if step.job in _SHARED]


def cell_steps(config: SweepConfig, cell: CellConfig, seed: int) -> list[Step]:
    """Training, baselines and measurement of one cell at one seed; the last one's output is the result.

    Raises:
        UnknownNameError: a setting names no key.
        ConfigError: a value does not fit, or the baselines would have another budget than the model.
    """
    places = Places(config.folder.rstrip("/"))
    path = _Path(places.at(f"seed-{seed}"))
    align = path.add("train stage 1: align", train.JOB, "tiny_align", _stage(config, cell, "align", seed))
    instruct = _stage(config, cell, "instruct", seed).replace(weights=align.output)
    instruct = path.add("train stage 2: instruct", train.JOB, "tiny_instruct", instruct)
    indexed = index.JOB.recipes.tiny(places).replace(model=instruct.output)
    indexed = path.add("index gallery", index.JOB, "tiny", indexed)
    trained = {
        name: _baseline(config, name, (align, instruct), path) for name in cell.baselines if name in _BASELINE_RECIPES
    }
    measured = evaluate.JOB.recipes.tiny(places).replace(
        model=instruct.output,
        index=indexed.output,
        baseline=trained.get("dual_encoder", ""),
        fromage=trained.get("fromage", ""),
        baselines=cell.baselines,
        threads=config.threads,
        seed=seed,
    )
    path.add("evaluate", evaluate.JOB, "tiny", measured, suffix=".json")
    return path.steps


class _Path:
    """Steps one after the other; each one's place is named after the configurations up to and including its own."""

    def __init__(self, root: str) -> None:
        self.steps: list[Step] = []
        self._root = root

    def add(self, title: str, job: Job[Any], recipe: str, config: Any, *, alone: bool = False, suffix: str = "") -> Any:
        """Add a step and return its configuration with the output; ``alone``: it reads nothing of the steps before."""
        before = [] if alone else [step.config.content() for step in self.steps]
        name = f"{recipe}-{job.name}-{digest([*before, config.content()])}{suffix}"
        config = config.replace(output=f"{self._root}/{name}")
        self.steps.append(Step(title, job, recipe, config))
        return config


def _stage(config: SweepConfig, cell: CellConfig, stage: Literal["align", "instruct"], seed: int) -> TrainConfig:
    recipe = getattr(train.JOB.recipes, f"tiny_{stage}")(Places(config.folder.rstrip("/")))
    own: TrainConfig = apply_overrides(recipe, [*getattr(config, stage), *getattr(cell, stage)])
    threads = own.threads_per_worker if config.num_workers else config.threads
    # One registered model is what people serve; an ablation is not to take its place.
    return own.replace(seed=seed, num_workers=config.num_workers, threads_per_worker=threads, registered_name="")


def _baseline(config: SweepConfig, name: str, stages: tuple[TrainConfig, TrainConfig], path: _Path) -> str:
    """Add the training of a baseline; returns where it will lie."""
    recipe = _BASELINE_RECIPES[name]
    seed = stages[0].seed
    base = getattr(baseline.JOB.recipes, recipe)(Places(config.folder.rstrip("/")))
    own: BaselineConfig = apply_overrides(base, config.baseline).replace(seed=seed, threads=config.threads)
    budget = [(stage.steps, stage.streams) for stage in stages]
    if [(phase.steps, phase.streams) for phase in own.phases] != budget:
        told = [(phase.steps, sum(stream.per_step for stream in phase.streams)) for phase in own.phases]
        raise ConfigError(
            f"The baseline {name} has phases of (steps, documents a step) {told}, the model stages of "
            f"{[(stage.steps, stage.per_step) for stage in stages]}, or they take other documents: that would be no comparison. Set "
            "them alike with align, instruct and baseline."
        )
    added = path.add(f"train baseline: {name}", baseline.JOB, recipe, own, alone=True)
    return str(added.output)
