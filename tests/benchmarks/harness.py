"""How a benchmark measures and reports: paired interleaved runs, a null test, every run kept."""

from __future__ import annotations

import datetime
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Status = Literal["met", "missed", "void", "not_run"]
NULL_BAND = (0.98, 1.02)
NUM_RESAMPLES = 2000


def describe_machine() -> str:
    """Processor, cores and memory of this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"


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
    machine: str = field(default_factory=describe_machine)
    runs: tuple[float, ...] = ()
    """Every measurement behind the value, in the order taken."""


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


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Bootstrap 95 % interval of the median."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(NUM_RESAMPLES))
    return medians[int(0.025 * NUM_RESAMPLES)], medians[int(0.975 * NUM_RESAMPLES)]


def write(results: Sequence[Result], folder: Path) -> str:
    """Write ``results.json`` and return the Markdown table, which goes to ``results.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    rows = ["| id | status | value | 95 % interval | goal |", "|---|---|---|---|---|"]
    for r in results:
        value = "" if r.value is None else f"{r.value:.3g}"
        interval = "" if r.interval is None else f"{r.interval[0]:.3g} to {r.interval[1]:.3g}"
        rows.append(f"| {r.id} | {r.status} | {value} | {interval} | {r.goal} |")
    stamp = f"\n{results[0].date}, {results[0].machine}, `{results[0].command}`\n" if results else ""
    table = "\n".join(rows) + "\n" + stamp
    (folder / "results.md").write_text(table)
    return table
