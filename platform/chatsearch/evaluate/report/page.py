"""One page: tables 2, 4 and 6, figures 5 and 6, each with its claims and where its numbers come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chatsearch import __version__
from chatsearch.errors import ConflictingOutputError, MissingInputError
from chatsearch.evaluate.report.config import ReportConfig
from chatsearch.evaluate.report.figures import Figure, queue_figure, scale_figure
from chatsearch.evaluate.report.published import TABLE_2, TABLE_4, TABLE_6
from chatsearch.evaluate.report.sweep import MissingSweep, RecordedSweep, find_sweep
from chatsearch.evaluate.seeds import claims_table, rows_table
from chatsearch.evaluate.table import ReportTable, plain_markdown
from chatsearch.storage import Folder
from chatsearch.tracking.runs import RecordedRun

SCHEMA = 1
REPORT = "report"
PAGE, DATA = "report.md", "report.json"
_GALLERIES = {"targets": "the targets of the sub-task", "all": "the whole index"}
_UNKNOWN = "not recorded"
_HEAD = """# The paper's tables and figures in small

Every number is read from the runs of a sweep (`jobs.sweep`) in MLflow: R@K in percent on held-out documents, the mean over the seeds
± their sample standard deviation. A claim is *shown* where it holds in every seed, of at least three. Made by `jobs.report`.
"""


@dataclass(frozen=True)
class Part:
    """A table or figure of the paper.

    Attributes:
        key: field of the configuration that names its sweep.
        title: of its section.
        note: what its rows are.
        published: what the paper prints; None where it prints no numbers.
        figure: how it is drawn; None for a table.
    """

    key: str
    title: str
    note: str
    published: ReportTable | None = None
    figure: Callable[[RecordedSweep], Figure] | None = None


PARTS = (
    Part(
        "table2",
        "Table 2: ours beside the baselines",
        "The dual encoder stands for CLIP, trained on the model's own documents: by text (t), picture (i) and both (ti).",
        published=TABLE_2,
    ),
    Part("figure5", "Figure 5: the size of the queue", "Both stages have the same queue.", figure=queue_figure),
    Part(
        "table4",
        "Table 4: without queue, with a frozen language model",
        "Measured on the dialogues; the paper takes captions.",
        published=TABLE_4,
    ),
    Part(
        "table6",
        "Table 6: what stage 2 learns from",
        "Questions stand for LLaVA-150k, edits for InstructPix2Pix; as many steps in every row but that of as many dialogues.",
        published=TABLE_6,
    ),
    Part(
        "figure6",
        "Figure 6: how many ChatSearch dialogues stage 2 sees",
        "Beside all questions and edits, in as many steps.",
        figure=scale_figure,
    ),
)


@dataclass(frozen=True)
class Report:
    """What has been found for every part of the page."""

    found: tuple[tuple[Part, RecordedSweep | MissingSweep], ...]

    @classmethod
    def of(cls, config: ReportConfig, runs: Sequence[RecordedRun]) -> Report:
        """Find the sweep of every part.

        Raises:
            MissingInputError: there is none for any part.
        """
        found = tuple((part, find_sweep(runs, getattr(config, part.key))) for part in PARTS)
        missing = [sweep for _, sweep in found if isinstance(sweep, MissingSweep)]
        if len(missing) == len(found):
            told = "; ".join(f"{sweep.name}: {sweep.reason}" for sweep in missing)
            raise MissingInputError(
                f"There is nothing to report. {told}. Run python -m jobs.sweep --recipe {missing[0].name}."
            )
        return cls(found)

    def missing(self) -> list[MissingSweep]:
        """Sweeps without a finished run."""
        return [sweep for _, sweep in self.found if isinstance(sweep, MissingSweep)]

    def figures(self) -> dict[str, bytes]:
        """File name and content of every drawing."""
        drawn = {
            f"{part.key}.svg": part.figure(sweep)
            for part, sweep in self.found
            if part.figure is not None and isinstance(sweep, RecordedSweep)
        }
        return {name: figure.svg() for name, figure in drawn.items() if figure.lines}

    def markdown(self, figures: Sequence[str]) -> str:
        """The page; ``figures`` are the files that lie beside it."""
        return "\n".join([_HEAD, *(_section(part, sweep, figures) for part, sweep in self.found)])

    def as_json(self) -> dict[str, Any]:
        """All numbers of the page at full length."""
        return {
            "schema_version": SCHEMA,
            "report": REPORT,
            "parts": {part.key: _content(sweep) for part, sweep in self.found},
            "chatsearch": __version__,
        }


def check_output(uri: str) -> None:
    """Check that no files of somebody else would be mixed up with the report's.

    Raises:
        ConflictingOutputError: the folder holds something, and no report.
    """
    folder = Folder(uri)
    if not folder.exists():
        return
    try:
        held = json.loads(folder.read_bytes(DATA)) if folder.exists(DATA) else None
    except ValueError:
        held = None
    if not isinstance(held, dict) or held.get("report") != REPORT:
        raise ConflictingOutputError(
            f"{uri} holds something else than a report, so it is left as it is. Choose another output."
        )


def write(report: Report, uri: str) -> list[str]:
    """Write the report into a folder; returns the names of its files.

    Raises:
        ConflictingOutputError: the folder holds something else.
    """
    check_output(uri)
    folder = Folder(uri)
    figures = report.figures()
    folder.write_bytes(
        DATA, (json.dumps(report.as_json(), indent=1) + "\n").encode()
    )  # first: by it the folder is known
    for part in PARTS:
        name = f"{part.key}.svg"
        if name in figures:
            folder.write_bytes(name, figures[name])
        elif folder.exists(name):
            folder.delete(name)  # of an earlier report
    folder.write_bytes(PAGE, report.markdown(list(figures)).encode())
    return [DATA, *figures, PAGE]


def _section(part: Part, sweep: RecordedSweep | MissingSweep, figures: Sequence[str]) -> str:
    if isinstance(sweep, MissingSweep):
        told = f"**Missing**: sweep `{sweep.name}`: {plain_markdown(sweep.reason)}."
        return f"## {part.title}\n\n{told}\n"
    texts = [f"## {part.title}", part.note, _origin(sweep)]
    if f"{part.key}.svg" in figures:
        texts.append(f"![{part.title}]({part.key}.svg)")
    texts.append(rows_table("", sweep.rows()).markdown())
    judged = sweep.judged()
    if judged:
        texts.append(claims_table(judged).markdown())
    if part.published is not None:
        texts += [f"{part.published.title}:", part.published.markdown()]
    return "\n\n".join(texts) + "\n"


def _origin(sweep: RecordedSweep) -> str:
    """Seeds, gallery, date and machine of a sweep, and what it was told beside its recipe."""
    sizes = ", ".join(f"{t}: {n} queries in {sweep.num_gallery[t]:,}" for t, n in sweep.num_queries.items())
    world = ", ".join(f"{name} {text}" for name, text in sorted(sweep.world.items()))
    told = {
        "sweep": f"`{sweep.name}` (run `{sweep.key}`)",
        "finished": f"{sweep.ended:%Y-%m-%d %H:%M} UTC",
        "seeds": ", ".join(map(str, sweep.seeds)),
        "gallery": f"{_GALLERIES.get(sweep.gallery, plain_markdown(sweep.gallery))} ({sizes or f'size {_UNKNOWN}'})",
        "world": world or _UNKNOWN,
        "machine": plain_markdown(sweep.machine) or _UNKNOWN,
    }
    if sweep.settings:
        told["other than the recipe"] = ", ".join(f"`{text}`" for text in sweep.settings)
    return "\n".join(f"- {name}: {text}" for name, text in told.items())


def _content(sweep: RecordedSweep | MissingSweep) -> dict[str, Any]:
    if isinstance(sweep, MissingSweep):
        return {"sweep": sweep.name, "missing": sweep.reason}
    return {
        "sweep": sweep.name,
        "run": sweep.key,
        "finished": sweep.ended.isoformat(timespec="seconds"),
        "seeds": list(sweep.seeds),
        "gallery": sweep.gallery,
        "num_queries": dict(sweep.num_queries),
        "num_gallery": dict(sweep.num_gallery),
        "world": dict(sweep.world),
        "machine": sweep.machine,
        "settings": list(sweep.settings),
        "cells": [asdict(cell) for cell in sweep.cells],
        "claims": sweep.judged(),
    }
