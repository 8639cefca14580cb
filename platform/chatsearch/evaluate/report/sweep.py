"""One sweep as the tracking store holds it: its rows are those of its cells' runs, its verdicts are judged from them anew."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatsearch.evaluate.seeds import AVERAGE, DEPTHS, METHODS, SUB_TASKS, ClaimConfig, Row, Scores, judge
from chatsearch.tracking.mlflow import stored_name
from chatsearch.tracking.runs import RecordedRun

KEY_PREFIX = "sweep-"
"""Of the keys of a sweep's run and of the runs of its cells."""
_KEYS = (AVERAGE, *SUB_TASKS, *(f"{task} {depth}" for task in SUB_TASKS for depth in DEPTHS))
_OWN_SETTINGS = ("align", "instruct", "baseline")
"""Settings that a sweep was given beside those of its cells."""


@dataclass(frozen=True)
class Cell:
    """One finished cell at one seed.

    Attributes:
        name: its name, that of the model's row.
        seed: of all that is drawn.
        settings: value by key of what stage 1 was told, then stage 2.
        scores: by row.
    """

    name: str
    seed: int
    settings: Mapping[str, Any]
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class RecordedSweep:
    """A finished sweep.

    Attributes:
        name: what it was asked for by.
        key: of its run.
        gallery: ``targets`` or ``all``.
        seeds: that it was told.
        claims: that it was told.
        cells: finished ones, in the order of the sweep.
        settings: other than the recipe's, given to all cells.
        num_queries: by sub-task; empty where that was not recorded.
        num_gallery: pictures that compete, likewise.
        world: fingerprints of test documents and gallery; likewise.
        machine: likewise.
        ended: when.
    """

    name: str
    key: str
    gallery: str
    seeds: tuple[int, ...]
    claims: tuple[ClaimConfig, ...]
    cells: tuple[Cell, ...]
    settings: tuple[str, ...]
    num_queries: Mapping[str, int]
    num_gallery: Mapping[str, int]
    world: Mapping[str, str]
    machine: str
    ended: datetime.datetime

    def rows(self) -> list[Row]:
        """In the order of the cells, a cell's baselines after it."""
        found: dict[str, dict[int, Scores]] = {}
        for cell in self.cells:
            for name, scores in cell.scores.items():
                found.setdefault(name, {})[cell.seed] = scores
        return [Row(name, by_seed) for name, by_seed in found.items()]

    def judged(self) -> list[dict[str, Any]]:
        """Every claim with its verdict."""
        rows = self.rows()
        return [judge(claim, rows, self.seeds) for claim in self.claims]


@dataclass(frozen=True)
class MissingSweep:
    """A sweep without a finished run, and why."""

    name: str
    reason: str


def find_sweep(runs: Sequence[RecordedRun], name: str) -> RecordedSweep | MissingSweep:
    """The newest finished run of a sweep, with its cells; or what there is instead.

    Args:
        runs: of sweeps and cells.
        name: recipe of the sweep, or key of its run.
    """
    own = [run for run in runs if not run.parent and name in (run.tags.get("recipe"), run.key)]
    if not own:
        return MissingSweep(name, "no run of it is recorded")
    finished = [run for run in own if run.status == "FINISHED" and run.end_ms is not None]
    if not finished:
        newest = max(own, key=lambda run: run.begin_ms)
        ended = sum(run.parent == newest.id and run.status == "FINISHED" for run in runs)
        return MissingSweep(
            name,
            f"no finished run; the newest, begun {_time(newest.begin_ms):%Y-%m-%d}, is marked {newest.status}, cells ended: {ended}",
        )
    newest = max(finished, key=lambda run: run.end_ms or 0)
    try:
        return _read(name, newest, [run for run in runs if run.parent == newest.id])
    except (KeyError, ValueError) as error:  # what a tracking server that was away for a while never got
        return MissingSweep(name, f"the record of its run {newest.key} is not whole: {error!r}")


def _read(name: str, run: RecordedRun, children: Sequence[RecordedRun]) -> RecordedSweep:
    names = [run.params[f"cells.{n}.name"] for n in _numbers(run.params, "cells")]
    claims = [
        ClaimConfig.model_validate({k: run.params[f"claims.{n}.{k}"] for k in ClaimConfig.model_fields})
        for n in _numbers(run.params, "claims")
    ]
    rows = {stored_name(row): row for row in (*names, *METHODS)}
    cells = {
        (child.params["cell"], int(child.params["seed"])): child
        for child in children
        if child.status == "FINISHED" and {"cell", "seed"} <= child.params.keys()
    }
    seeds = tuple(json.loads(run.params["seeds"]))
    order = [(cell, seed) for cell in names for seed in seeds if (cell, seed) in cells]
    return RecordedSweep(
        name=name,
        key=run.key,
        gallery=run.params["gallery"],
        seeds=seeds,
        claims=tuple(claims),
        cells=tuple(Cell(*key, _settings(cells[key]), _scores(cells[key], rows)) for key in order),
        settings=tuple(text for part in _OWN_SETTINGS for text in json.loads(run.params[part])),
        num_queries=_counts(run, "num_queries"),
        num_gallery=_counts(run, "num_gallery"),
        world={key.removeprefix("world."): text for key, text in run.tags.items() if key.startswith("world.")},
        machine=run.tags.get("machine", ""),
        ended=_time(run.end_ms or 0),
    )


def _numbers(params: Mapping[str, str], part: str) -> list[int]:
    found = {int(match[1]) for key in params if (match := re.match(rf"{part}\.(\d+)\.", key))}
    return sorted(found)


def _scores(child: RecordedRun, rows: Mapping[str, str]) -> dict[str, Scores]:
    """By row, in the order in which methods are always shown; a name that is none of ours stays as it was stored."""
    end = f"/{AVERAGE}"
    held = [key.removesuffix(end) for key in child.metrics if key.endswith(end)]
    order = list(rows)
    held.sort(key=lambda stored: (order.index(stored) if stored in order else len(order), stored))
    return {
        rows.get(stored, stored): {key: child.metrics.get(stored_name(f"{stored}/{key}")) for key in _KEYS}
        for stored in held
    }


def _settings(child: RecordedRun) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in (*json.loads(child.params["align"]), *json.loads(child.params["instruct"])):
        key, _, value = text.partition("=")
        found[key] = value
        with contextlib.suppress(ValueError):
            found[key] = json.loads(value)
    return found


def _counts(run: RecordedRun, name: str) -> dict[str, int]:
    return {task: int(run.metrics[f"{name}/{task}"]) for task in SUB_TASKS if f"{name}/{task}" in run.metrics}


def _time(milliseconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
