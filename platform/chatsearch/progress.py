"""Progress of a long job on standard error: done of total, rate, time left.

A terminal gets a moving bar; a log gets a line every few seconds, because a bar in a log is noise.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

LOG_INTERVAL_S = 10.0

Advance = Callable[[int], None]
"""Told how many more are done."""


@contextlib.contextmanager
def progress(what: str, total: int, unit: str, *, done: int = 0) -> Iterator[Advance]:
    """Show the progress of a block.

    Args:
        what: name of the step.
        total: number of units in all.
        unit: what is counted, in the plural.
        done: units an earlier run finished; they do not count towards the rate.

    Yields:
        A function to call with the number of units just finished.
    """
    bar = _bar if sys.stderr.isatty() else _lines
    with bar(what, total, unit, done) as advance:
        yield advance


@contextlib.contextmanager
def _bar(what: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(what, total=total, completed=done, rate="")
        begin, count = time.monotonic(), 0

        def advance(number: int) -> None:
            nonlocal count
            count += number
            rate = count / max(time.monotonic() - begin, 1e-9)
            shown.update(task, advance=number, rate=f"{rate:,.1f}/s")

        yield advance


@contextlib.contextmanager
def _lines(what: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    begin = last = time.monotonic()
    count = 0

    def show(now: float) -> None:
        rate = count / max(now - begin, 1e-9)
        left = f", {_clock((total - done - count) / rate)} left" if count else ""
        line = f"{what}: {done + count:,}/{total:,} {unit}, {rate:,.1f}/s, {_clock(now - begin)} elapsed{left}"
        print(line, file=sys.stderr, flush=True)

    def advance(number: int) -> None:
        nonlocal count, last
        count += number
        now = time.monotonic()
        if now - last >= LOG_INTERVAL_S or done + count >= total:
            last = now
            show(now)

    yield advance


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
