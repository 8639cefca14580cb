"""Progress lines in a log and the bar on a terminal."""

from __future__ import annotations

import re
import sys

import pytest
from chatsearch import progress as module
from chatsearch.progress import progress


def test_a_log_gets_lines_with_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 20.0, 40.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("embed", 5000, "pictures", done=1000) as advance:
        advance(100)  # after one second: too soon to say something
        advance(900)
        advance(3000)
    assert capsys.readouterr().err.splitlines() == [
        "embed: 2,000/5,000 pictures, 50.0/s, 0:20 elapsed, 1:00 left",
        "embed: 5,000/5,000 pictures, 100.0/s, 0:40 elapsed, 0:00 left",
    ]


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress("embed", 10, "pictures") as advance:
        advance(10)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "embed" in shown
    assert "10/10" in shown
    assert "pictures" in shown


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert module._clock(seconds) == text
