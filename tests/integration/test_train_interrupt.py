"""Ctrl-C in training with Ray Train: it interrupts, and whatever follows in the same process can be interrupted, too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
from chatsearch.session import ray_session
from chatsearch.testing.training import tiny_training
from chatsearch.tracking.tracker import NullTracker
from chatsearch.train.run import train

class Told(NullTracker):
    def log_metrics(self, metrics, step=None):
        if step is not None:
            print("step", step, flush=True)

with ray_session():
    try:
        train(tiny_training(sys.argv[1], num_workers=2, steps=100_000, log_every=1), Told())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


@pytest.mark.ray
def test_ctrl_c_interrupts_and_leaves_no_handler_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        try:
            said = []
            for line in run.stdout:
                said.append(line)
                if line.startswith("step "):
                    run.send_signal(signal.SIGINT)
                    break
            rest = run.stdout.read()
            assert run.wait(120) == 0, "".join(said) + rest
        finally:
            run.kill()
    assert "interrupted\n" in rest
