"""One measurement at several seeds: the mean, the spread, and whether a claim holds in each. Light: no torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, PositiveFloat

from chatsearch.config import Config
from chatsearch.evaluate.table import ReportTable

AVERAGE = "average"
SUB_TASKS = ("t", "i", "m")
DEPTHS = ("R@1", "R@5", "R@10")
OURS = "ChatSearcher"
METHODS = (OURS, "FROMAGe", "dual encoder (ti)", "dual encoder (t)", "dual encoder (i)", "random (expected)")
"""Rows that are methods and no cells of a sweep, in the order of showing."""
OURS_CEILING, BASELINE_CEILING = 90.0, 50.0
"""Above these a ratio says more about the ceiling than about the methods."""
LEAST_SEEDS = 3
"""With fewer a sign that holds in each shows nothing."""

Task = Literal["average", "t", "i", "m"]
Gallery = Literal["targets", "all"]
Verdict = Literal["shown", "not shown", "ceiling", "too few seeds", "not measured"]
Scores = dict[str, float | None]
"""By ``average``, sub-task (the mean of its depths) or ``t R@1``: percent, or None where the method cannot be asked."""


class ClaimConfig(Config):
    """That one row is above another. It is shown where that holds in every seed."""

    text: str = Field(min_length=1)
    row: str
    over: str
    task: Task = "average"
    over_task: Task = "average"
    factor: PositiveFloat = 1.0
    """How many times the other row."""
    or_equal: bool = False
    """Equality counts, too."""


@dataclass(frozen=True)
class Row:
    """One method of one cell: its scores at every seed that is finished."""

    name: str
    by_seed: Mapping[int, Scores]

    def spread(self, key: str) -> dict[str, float] | None:
        """Mean, sample standard deviation, least and most of one score over the seeds."""
        values = [value for scores in self.by_seed.values() if (value := scores[key]) is not None]
        if not values:
            return None
        return {
            "mean": round(statistics.mean(values), 3),
            "deviation": round(statistics.stdev(values), 3) if len(values) > 1 else 0.0,
            "least": round(min(values), 3),
            "most": round(max(values), 3),
        }


def scores_of(method: Mapping[str, Any], gallery: Gallery) -> Scores:
    """The scores of one method of a ``chatsearch`` result against one gallery."""
    scores: Scores = {AVERAGE: method["average"][gallery] if method["average"] else None}
    for task in SUB_TASKS:
        cell = method.get(task)
        for depth in DEPTHS:
            scores[f"{task} {depth}"] = cell[gallery][depth] if cell else None
        scores[task] = statistics.mean(cell[gallery][depth] for depth in DEPTHS) if cell else None
    return scores


def judge(claim: ClaimConfig, rows: Sequence[Row], seeds: Sequence[int]) -> dict[str, Any]:
    """What the rows say about a claim.

    Returns:
        ``verdict``, and by seed the score ``row``, the score ``over`` and ``gap`` = row - factor x over.
        ``not measured`` while a row or a seed is missing; ``ceiling`` in place of a ratio near the top;
        ``too few seeds`` where it holds in each of fewer than three.
    """
    by_name = {row.name: row.by_seed for row in rows}
    found: dict[str, dict[str, float]] = {}
    for seed in seeds:
        left = by_name.get(claim.row, {}).get(seed, {}).get(claim.task)
        right = by_name.get(claim.over, {}).get(seed, {}).get(claim.over_task)
        if left is not None and right is not None:
            gap = left - claim.factor * right
            found[str(seed)] = {"row": round(left, 3), "over": round(right, 3), "gap": round(gap, 3)}
    return {"claim": claim.text, "verdict": _verdict(claim, list(found.values()), len(seeds)), "seeds": found}


def _verdict(claim: ClaimConfig, found: Sequence[Mapping[str, float]], num_seeds: int) -> Verdict:
    if len(found) < num_seeds:
        return "not measured"
    if claim.factor > 1 and any(v["row"] > OURS_CEILING or v["over"] > BASELINE_CEILING for v in found):
        return "ceiling"
    holds = all(v["gap"] > 0 or (claim.or_equal and v["gap"] == 0) for v in found)
    if not holds:
        return "not shown"
    return "shown" if num_seeds >= LEAST_SEEDS else "too few seeds"


def rows_table(title: str, rows: Sequence[Row]) -> ReportTable:
    """Means over the seeds, with the standard deviation where there is more than one seed."""
    keys = [*(f"{task} {depth}" for task in SUB_TASKS for depth in DEPTHS), AVERAGE]
    header = ("row", "seeds", *keys[:-1], "Avg.")
    shown = [(row.name, str(len(row.by_seed)), *(_cell(row, key) for key in keys)) for row in rows]
    return ReportTable(title, header, tuple(shown))


def claims_table(judged: Sequence[Mapping[str, Any]]) -> ReportTable:
    """Every claim with its verdict and the two scores in each seed."""
    rows = []
    for claim in judged:
        pairs = ", ".join(f"{v['row']:.1f} : {v['over']:.1f}" for v in claim["seeds"].values())
        rows.append((claim["claim"], claim["verdict"], pairs))
    return ReportTable(
        f"Claims; shown = holds in every seed, of at least {LEAST_SEEDS}",
        ("claim", "verdict", "in each seed"),
        tuple(rows),
    )


def _cell(row: Row, key: str) -> str:
    spread = row.spread(key)
    if spread is None:
        return "-"
    return f"{spread['mean']:.1f} ±{spread['deviation']:.1f}" if len(row.by_seed) > 1 else f"{spread['mean']:.1f}"
