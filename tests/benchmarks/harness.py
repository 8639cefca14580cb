"""How a benchmark measures and reports: paired interleaved runs, a null test, every run kept."""

from __future__ import annotations

import datetime
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from chatsearch.tracking.machine import this_machine

from tests.benchmarks.peers.environment import ROOT

Status = Literal["met", "missed", "reported", "void", "not_run"]
"""``reported`` is a number that no goal is set for."""
NULL_BAND = (0.98, 1.02)
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Result:
    """One goal measured. ``interval`` is a bootstrap 95 % interval of ``value``."""

    id: str
    status: Status
    value: float | None
    interval: tuple[float, float] | None
    goal: str
    command: str
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    machine: str = field(default_factory=this_machine)
    runs: tuple[float, ...] = ()
    """Every measurement behind the value, in the order taken."""
    note: str = ""
    """What a reader needs beside the value: settings of the sides, medians, the null test. What follows an empty line is Markdown."""
    sides: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What each side measured, where ``runs`` are ratios of them."""
    steal: float | None = None
    """Share of the machine's processor time that others took meanwhile; None where the system does not tell."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Text by name of the file beside the results that it goes to, e.g. a plot."""


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def paired_speedups(ours: Callable[[], object], theirs: Callable[[], object], num_pairs: int) -> list[float]:
    """Time of theirs over time of ours, a pair at a time, in the order A B, B A, A B ... after one warm-up each."""
    ours()
    theirs()
    ratios = []
    for number in range(num_pairs):
        if number % 2:
            other, own = seconds(theirs), seconds(ours)
        else:
            own, other = seconds(ours), seconds(theirs)
        ratios.append(other / own)
    return ratios


@dataclass(frozen=True)
class Rounds:
    """What sides measured that took turns."""

    values: Mapping[str, Sequence[float]]
    """By side, one value a round."""
    null: Sequence[float]
    """Wherever a side stood twice in a row: its second value over its first."""

    def ratios(self, over: str, under: str) -> list[float]:
        """Value of one side over that of another, round by round."""
        return [a / b for a, b in zip(self.values[over], self.values[under], strict=True)]


def take_turns(sides: Mapping[str, Callable[[], float]], num_rounds: int) -> Rounds:
    """Measure every side once a round, forwards in one round and backwards in the next: A B, B A, A B ...

    The sides at the ends so stand twice in a row now and then, which is the null test. Warm up before.
    """
    values: dict[str, list[float]] = {name: [] for name in sides}
    null: list[float] = []
    order, last = list(sides), ""
    for _ in range(num_rounds):
        for name in order:
            values[name].append(sides[name]())
            if name == last:
                null.append(values[name][-1] / values[name][-2])
            last = name
        order.reverse()
    return Rounds(values, null)


def judge(
    id: str,
    runs: Sequence[float],
    *,
    goal: str,
    command: str,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    null: Sequence[float] = (),
    note: str = "",
    sides: Mapping[str, Sequence[float]] | None = None,
) -> Result:
    """The median of the runs against a goal, which holds if the bad end of its interval does.

    Args:
        id: of the goal.
        runs: one number a pair.
        goal: in words.
        command: that measures it.
        at_least: least that meets the goal.
        at_most: most that meets the goal.
        null: ratios of a side to itself. A median outside of :data:`NULL_BAND` makes the result void.
        note: see :class:`Result`.
        sides: see :class:`Result`.
    """
    interval = median_interval(runs)
    head, *more = note.split("\n\n", 1)
    notes = [head] if head else []
    status: Status = "met" if interval[0] >= at_least and interval[1] <= at_most else "missed"
    if null:
        middle = statistics.median(null)
        notes.append(f"null test {middle:.3f} of {len(null)}")
        if not NULL_BAND[0] <= middle <= NULL_BAND[1]:
            status = "void"
    return Result(
        id,
        status,
        statistics.median(runs),
        interval,
        goal,
        command,
        runs=tuple(runs),
        note="\n\n".join(["; ".join(notes), *more]),
        sides=dict(sides or {}),
    )


