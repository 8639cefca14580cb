"""What is read out of recorded runs, and what is said where they are not whole."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from chatsearch.evaluate.chatsearch import RANDOM
from chatsearch.evaluate.methods import ChatSearcherMethod, DualEncoderMethod, FromageMethod
from chatsearch.evaluate.report.sweep import MissingSweep, RecordedSweep, find_sweep
from chatsearch.evaluate.seeds import METHODS
from chatsearch.tracking.mlflow import stored_name
from chatsearch.tracking.runs import RecordedRun

HOUR_MS = 3_600_000


def parent(number: int, *, status: str = "FINISHED", end: int | None = None, **params: str) -> RecordedRun:
    """The run of a sweep over two cells."""
    told = {"cells.0.name": "queue 0", "cells.1.name": "queue 1,000", "seeds": "[0, 1]", "gallery": "all"}
    told |= {"align": "[]", "instruct": '["steps=5"]', "baseline": "[]"}
    told |= {"claims.0.text": "more", "claims.0.row": "queue 1,000", "claims.0.over": "queue 0", "claims.0.task": "m"}
    told |= {"claims.0.over_task": "m", "claims.0.factor": "1.0", "claims.0.or_equal": "false"}
    return RecordedRun(
        id=f"p{number}",
        parent="",
        key=f"sweep-{number}",
        status=status,
        begin_ms=number * HOUR_MS,
        end_ms=end if end is not None or status == "RUNNING" else (number + 1) * HOUR_MS,
        params=told | params,
        tags={"recipe": "scenes_queue"},
    )


def child(number: int, cell: str, seed: int, score: float, **more: Any) -> RecordedRun:
    """The run of a cell whose every score is one number, and of a method that cannot be asked t."""
    keys = ["average", *"tim", *(f"{task} R@{k}" for task in "tim" for k in (1, 5, 10))]
    metrics = {stored_name(f"{cell}/{key}"): score for key in keys}
    metrics |= {stored_name(f"dual encoder (ti)/{key}"): 1.0 for key in keys if not key.startswith("t")}
    run = RecordedRun(
        id=f"{number}-{cell}-{seed}",
        parent=f"p{number}",
        key=f"sweep-{number}-{cell}-{seed}",
        status="FINISHED",
        begin_ms=0,
        end_ms=1,
        params={"cell": cell, "seed": str(seed), "align": json.dumps(["objective.queue_size=7"]), "instruct": "[]"},
        metrics=metrics,
    )
    return replace(run, **more)


CELLS = [child(1, cell, seed, seed + len(cell)) for seed in (1, 0) for cell in ("queue 1,000", "queue 0")]


def found(*runs: RecordedRun, name: str = "scenes_queue") -> RecordedSweep:
    sweep = find_sweep(runs, name)
    assert isinstance(sweep, RecordedSweep)
    return sweep


def test_rows_have_their_own_names_and_the_sweeps_order_whatever_the_stores() -> None:
    sweep = found(*CELLS, parent(1))
    assert [(cell.name, cell.seed) for cell in sweep.cells] == [
        ("queue 0", 0),
        ("queue 0", 1),
        ("queue 1,000", 0),
        ("queue 1,000", 1),
    ]
    rows = {row.name: row for row in sweep.rows()}
    assert list(rows) == ["queue 0", "dual encoder (ti)", "queue 1,000"]
    assert rows["queue 1,000"].by_seed[1]["m R@5"] == 12
    assert rows["dual encoder (ti)"].by_seed[0]["t R@1"] is None
    assert rows["dual encoder (ti)"].by_seed[0]["i R@1"] == 1.0
    assert sweep.cells[0].settings == {"objective.queue_size": 7}
    assert sweep.settings == ("steps=5",)
    (claim,) = sweep.judged()
    assert claim["verdict"] == "too few seeds"
    assert claim["seeds"]["1"] == {"row": 12.0, "over": 8.0, "gap": 4.0}


def test_the_newest_finished_run_counts_by_its_end() -> None:
    runs = [parent(1, end=9 * HOUR_MS), parent(2), parent(3, status="RUNNING"), parent(4, status="FAILED"), *CELLS]
    assert found(*runs).key == "sweep-1"
    assert found(*runs, name="sweep-2").key == "sweep-2"


def test_a_cell_that_failed_later_or_is_of_another_sweep_is_none() -> None:
    failed = replace(CELLS[0], status="FAILED")
    sweep = found(parent(1), failed, *CELLS[1:], child(2, "queue 0", 0, 99.0))
    assert [(cell.name, cell.seed) for cell in sweep.cells] == [("queue 0", 0), ("queue 0", 1), ("queue 1,000", 0)]
    assert {cell.scores["dual encoder (ti)"]["i"] for cell in sweep.cells} == {1.0}
    assert sweep.judged()[0]["verdict"] == "not measured"


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ([], "no run of it is recorded"),
        (CELLS, "no run of it is recorded"),
        ([parent(1, status="RUNNING"), *CELLS[:3]], "marked RUNNING, cells ended: 3"),
        ([parent(1, seeds="[0,")], "sweep-1 is not whole"),
        ([parent(1, **{"claims.0.factor": "much"})], "sweep-1 is not whole"),
        ([replace(parent(1), params={})], "sweep-1 is not whole: KeyError"),
    ],
)
def test_what_is_missing_is_named(runs: list[RecordedRun], reason: str) -> None:
    sweep = find_sweep(runs, "scenes_queue")
    assert isinstance(sweep, MissingSweep)
    assert reason in sweep.reason


def test_every_method_has_its_name_in_the_list() -> None:
    duals = [DualEncoderMethod(None, None, variant).name for variant in ("t", "i", "ti")]
    assert {ChatSearcherMethod.name, FromageMethod.name, RANDOM, *duals} == set(METHODS)
