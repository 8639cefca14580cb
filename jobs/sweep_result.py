"""What a sweep has found so far, and what the rest of it is going to take.

The file: schema_version, sweep, fingerprint and config, world {data, index features: fingerprints}, gallery, cells [{cell,
seed, seconds, error, model, evaluation: fingerprints, beside_i: queries of m beside their last rounds alone}], rows {gallery: {row: {seeds: {seed: scores}, spread: {score: mean,
deviation, least, most}}}}, claims [{claim, verdict, seeds}], date, chatsearch
"""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import dataclass, field
from typing import Any

from chatsearch import __version__
from chatsearch.config import digest
from chatsearch.errors import ConflictingOutputError, FingerprintMismatchError
from chatsearch.evaluate.seeds import OURS, Gallery, Row, Scores, judge, scores_of
from chatsearch.storage import Folder, resolve
from chatsearch.tracking.machine import this_machine

from jobs import evaluate, train
from jobs.cell import SweepConfig, cell_steps
from jobs.command import Plan

SCHEMA = 1
SWEEP = "sweep"
GALLERIES: tuple[Gallery, ...] = ("targets", "all")
_WORLD = ("data", "features")
"""Inputs of every measurement that must be the same in all cells."""
_SIMULATED = "random (simulated)"
"""Left out: its expectation is a row."""


@dataclass(frozen=True)
class CellResult:
    """One cell at one seed.

    Attributes:
        cell: its name.
        seed: of all that is drawn.
        measured: the result of its measurement; None where there is none.
        error: why there is none.
        seconds: what it took; 0 where it was finished before.
    """

    cell: str
    seed: int
    measured: dict[str, Any] | None
    error: str
    seconds: float

    def scores(self, gallery: Gallery) -> dict[str, Scores]:
        """By row: that of the model has the cell's name, baselines have their own."""
        methods = self.measured["methods"] if self.measured else {}
        named = {self.cell if name == OURS else name: method for name, method in methods.items() if name != _SIMULATED}
        return {name: scores_of(method, gallery) for name, method in named.items()}

    def metrics(self, gallery: Gallery) -> dict[str, float]:
        """For the tracker: ``ROW/t R@1``."""
        rows = self.scores(gallery).items()
        return {f"{row}/{key}": value for row, scores in rows for key, value in scores.items() if value is not None}


@dataclass
class SweepResult:
    """The cells that are done, in the order of running."""

    config: SweepConfig
    cells: list[CellResult] = field(default_factory=list)

    def title(self) -> str:
        """Above the table."""
        where = {"targets": "the targets of the sub-task", "all": "the whole index"}[self.config.gallery]
        return f"Mean over seeds ± standard deviation, gallery = {where}"

    def rows(self, gallery: Gallery | None = None) -> list[Row]:
        """In the order of the cells, a cell's baselines after it.

        Raises:
            FingerprintMismatchError: two cells were measured on different pictures or queries.
        """
        self.world()
        found: dict[str, dict[int, Scores]] = {}
        for done in self.cells:
            for name, scores in done.scores(gallery or self.config.gallery).items():
                found.setdefault(name, {})[done.seed] = scores
        return [Row(name, by_seed) for name, by_seed in found.items()]

    def world(self) -> dict[str, str]:
        """Fingerprints of the queries and the gallery, which all cells have in common.

        Raises:
            FingerprintMismatchError: they have not.
        """
        worlds: dict[tuple[str, ...], CellResult] = {}
        for done in self.cells:
            if done.measured:
                prints = tuple(done.measured["inputs"][name]["fingerprint"] for name in _WORLD)
                worlds.setdefault(prints, done)
        if len(worlds) > 1:
            one, other = list(worlds.values())[:2]
            raise FingerprintMismatchError(
                f"{one.cell} (seed {one.seed}) and {other.cell} (seed {other.seed}) were measured on different test documents or "
                "galleries: they cannot be compared. Take another folder."
            )
        return dict(zip(_WORLD, next(iter(worlds)), strict=True)) if worlds else {}

    def judged(self) -> list[dict[str, Any]]:
        """Every claim with its verdict."""
        rows = self.rows()
        return [judge(claim, rows, self.config.seeds) for claim in self.config.claims]

    def metrics(self) -> dict[str, float]:
        """For the tracker: mean and deviation of each row's average, 1 or 0 for each claim that is shown or not, and how much was asked."""
        spreads = {row.name: row.spread("average") for row in self.rows()}
        metrics = {f"{name}/average {key}": s[key] for name, s in spreads.items() if s for key in ("mean", "deviation")}
        verdicts = {claim["claim"]: claim["verdict"] for claim in self.judged()}
        metrics |= {f"claim/{t}": float(v == "shown") for t, v in verdicts.items() if v in ("shown", "not shown")}
        return metrics | self._sizes()

    def _sizes(self) -> dict[str, float]:
        """Queries and competing pictures by sub-task: the same in all cells, since their world is."""
        counts: dict[str, Any] = next((done.measured["counts"] for done in self.cells if done.measured), {})
        sizes = {f"num_queries/{task}": count["num_queries"] for task, count in counts.items()}
        return sizes | {
            f"num_gallery/{task}": count["num_gallery"][self.config.gallery] for task, count in counts.items()
        }

    def tags(self) -> dict[str, str]:
        """For the tracker: what the numbers were taken on."""
        return {
            "machine": this_machine(),
            **{f"world.{name}": fingerprint for name, fingerprint in self.world().items()},
        }

    def as_json(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "schema_version": SCHEMA,
            "sweep": SWEEP,
            "fingerprint": digest(SWEEP, SCHEMA, self.config.content()),
            "world": self.world(),
            "gallery": self.config.gallery,
            "claims": self.judged(),
            "rows": {gallery: {row.name: _row(row) for row in self.rows(gallery)} for gallery in GALLERIES},
            "cells": [_cell(done) for done in self.cells],
            "config": self.config.model_dump(mode="json"),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "chatsearch": __version__,
        }

    def as_bytes(self) -> bytes:
        """The file."""
        return (json.dumps(self.as_json(), indent=1) + "\n").encode()


