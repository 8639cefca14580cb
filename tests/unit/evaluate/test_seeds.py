"""Means, spreads and verdicts over seeds, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from chatsearch.evaluate.seeds import ClaimConfig, Row, claims_table, judge, rows_table, scores_of

SEEDS = (0, 1, 2)


def row(name: str, *averages: float | None, **tasks: tuple[float, ...]) -> Row:
    """A row whose other scores are its average, unless told."""
    keys = [*(f"{task} {depth}" for task in "tim" for depth in ("R@1", "R@5", "R@10")), "average", *"tim"]
    return Row(
        name,
        {
            seed: {key: tasks[key][seed] if key in tasks else average for key in keys}
            for seed, average in enumerate(averages)
        },
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "claim", "verdict"),
    [
        ((50, 51, 52), (49, 50, 51), {}, "shown"),
        ((60, 60, 49), (49, 50, 50), {}, "not shown"),  # the mean is above, one seed is not
        ((50, 51, 50), (49, 50, 50), {}, "not shown"),
        ((50, 51, 50), (49, 50, 50), {"or_equal": True}, "shown"),
        ((40, 40, 40), (20, 20, 20), {"factor": 1.9}, "shown"),
        ((40, 40, 37), (20, 20, 20), {"factor": 1.9}, "not shown"),
        ((91, 80, 80), (20, 20, 20), {"factor": 1.9}, "ceiling"),
        ((60, 60, 60), (20, 51, 20), {"factor": 1.9}, "ceiling"),
        ((95, 95, 95), (51, 51, 51), {}, "shown"),
        ((50, 51), (10, 10), {}, "not measured"),
        ((50, 51, None), (10, 10, 10), {}, "not measured"),
    ],
)
def test_a_claim_is_shown_where_it_holds_in_every_seed(
    ours: tuple[float, ...], theirs: tuple[float, ...], claim: dict[str, Any], verdict: str
) -> None:
    told = ClaimConfig(text="ours is above", row="ours", over="theirs", **claim)
    assert judge(told, [row("ours", *ours), row("theirs", *theirs)], SEEDS)["verdict"] == verdict


def test_what_holds_in_fewer_than_three_seeds_is_not_shown() -> None:
    claim = ClaimConfig(text="above", row="ours", over="theirs")
    rows = [row("ours", 50, 51), row("theirs", 10, 10)]
    assert judge(claim, rows, (0, 1))["verdict"] == "too few seeds"
    assert judge(claim.replace(row="theirs", over="ours"), rows, (0, 1))["verdict"] == "not shown"


def test_a_claim_about_an_absent_row_is_not_measured() -> None:
    claim = ClaimConfig(text="above", row="ours", over="FROMAGe")
    assert judge(claim, [row("ours", 1, 2, 3)], SEEDS) == {"claim": "above", "verdict": "not measured", "seeds": {}}


def test_a_row_may_be_compared_with_itself_on_another_sub_task() -> None:
    ours = row("ours", 5, 5, 5, m=(7.0, 8.0, 9.0), i=(7.0, 7.5, 8.0))
    claim = ClaimConfig(text="m at least i", row="ours", over="ours", task="m", over_task="i", or_equal=True)
    judged = judge(claim, [ours], SEEDS)
    assert judged["verdict"] == "shown"
    assert [value["gap"] for value in judged["seeds"].values()] == [0.0, 0.5, 1.0]


def test_scores_are_those_of_the_result() -> None:
    cell = {"all": {"R@1": 10.0, "R@5": 20.0, "R@10": 60.0}, "targets": {"R@1": 40.0, "R@5": 50.0, "R@10": 60.0}}
    method = {"t": None, "i": cell, "m": cell, "average": {"all": 30.0, "targets": 50.0}}
    scores = scores_of(method, "all")
    assert (scores["average"], scores["i"], scores["m R@10"], scores["t"], scores["t R@1"]) == (30, 30, 60, None, None)
    assert scores_of(method, "targets")["i"] == 50


def test_the_spread_is_that_of_a_sample() -> None:
    assert row("ours", 1, 2, 6).spread("average") == {"mean": 3.0, "deviation": 2.646, "least": 1, "most": 6}
    assert row("ours", 4).spread("average") == {"mean": 4, "deviation": 0.0, "least": 4, "most": 4}
    assert row("CLIP-i", None, None).spread("t") is None


def test_tables_show_every_row_and_claim() -> None:
    rows = [row("ours", 1, 2, 6), row("theirs", 1)]
    table = rows_table("title", rows)
    assert [(shown[0], shown[1], shown[-1]) for shown in table.rows] == [
        ("ours", "3", "3.0 ±2.6"),
        ("theirs", "1", "1.0"),
    ]
    assert {len(shown) for shown in table.rows} == {len(table.header)}
    judged = [judge(ClaimConfig(text="above", row="ours", over="theirs"), rows, (0,))]
    assert claims_table(judged).rows == (("above", "not shown", "1.0 : 1.0"),)
