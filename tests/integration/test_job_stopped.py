"""A job that is told to end by a signal: its exit code, and what MLflow then holds of its run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chatsearch.tracking.config import sqlite_uri
from chatsearch.tracking.run_writer import connect

# Whoever started the tests may ignore Ctrl-C, and what they start would, too.
START = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
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
    command = [
        sys.executable,
        "-c",
        START,
        f"jobs.{job}",
        "--recipe",
        recipe,
        "--set",
        f"output={tmp_path / 'out'}",
        *settings,
    ]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["MLFLOW_TRACKING_URI"] = uri
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        try:
            said = []
            for text in run.stdout:
                said.append(text)
                if text.startswith(line):
                    run.send_signal(number)
                    break
            rest = run.stdout.read()
            assert run.wait(60) == code, "".join(said) + rest
        finally:
            run.kill()
    assert "Run the same command again to continue." in rest
    assert "Traceback" not in rest
    client = connect(uri)
    names = [experiment.experiment_id for experiment in client.search_experiments()]
    assert [found.info.status for found in client.search_runs(names)] == ["KILLED"]
