"""Figures 5 and 6: the mean over the seeds as a line, every seed as a dot. Drawn as SVG, the same bytes from the same numbers."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chatsearch.evaluate.report.sweep import Cell, RecordedSweep
from chatsearch.evaluate.seeds import AVERAGE, SUB_TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUEUE_SIZE = "objective.queue_size"
FRACTIONS = "streams.0.fractions"
Points = Mapping[float, Sequence[float]]
"""By place on the horizontal axis: a score in percent for every seed."""


@dataclass(frozen=True)
class Figure:
    """Lines over one axis.

    Attributes:
        across: what the horizontal axis is.
        up: what the vertical one is.
        lines: by name.
        even: the places are steps of equal width, as sizes from 0 to thousands are best read.
    """

    across: str
    up: str
    lines: Mapping[str, Points]
    even: bool = False

    def svg(self) -> bytes:
        """The drawing."""
        import matplotlib
        from matplotlib.figure import Figure as Canvas

        # Text stays text, and no date or random name enters the file.
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "chatsearch"}):
            canvas = Canvas(figsize=(6.0, 3.6), layout="constrained")
            axes = canvas.subplots()
            self._draw(axes)
            drawn = io.BytesIO()
            canvas.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
        return drawn.getvalue()

    def _draw(self, axes: Axes) -> None:
        places = sorted({place for points in self.lines.values() for place in points})
        at = {place: float(number) if self.even else place for number, place in enumerate(places)}
        for name, points in self.lines.items():
            held = sorted(points)
            means = [statistics.mean(points[place]) for place in held]
            (line,) = axes.plot([at[place] for place in held], means, marker="_", markersize=12, label=name)
            dots = [(at[place], value) for place in held for value in points[place]]
            axes.plot(*zip(*dots, strict=True), ".", color=line.get_color())
        axes.set_xticks([at[place] for place in places], [f"{place:g}" for place in places])
        axes.set_xlabel(self.across)
        axes.set_ylabel(self.up)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if len(self.lines) > 1:
            axes.legend()


def queue_figure(sweep: RecordedSweep) -> Figure:
    """Figure 5: the mean recall by the size of the queue."""
    points: dict[float, list[float]] = {}
    for cell in sweep.cells:
        size = cell.settings.get(QUEUE_SIZE)
        score = cell.scores.get(cell.name, {}).get(AVERAGE)
        if size is not None and score is not None:
            points.setdefault(float(size), []).append(score)
    lines = {"mean recall": points} if points else {}
    return Figure(
        "images in the queue (0: negatives of the step alone)", "mean of R@1/5/10, t, i, m (%)", lines, even=True
    )


def scale_figure(sweep: RecordedSweep) -> Figure:
    """Figure 6: the recall of every sub-task by the share of the ChatSearch dialogues that stage 2 sees."""
    lines: dict[str, dict[float, list[float]]] = {task: {} for task in SUB_TASKS}
    for cell in sweep.cells:
        for task in SUB_TASKS:
            score = cell.scores.get(cell.name, {}).get(task)
            if score is not None:
                lines[task].setdefault(_share(cell), []).append(score)
    held = {f"sub-task {task}": points for task, points in lines.items() if points}
    return Figure("share of the ChatSearch dialogues in stage 2", "mean of R@1/5/10 (%)", held)


def _share(cell: Cell) -> float:
    """What of each kind's documents a cell took; all of them where nothing is said."""
    return float(min(dict(cell.settings.get(FRACTIONS) or {}).values(), default=1.0))
