"""The command line that all jobs share, driven with a small real job."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
from chatsearch.config import Config, runtime
from chatsearch.errors import MissingInputError, StorageError
from chatsearch.manifest import begin_output, open_artefact
from chatsearch.tracking.tracker import Tracker
from pydantic import Field

from jobs.command import Job, Made, main


class CopyConfig(Config):
    source: str = runtime("")
    letter: str = "a"
    size: int = Field(3, ge=1)
    fail: str = runtime("")
    output: str = runtime("")
    overwrite: bool = runtime(False)


calls: list[CopyConfig] = []


def work(config: CopyConfig, tracker: Tracker) -> Made:
    calls.append(config)
    if config.fail:
        raise {
            "key": KeyboardInterrupt(),
            "named": StorageError("no space"),
            "input": MissingInputError("no folder"),
        }.get(config.fail, ZeroDivisionError("surprise"))
    inputs = {"source": open_artefact(config.source, "letters").fingerprint} if config.source else {}
    output = begin_output(config.output, "letters", config, inputs, overwrite=config.overwrite)
    output.folder.write_bytes("letters", config.letter.encode() * config.size)
    return Made(output.commit(counts={"letters": config.size}).uri, {"letters": config.size})


def make_job(output: Path) -> Job[CopyConfig]:
    recipes = types.ModuleType("jobs.recipes.copy")

    def short() -> CopyConfig:
        """Three letters."""
        return CopyConfig(output=str(output))

    def long() -> CopyConfig:
        """Thirty letters."""
        return CopyConfig(output=str(output), size=30)

    for recipe in (short, long):
        recipe.__module__ = recipes.__name__
        setattr(recipes, recipe.__name__, recipe)
    recipes.helper = len  # type: ignore[attr-defined]  # imported names are no recipes
    return Job("copy", recipes, default="short", kind="letters", work=work)


@pytest.fixture
def job(tmp_path: Path) -> Job[CopyConfig]:
    calls.clear()
    return make_job(tmp_path / "out")


def run(job: Job[CopyConfig], *arguments: str) -> int:
    return main(job, ["--no-tracking", *arguments])


def test_plan_comes_first_and_uri_last(
    job: Job[CopyConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(job, "--recipe", "long", "--set", "letter=b") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "plan   copy --recipe long"
    assert any(line.split() == ["letter", "b"] for line in lines)
    assert lines[-2:] == [f"made   {tmp_path / 'out'}", "run    not recorded (tracking.enabled=false)"]
    assert (tmp_path / "out" / "letters").read_bytes() == b"b" * 30


def test_dry_run_touches_nothing(job: Job[CopyConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(job, "--dry-run") == 0
    assert "(new)" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert calls == []


def test_finished_output_is_left_alone(job: Job[CopyConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(job) == 0
    assert run(job) == 0
    assert len(calls) == 1
    assert "finished" in capsys.readouterr().out
    assert run(job, "--set", "overwrite=true") == 0
    assert len(calls) == 2


def test_changed_configuration_is_not_taken_for_finished(
    job: Job[CopyConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(job) == 0
    assert run(job, "--set", "size=4") == 1
    assert "already holds" in capsys.readouterr().err


def test_changed_input_is_not_taken_for_finished(job: Job[CopyConfig], tmp_path: Path) -> None:
    source = tmp_path / "source"
    assert run(make_job(source)) == 0
    settings = ["--set", f"source={source}"]
    assert run(job, *settings) == 0
    calls.clear()
    assert run(job, *settings) == 0
    assert calls == []
    assert run(make_job(source), "--set", "letter=z", "--set", "overwrite=true") == 0
    assert run(job, *settings) == 1


def test_damaged_output_is_named(job: Job[CopyConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(job) == 0
    (tmp_path / "out" / "letters").write_bytes(b"a")
    assert run(job) == 1
    assert "manifest says 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--recipe", "shorts"], 2, "Did you mean 'short'"),
        (["--set", "leter=b"], 2, "Did you mean 'letter'"),
        (["--set", "size=0"], 2, "greater than or equal to 1"),
        (["--set", "size"], 2, "key.path=value"),
        (["--set", "fail=input"], 2, "no folder"),
        (["--set", "fail=named"], 1, "no space"),
        (["--set", "fail=key"], 130, "Run the same command again"),
    ],
)
def test_mistakes_end_in_one_message(
    job: Job[CopyConfig], capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run(job, *arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_surprise_shows_its_traceback_and_a_hint(job: Job[CopyConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(job, "--set", "fail=other") == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: jobs.copy stopped")


def test_help_lists_recipes_and_keys(job: Job[CopyConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(job, "--help") == 0
    out = capsys.readouterr().out
    assert " * short  Three letters." in out
    assert "   long   Thirty letters." in out
    assert "   overwrite" in out
    assert "helper" not in out
