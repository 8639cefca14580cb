"""One table of ours beside the baselines, for terminals and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatsearch.evaluate.metrics import CUTOFFS

if TYPE_CHECKING:
    from rich.table import Table as RichTable

ABSENT = "-"


@dataclass(frozen=True)
class ReportTable:
    """Rows of texts under a header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def rich(self) -> RichTable:
        """As the rich library draws it, numbers to the right."""
        from rich.table import Table

        table = Table(title=self.title, title_justify="left")
        for number, name in enumerate(self.header):
            table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """As Markdown, numbers to the right, without the title; what a cell holds can break no column."""
        rule = ("---", *("---:" for _ in self.header[1:]))
        head, *body = (tuple(map(plain_markdown, row)) for row in (self.header, *self.rows))
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))


def plain_markdown(text: str) -> str:
    """The text on one line, with all that Markdown would read as more than text escaped."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(text.split()))


def table_of(result: Mapping[str, Any]) -> list[ReportTable]:
    """The tables of a result of any protocol."""
    protocol = result["protocol"]["name"]
    if protocol == "chatsearch":
        return [_chatsearch(result, which) for which in ("targets", "all")]
    if protocol == "text_to_image":
        return [_text_to_image(result)]
    if protocol == "interaction":
        return [_interaction(result)]
    return [_decision(result)]


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}"


def _chatsearch(result: Mapping[str, Any], which: str) -> ReportTable:
    tasks = list(result["counts"])
    header = ["method", *(f"{task} R@{k}" for task in tasks for k in CUTOFFS), "Avg."]
    rows = []
    for name, cells in result["methods"].items():
        row = [name]
        for task in tasks:
            cell = cells.get(task)
            row += [_number(cell[which][f"R@{k}"] if cell else None) for k in CUTOFFS]
        rows.append((*row, _number(cells["average"][which] if cells["average"] else None)))
    sizes = ", ".join(
        f"{task}: {counts['num_queries']} queries in {counts['num_gallery'][which]}"
        for task, counts in result["counts"].items()
    )
    what = {"targets": "gallery = targets of the sub-task", "all": "gallery = the whole index"}[which]
    title = f"ChatSearch, {what} ({sizes}); Avg. of the columns that a method has"
    return ReportTable(title, tuple(header), tuple(rows))


def _text_to_image(result: Mapping[str, Any]) -> ReportTable:
    rows = [("ChatSearcher", *(_number(result[f"R@{k}"]) for k in CUTOFFS))]
    rows += [(name, *(_number(cells[f"R@{k}"]) for k in CUTOFFS)) for name, cells in result["baselines"].items()]
    title = (
        f"Text to image, split {result['split']}: {result['num_queries']} captions in {result['num_gallery']} pictures"
    )
    return ReportTable(title, ("method", *(f"R@{k}" for k in CUTOFFS)), tuple(rows))


def _decision(result: Mapping[str, Any]) -> ReportTable:
    columns: Sequence[str] = ("precision", "recall")
    counts: Sequence[str] = ("hits", "false_alarms", "misses", "silences")
    rows = []
    for name in ("first_token", "in_answer"):
        cells = result["decision"][name]
        rows.append((name, *(_number(cells[c]) for c in columns), *(str(cells[c]) for c in counts)))
    title = f"Decision to retrieve, {result['num_retrieval']} retrieval and {result['num_question']} question prompts"
    return ReportTable(title, ("[IMG] as", *columns, *(c.replace("_", " ") for c in counts)), tuple(rows))


def _interaction(result: Mapping[str, Any]) -> ReportTable:
    columns = (*(f"R@{k}" for k in CUTOFFS), "median_rank", "worse", "same_first", "shared")
    rows = [(name, *(_number(cells.get(c)) for c in columns)) for name, cells in result["interaction"].items()]
    title = f"The target after another pick or other words, {result['num_dialogues']} dialogues in {result['num_gallery']} pictures"
    return ReportTable(title, ("asked with", *(c.replace("_", " ") for c in columns)), tuple(rows))
