"""Training with Ray Train that is told to end: the job's exit code, and whatever follows in the same process can be told, too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
from chatsearch.session import ray_session
from chatsearch.testing.training import tiny_training
from chatsearch.tracking.tracker import NullTracker
from chatsearch.train.run import train

from jobs.command import Job, main

class Told(NullTracker):
    def log_metrics(self, metrics, step=None):
        if step is not None:
            print("step", step, flush=True)

def recipe():
    return tiny_training(sys.argv[1], num_workers=2, steps=100_000, log_every=1)

def work(config, tracker):
    with ray_session():
        train(config, Told())

recipes = types.ModuleType("recipes")
recipe.__module__, recipes.recipe = "recipes", recipe
code = main(Job("train", recipes, default="recipe", kind=None, work=work), ["--no-tracking"])
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
sys.exit(code)
"""


@pytest.mark.ray
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_and_leaves_no_handler_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        try:
            said = []
            for line in run.stdout:
                said.append(line)
                if line.startswith("step "):
                    run.send_signal(number)
                    break
            rest = run.stdout.read()
            assert run.wait(120) == code, "".join(said) + rest
        finally:
            run.kill()
    assert "Run the same command again to continue." in rest