def _row(row: Row) -> dict[str, Any]:
    keys = next(iter(row.by_seed.values()))
    return {
        "seeds": {str(seed): {k: v and round(v, 3) for k, v in s.items()} for seed, s in row.by_seed.items()},
        "spread": {key: row.spread(key) for key in keys},
    }


def _cell(done: CellResult) -> dict[str, Any]:
    measured = done.measured or {}
    ours = measured.get("methods", {}).get(OURS, {})
    return {
        "cell": done.cell,
        "seed": done.seed,
        "seconds": round(done.seconds, 1),
        "error": done.error,
        "model": measured.get("model", {}).get("fingerprint", ""),
        "evaluation": measured.get("fingerprint", ""),
        "beside_i": ((ours.get("m") or {}).get("all") or {}).get("beside_i", {}),
    }


def check_output(config: SweepConfig) -> None:
    """Check that no file of somebody else would be lost, nor the result of another sweep.

    Raises:
        ConflictingOutputError: the output holds something else, or another sweep's result and ``overwrite`` is false.
    """
    folder, name = os.path.split(resolve(config.output))
    if not Folder(folder).exists(name):
        return
    try:
        held = json.loads(Folder(folder).read_bytes(name))
    except ValueError:
        held = None
    if not isinstance(held, dict) or held.get("sweep") != SWEEP:
        raise ConflictingOutputError(
            f"{config.output} holds something else than a result of this job, so it is left as it is. Choose another output."
        )
    if held.get("fingerprint") != digest(SWEEP, SCHEMA, config.content()) and not config.overwrite:
        raise ConflictingOutputError(
            f"{config.output} holds the result of another sweep, taken {held.get('date', 'at an unknown time')}. Choose another "
            "output, or replace it with --set overwrite=true."
        )


def forecast_of(config: SweepConfig) -> str:
    """How many stages there are to train, and for how long at ``steps_per_second``; what is finished counts nothing."""
    paths = [cell_steps(config, cell, seed) for cell in config.cells for seed in config.seeds]
    every = {step.config.output: step for path in paths for step in path}
    left = [step for step in every.values() if Plan.of(step.job, step.recipe, step.config).finished is None]
    stages = [step.config.steps for step in left if step.job is train.JOB]
    phases = [sum(phase.steps for phase in step.config.phases) for step in left if hasattr(step.config, "phases")]
    num_measured = sum(step.job is evaluate.JOB for step in left)
    minutes = (sum(stages) + sum(phases)) / config.steps_per_second / 60
    return (
        f"cells  {len(paths)}: {len(stages)} stages and {len(phases)} baselines to train, {sum(stages)} + {sum(phases)} steps, "
        f"{num_measured} measurements\n"
        f"time   {minutes:.0f} min of training at {config.steps_per_second:g} steps/s (steps_per_second); measurements and shared "
        "inputs come on top"
    )
