"""A progress bar with rate and time left, shown while a job works."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Advance = Callable[[int], None]
"""Told how many more units are done."""


class _RateColumn(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """The rate over the last moments, or a dash before there is one."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f} {self._unit}/s" if speed else f"- {self._unit}/s")


@contextlib.contextmanager
def progress_bar(title: str, total: int, unit: str, *, done: int = 0) -> Iterator[Advance]:
    """Show a bar on standard error for the duration of the block; off a terminal only its last state is printed.

    Args:
        title: what is being done.
        total: units of work in all.
        unit: plural name of a unit.
        done: units that an earlier run has done.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda count: bar.advance(task, count)
