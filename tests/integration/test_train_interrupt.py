"""Training with Ray Train that is told to end: the job's exit code, and whatever follows in the same process can be told, too."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.signalled import end_by

SCRIPT = """
import sys, types
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
    ended, said = end_by(number, "step ", SCRIPT, [str(tmp_path)])
    assert ended == code, said
    assert "Run the same command again to continue." in said
