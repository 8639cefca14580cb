"""What a figure draws: read back from the SVG."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

from chatsearch.evaluate.report.figures import FRACTIONS, QUEUE_SIZE, queue_figure, scale_figure
from chatsearch.evaluate.report.sweep import Cell, RecordedSweep

ENDED = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


def sweep(*cells: Cell) -> RecordedSweep:
    return RecordedSweep("a", "sweep-a", "all", (0, 1), (), cells, (), {}, {}, {}, "", ENDED)


def cell(name: str, seed: int, score: float | None, **settings: Any) -> Cell:
    scores = dict.fromkeys(("average", *"tim"), score)
    return Cell(name, seed, settings, {name: scores, "FROMAGe": dict.fromkeys(scores, 99.0)})


def texts(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [
        text for node in root.iter("{http://www.w3.org/2000/svg}text") if (text := "".join(node.itertext()).strip())
    ]


def test_queue_sizes_are_in_order_and_every_seed_is_a_point_of_the_models_own_row() -> None:
    cells = [cell(f"queue {n}", seed, n / 100 + seed, **{QUEUE_SIZE: n}) for n in (0, 1000, 100) for seed in (0, 1)]
    figure = queue_figure(sweep(*cells, cell("no size", 0, 5.0), cell("nothing", 0, None, **{QUEUE_SIZE: 7})))
    assert figure.lines == {"mean recall": {0.0: [0.0, 1.0], 1000.0: [10.0, 11.0], 100.0: [1.0, 2.0]}}
    shown = texts(figure.svg())
    assert [text for text in shown if text in ("0", "100", "1000")][:3] == ["0", "100", "1000"]
    assert figure.across in shown


def test_shares_are_those_that_stage_2_was_told_and_all_where_it_was_told_nothing() -> None:
    half = {FRACTIONS: dict.fromkeys("tim", 0.5)}
    figure = scale_figure(sweep(cell("x 1", 0, 3.0), cell("x 0.5", 0, 2.0, **half), cell("x 0.5", 1, 4.0, **half)))
    assert figure.lines == {f"sub-task {task}": {1.0: [3.0], 0.5: [2.0, 4.0]} for task in "tim"}
    assert {"sub-task t", "sub-task i", "sub-task m"} <= set(texts(figure.svg()))


def test_a_sweep_without_scores_has_nothing_to_draw() -> None:
    assert not queue_figure(sweep()).lines
    assert not scale_figure(sweep(cell("x 1", 0, None))).lines


def test_the_same_numbers_are_the_same_bytes_in_another_process() -> None:
    figure = queue_figure(sweep(cell("queue 5", 0, 5.0, **{QUEUE_SIZE: 5}), cell("queue 9", 0, 6.0, **{QUEUE_SIZE: 9})))
    told = json.dumps({name: list(points.items()) for name, points in figure.lines.items()})
    code = (
        "import json, sys; from chatsearch.evaluate.report.figures import Figure;"
        f"lines = {{name: {{x: y for x, y in points}} for name, points in json.loads('''{told}''').items()}};"
        f"sys.stdout.buffer.write(Figure({figure.across!r}, {figure.up!r}, lines, even=True).svg());"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == figure.svg()
    assert b"<dc:date>" not in done.stdout
