"""The command line that all jobs share, driven with a small real job."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
import types
from pathlib import Path

import pytest
from chatsearch.config import Config, runtime
from chatsearch.corpora.config import CaptionedFolderConfig, Mmc4Config
from chatsearch.corpora.open import open_corpus
from chatsearch.data.config import PrepareConfig, StreamConfig
from chatsearch.errors import MissingInputError, StorageError
from chatsearch.manifest import begin_output, open_artefact
from chatsearch.tracking.config import TrackingConfig
from chatsearch.tracking.tracker import NullTracker, Tracker
from pydantic import Field

from jobs import command
from jobs.command import Job, Made, Plan, main
from jobs.finished import find_inputs, finished_artefact


class CopyConfig(Config):
    source: str = runtime("")
    letter: str = "a"
    """What is written, as ``size`` copies. It may be any letter."""
    size: int = Field(3, ge=1)
    fail: str = runtime("")
    output: str = runtime("")
    overwrite: bool = runtime(False)


calls: list[CopyConfig] = []


def work(config: CopyConfig, tracker: Tracker) -> Made:
    calls.append(config)
    if config.fail == "term":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
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


def test_a_python_without_the_project_is_named(
    job: Job[CopyConfig], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    def work(config: CopyConfig, tracker: Tracker) -> Made:
        import pyarrow.parquet  # noqa: F401

        raise AssertionError("unreachable")

    assert run(dataclasses.replace(job, work=work)) == 1
    said = capsys.readouterr().err
    assert f"{sys.executable} has no module 'pyarrow.parquet'" in said
    assert "Traceback" not in said


def test_a_missing_module_of_our_own_keeps_its_traceback(
    job: Job[CopyConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    def work(config: CopyConfig, tracker: Tracker) -> Made:
        raise ModuleNotFoundError("No module named 'jobs.gone'", name="jobs.gone")

    assert run(dataclasses.replace(job, work=work)) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "nobody foresaw" in said


def test_dry_run_touches_nothing(job: Job[CopyConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(job, "--dry-run") == 0
    assert "(new)" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert calls == []


def test_a_job_that_can_tell_what_it_will_take_does_so_in_a_dry_run(
    job: Job[CopyConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    job = dataclasses.replace(job, forecast=lambda config: f"size   {config.size} letters")
    assert run(job, "--dry-run", "--set", "size=7") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "size   7 letters"
    assert calls == []
    assert run(job) == 0
    assert "size   3 letters" not in capsys.readouterr().out


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
    assert run(job, "--set", "size=4") == 2
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
    assert run(job, *settings) == 2


def test_damaged_output_is_named(job: Job[CopyConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(job) == 0
    (tmp_path / "out" / "letters").write_bytes(b"a")
    assert run(job) == 2
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
        (["--set", "fail=term"], 143, "Run the same command again"),
    ],
)
def test_mistakes_end_in_one_message(
    job: Job[CopyConfig], capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert run(job, *arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_job_leaves_the_handler_of_sigterm_as_it_was(job: Job[CopyConfig]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run(job) == 0
    assert run(job, "--set", "size=4", "--set", "overwrite=true", "--set", "fail=term") == 143
    assert signal.getsignal(signal.SIGTERM) is before


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
    assert "   letter     What is written, as size copies\n" in out
    assert "helper" not in out
    assert "Keys of short (" in out


def test_help_shows_the_keys_of_the_named_recipe(job: Job[CopyConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(job, "--recipe", "long", "--help") == 0
    assert "Keys of long (" in capsys.readouterr().out
    assert run(job, "--recipe", "nope", "--help") == 2
    assert "Known: long, short" in capsys.readouterr().err


def test_files_of_somebody_else_are_neither_begun_nor_replaced(
    job: Job[CopyConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photograph.jpg").write_bytes(b"precious")
    assert run(job, "--set", "overwrite=true") == 2
    captured = capsys.readouterr()
    assert "(holds files that no job has made)" in captured.out
    assert "left as it is" in captured.err
    assert (tmp_path / "out" / "photograph.jpg").read_bytes() == b"precious"


def test_the_plan_says_what_becomes_of_the_output(
    job: Job[CopyConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_output(str(tmp_path / "out"), "letters", CopyConfig(), {})
    assert run(job, "--dry-run") == 0
    assert "(begun: will be continued)" in capsys.readouterr().out
    assert run(job) == 0
    assert run(job, "--set", "letter=b", "--set", "overwrite=true") == 0
    assert "(holds another artefact: will be replaced)" in capsys.readouterr().out


class Recorder(NullTracker):
    """Keeps what enters and leaves a run."""

    def __init__(self) -> None:
        self.inputs: dict[str, tuple[str, str]] = {}
        self.outputs: dict[str, tuple[str, str]] = {}

    def log_input(self, name: str, uri: str, fingerprint: str) -> None:
        self.inputs[name] = (uri, fingerprint)

    def log_output(self, name: str, uri: str, fingerprint: str) -> None:
        self.outputs[name] = (uri, fingerprint)


def test_corpora_and_outputs_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(command, "open_tracker", lambda *_: recorder)
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "captions.jsonl").write_text("")
    corpus = CaptionedFolderConfig(path=str(folder))

    class ReadConfig(CopyConfig):
        corpus: CaptionedFolderConfig

    def read(config: ReadConfig, tracker: Tracker) -> Made:
        inputs = {"corpus": open_corpus(config.corpus).fingerprint()}
        output = begin_output(config.output, "letters", config, inputs)
        return Made(output.commit(counts={}).uri, {})

    job = dataclasses.replace(make_job(tmp_path / "out"), work=read)
    config = ReadConfig(corpus=corpus, output=str(tmp_path / "out"))
    made = command.execute(job, Plan.of(job, "short", config), TrackingConfig())
    assert recorder.inputs == {"corpus": (str(folder), open_corpus(corpus).fingerprint())}
    assert recorder.outputs == {"letters": (made.uri, made.fingerprint)}
    assert open_artefact(made.uri, "letters").fingerprint == made.fingerprint
    assert Plan.of(job, "short", config).finished is not None
    (folder / "captions.jsonl").write_text("{}\n")
    assert Plan.of(job, "short", config).finished is None


def test_a_corpus_with_pictures_elsewhere_is_one_input(tmp_path: Path) -> None:
    (tmp_path / "docs_no_face_shard_0_v3.jsonl").touch()
    pictures = tmp_path / "pictures"
    corpus = Mmc4Config(path=str(tmp_path), images=str(pictures))
    config = PrepareConfig(corpus=corpus, output=str(tmp_path / "out"))
    assert [(i.key, i.kind, i.fingerprint) for i in find_inputs(config)] == [("corpus", "", "")]
    pictures.mkdir()
    (pictures / "a.jpg").touch()
    assert [(i.key, i.kind, i.fingerprint) for i in find_inputs(config)] == [
        ("corpus", "mmc4", open_corpus(corpus).fingerprint())
    ]


class StreamsConfig(Config):
    streams: tuple[StreamConfig, ...]
    output: str = runtime("")


def test_streams_in_another_order_are_not_taken_for_finished(tmp_path: Path) -> None:
    uris = [str(tmp_path / name) for name in "ab"]
    prints = [begin_output(uri, "x", CopyConfig(letter=uri[-1]), {}).commit(counts={}).fingerprint for uri in uris]
    config = StreamsConfig(streams=tuple(StreamConfig(shards=uri) for uri in uris), output=str(tmp_path / "out"))
    begin_output(config.output, "y", config, {f"stream-{n}": p for n, p in enumerate(prints)}).commit(counts={})
    swapped = config.replace(streams=config.streams[::-1])
    assert finished_artefact("y", config, find_inputs(config)) is not None
    assert finished_artefact("y", swapped, find_inputs(swapped)) is None
