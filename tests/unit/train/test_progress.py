from __future__ import annotations

import io

from chatsearch.tracking.tracker import NullTracker
from chatsearch.train.progress import Display, StepReport

METRICS = {"loss": 5.5, "word_loss": 3.25, "image_loss": 2.25}


class Recorder(NullTracker):
    def __init__(self) -> None:
        self.steps: list[int | None] = []

    def log_metrics(self, metrics, step=None) -> None:
        self.steps.append(step)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(step: int, *, tracked: bool = True) -> StepReport:
    return StepReport(step, METRICS, tracked)


def test_a_terminal_shows_one_line_that_is_rewritten() -> None:
    terminal = Terminal()
    display = Display("align", 3, NullTracker(), terminal)
    for step in (1, 2, 3):
        display.show(report(step))
    lines = terminal.getvalue().split("\r\x1b[K")
    assert lines[1].startswith("align: step 1/3  loss 5.500 (words 3.250, images 2.250)")
    assert "steps/s  left 0:00:00" in lines[3]
    assert terminal.getvalue().count("\n") == 1


def test_a_log_file_gets_the_first_and_the_last_line_of_a_short_run() -> None:
    log = io.StringIO()
    display = Display("align", 40, NullTracker(), log)
    for step in range(1, 41):
        display.show(report(step))
    assert [line.split("  ")[0] for line in log.getvalue().splitlines()] == ["align: step 1/40", "align: step 40/40"]


def test_steps_repeated_after_a_restart_are_recorded_once() -> None:
    recorder = Recorder()
    display = Display("align", 9, recorder, io.StringIO())
    for step in (2, 4, 6, 4, 6, 8):
        display.show(report(step))
    display.show(report(9, tracked=False))
    assert recorder.steps == [2, 4, 6, 8]


def test_a_log_file_gets_every_validation() -> None:
    log = io.StringIO()
    display = Display("align", 40, NullTracker(), log)
    found = {"val_image_loss": 2.0, "val_R@1": 30.04, "val_R@5": 62.0, "val_R@10": 75.5}
    for step in range(1, 31):
        display.show(StepReport(step, {**METRICS, **(found if step % 10 == 0 else {})}, True))
    lines = log.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"align: step {step}/40" for step in (1, 10, 20, 30)]
    assert lines[2].endswith("validation R@1/5/10 30.0 / 62.0 / 75.5")
