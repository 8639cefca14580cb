"""The quickstart around its steps: what is checked first, what is made again, what is recorded."""

from __future__ import annotations

import contextlib
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from chatsearch.tracking.config import TrackingConfig

from jobs import quickstart, step
from jobs.command import main
from jobs.step import Step
from tests.unit.jobs.test_command import CopyConfig, calls, make_job


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own, and steps that need no Ray."""
    calls.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(step, "ray_session", contextlib.nullcontext)
    return tmp_path


def path(root: Path, letter: str = "a") -> list[Step]:
    """Two steps; the second copies what the first has made."""
    first, second = root / "first", root / "second"
    return [
        Step("first", make_job(first), "short", CopyConfig(output=str(first), letter=letter)),
        Step("second", make_job(second), "short", CopyConfig(output=str(second), source=str(first))),
    ]


def run(steps: list[Step], *, overwrite: bool = False) -> list[str]:
    """Titles of the steps that had something to do."""
    with ExitStack() as stack:
        done = step.run_steps(steps, TrackingConfig(enabled=False), stack, overwrite=overwrite)
    return [one.title for one, made in done if not made.reused]


def test_its_recipes_are_the_sizes() -> None:
    assert quickstart.JOB.recipe_names() == ["tiny", "small"]


def test_overwrite_makes_again_what_no_longer_fits_and_nothing_else(here: Path) -> None:
    assert run(path(here), overwrite=True) == ["first", "second"]
    assert run(path(here), overwrite=True) == []
    assert run(path(here, letter="b"), overwrite=True) == ["first", "second"]
    assert (here / "first" / "letters").read_bytes() == b"bbb"
    assert run(path(here, letter="b")) == []


def test_without_tracking_no_step_is_recorded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "steps", lambda config: path(here))
    assert main(quickstart.JOB, ["--no-tracking", "--set", "serve=false", "--set", f"output={here}"]) == 0
    assert len(calls) == 2
    assert sorted(p.name for p in here.iterdir()) == ["first", "second"]


def test_a_dry_run_lists_the_steps_and_what_lies_there(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quickstart, "steps", lambda config: path(here))
    run(path(here)[:1])
    assert main(quickstart.JOB, ["--dry-run"]) == 0
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith(f"   1. first: jobs.copy --recipe short -> {here / 'first'} (finished (")
    assert second == f"   2. second: jobs.copy --recipe short -> {here / 'second'} (new)"
    assert len(calls) == 1


def test_a_taken_port_is_found_before_the_first_step(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(quickstart.JOB, ["--no-tracking", "--set", f"port={port}"]) == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(("data", "message"), [("photos", "is missing or empty"), (".", "holds no captions.jsonl")])
def test_what_is_no_captioned_folder_is_found_before_the_first_step(
    here: Path, capsys: pytest.CaptureFixture[str], data: str, message: str
) -> None:
    (here / "a.jpg").write_bytes(b"")
    # Recorded as it would be, it would fail the run of another quickstart over the same output.
    assert main(quickstart.JOB, ["--recipe", "small", "--set", f"data={data}"]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in here.iterdir()] == ["a.jpg"]