def report(
    id: str,
    runs: Sequence[float],
    *,
    goal: str,
    command: str,
    null: Sequence[float] = (),
    note: str = "",
    sides: Mapping[str, Sequence[float]] | None = None,
    files: Mapping[str, str] | None = None,
) -> Result:
    """The median of the runs where no goal is set for it; see :func:`judge`."""
    judged = judge(id, runs, goal=goal, command=command, null=null, note=note, sides=sides)
    return replace(judged, status="reported" if judged.status == "met" else "void", files=dict(files or {}))


def account(
    id: str,
    inside: Sequence[float],
    whole: Sequence[float],
    *,
    goal: str,
    command: str,
    at_most: float,
    note: str = "",
) -> Result:
    """The share of a part in the time of steps, by accounting: what lies under 3 % drowns in the noise of pairs.

    Args:
        id: of the goal.
        inside: seconds inside the part, by step.
        whole: seconds of the step.
        goal: in words.
        command: that measures it.
        at_most: the share that meets the goal, which the upper end of the bootstrap interval has to.
        note: see :class:`Result`.
    """
    pairs = list(zip(inside, whole, strict=True))
    shares = sorted(part / step for part, step in pairs)
    draw = random.Random(0)
    drawn = (draw.choices(pairs, k=len(pairs)) for _ in range(NUM_RESAMPLES))
    totals = sorted(sum(part for part, _ in some) / sum(step for _, step in some) for some in drawn)
    interval = totals[int(0.025 * NUM_RESAMPLES)], totals[int(0.975 * NUM_RESAMPLES)]
    spread = (
        f"{len(pairs)} steps of {statistics.median(whole):.3g} s; of a step: median {statistics.median(shares):.3%}, "
        f"99th percentile {shares[math.ceil(0.99 * len(shares)) - 1]:.3%}"
    )
    return Result(
        id,
        "met" if interval[1] <= at_most else "missed",
        sum(inside) / sum(whole),
        interval,
        goal,
        command,
        runs=tuple(part / step for part, step in pairs),
        note="; ".join(filter(None, [spread, note])),
    )


def cpu_times() -> tuple[float, float]:
    """Processor time that others took from this machine, and all there was, since its start; zeros where /proc does not tell."""
    try:
        ticks = [float(number) for number in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return 0.0, 0.0
    return ticks[7] if len(ticks) > 7 else 0.0, sum(ticks)


def steal_since(before: tuple[float, float]) -> float | None:
    """Share of the time since ``before`` (see :func:`cpu_times`) that others took."""
    stolen, total = (now - then for now, then in zip(cpu_times(), before, strict=True))
    return stolen / total if total > 0 else None


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Bootstrap 95 % interval of the median."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(NUM_RESAMPLES))
    return medians[int(0.025 * NUM_RESAMPLES)], medians[int(0.975 * NUM_RESAMPLES)]


def write(results: Sequence[Result], folder: Path) -> str:
    """Write ``results.json``, the results' files, and the Markdown table, which goes to ``results.md`` and is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    # Paths as seen from the repository: where that lies says nothing to who reads the results.
    results = [replace(r, note=r.note.replace(f"{ROOT}/", "")) for r in results]
    rows = ["| id | status | value | 95 % interval | goal |", "|---|---|---|---|---|"]
    below = []
    for r in results:
        for name, text in r.files.items():
            (folder / name).write_text(text)
        value = "" if r.value is None else f"{r.value:.3g}"
        interval = "" if r.interval is None else f"{r.interval[0]:.3g} to {r.interval[1]:.3g}"
        note, _, more = r.note.partition("\n\n")
        rows.append(f"| {r.id} | {r.status} | {value} | {interval} | {'; '.join(filter(None, [r.goal, note]))} |")
        if more or r.files:
            below.append("\n\n".join([f"## {r.id}", *filter(None, [more]), *(f"![{n}]({n})" for n in r.files)]) + "\n")
    held = [{**asdict(r), "files": list(r.files)} for r in results]
    (folder / "results.json").write_text(json.dumps(held, indent=1) + "\n")
    stolen = max((r.steal for r in results if r.steal is not None), default=0.0)
    stamp = f"\n{results[0].date}, {results[0].machine}, `{results[0].command}`" if results else ""
    stamp += f", at most {stolen:.1%} of the processor time taken by others\n" if results else ""
    table = "\n".join(["\n".join(rows) + "\n" + stamp, *below])
    (folder / "results.md").write_text(table)
    return table
