"""A job that is told to end by a signal: its exit code, and what MLflow then holds of its run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from chatsearch.tracking.config import sqlite_uri
from chatsearch.tracking.run_writer import connect

from tests.signalled import end_by

START = """
import runpy, sys
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("job", "line", "number", "code"),
    [
        ("weights", "vision epoch 1", signal.SIGTERM, 143),
        pytest.param("prepare", "prepare: ", signal.SIGTERM, 143, marks=pytest.mark.ray),
        pytest.param("prepare", "prepare: ", signal.SIGINT, 130, marks=pytest.mark.ray),
    ],
)
def test_a_signal_ends_a_job_and_its_run(
    tmp_path: Path, job: str, line: str, number: signal.Signals, code: int
) -> None:
    uri = sqlite_uri(tmp_path / "mlflow.db")
    recipe = {"weights": "tiny", "prepare": "tiny_instruct"}[job]
    # Far more than is made before the first line.
    settings = {"weights": [], "prepare": ["--set", "corpus.kinds.edit=200000"]}[job]
    arguments = [f"jobs.{job}", "--recipe", recipe, "--set", f"output={tmp_path / 'out'}", *settings]
    ended, said = end_by(number, line, START, arguments, {"MLFLOW_TRACKING_URI": uri})
    assert ended == code, said
    assert "Run the same command again to continue." in said
    assert "Traceback" not in said
    client = connect(uri)
    names = [experiment.experiment_id for experiment in client.search_experiments()]
    assert [found.info.status for found in client.search_runs(names)] == ["KILLED"]
