"""Recall against queries a second: points of a sweep, the fastest at a recall, a table and a plot."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.index_engines import Build, Side
from tests.benchmarks.peers.engine import K

TARGETS = (0.95, 0.98)


@dataclass(frozen=True)
class Point:
    """One side with one setting of its search."""

    side: Side
    parameters: Mapping[str, int]
    recall: float
    rates: Sequence[float]
    """Queries a second, of each turn."""

    @property
    def rate(self) -> float:
        """Median queries a second."""
        return statistics.median(self.rates)

    @property
    def setting(self) -> str:
        """In words."""
        return " ".join(f"{name}={value}" for name, value in self.parameters.items()) or "exact"

    @property
    def label(self) -> str:
        """Side and setting."""
        return f"{self.side.name} {self.setting}"


def fastest(points: Sequence[Point], target: float) -> Point | None:
    """The fastest setting that was tried and reaches a recall; None where none does. Nothing is interpolated."""
    return max((point for point in points if point.recall >= target), key=lambda point: point.rate, default=None)


def table(
    points: Sequence[Point],
    builds: Mapping[str, Build],
    facts: Mapping[str, Mapping[str, str]],
    refused: Mapping[str, str],
) -> str:
    """Markdown, a row a side."""
    heads = [f"QPS at recall@{K} >= {target}" for target in TARGETS]
    rows = [
        f"| engine | {' | '.join(heads)} | best recall | build | on disk | settings |",
        "|---" * (5 + len(heads)) + "|",
    ]
    for name, made in builds.items():
        if name in refused:
            continue
        own = [point for point in points if point.side.name == name]
        cells = []
        for target in TARGETS:
            best = fastest(own, target)
            cells.append(f"{best.rate:,.0f} ({best.setting}: {best.recall:.3f})" if best else "not reached")
        how = ", ".join(f"{key} {value}" for key, value in own[0].side.build.items())
        said = "; ".join(filter(None, [facts[name].get("version", ""), how, facts[name].get("settings", "")]))
        took = f"{made.seconds:.0f} s{', kept from an earlier run' if made.cached else ''}"
        reached = max(point.recall for point in own)
        rows.append(
            f"| {name} | {' | '.join(cells)} | {reached:.3f} | {took} | {made.num_bytes / 2**20:,.0f} MiB | {said} |"
        )
    rows += [
        f"| {name} | could not run: {why.replace('|', '/')} |" + " |" * (3 + len(heads))
        for name, why in refused.items()
    ]
    return "\n".join(rows)


def plot(points: Sequence[Point], title: str) -> str:
    """The curves as SVG."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for name in dict.fromkeys(point.side.name for point in points):
        own = sorted((point for point in points if point.side.name == name), key=lambda point: point.recall)
        axes.plot(
            [point.recall for point in own],
            [point.rate for point in own],
            marker="o",
            linestyle="-" if own[0].side.ours else "--",
            linewidth=2 if own[0].side.ours else 1,
            label=name,
        )
    for target in TARGETS:
        axes.axvline(target, color="0.8", linewidth=1, zorder=0)
    axes.set(yscale="log", xlabel=f"recall@{K}", ylabel="queries a second, one at a time, one core", title=title)
    axes.title.set_fontsize("small")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
