"""kill -9 of a training worker in mid-run: the job finishes by itself, and its model is the calm run's, bit for bit."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from chatsearch.storage import Folder
from chatsearch.testing.training import tiny_training
from chatsearch.train.run import train

pytestmark = [pytest.mark.ray, pytest.mark.fault]


def training_workers() -> list[psutil.Process]:
    """The worker processes of this session."""
    return [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]


def kill_after_checkpoint(root: Path, step: int, killed: list[int]) -> None:
    """Wait for a checkpoint of ``step`` updates, then kill one worker."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if list(root.glob(f"*/step-{step:08d}-*/manifest.json")):
            victim = training_workers()[-1]
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.pid)
            return
        time.sleep(0.02)


def test_the_final_loss_is_the_calm_runs(ray_session, tmp_path: Path) -> None:
    config = tiny_training(tmp_path).replace(num_workers=2, steps=30, checkpoint_every=6, keep_checkpoints=9)
    calm = train(config.replace(output=str(tmp_path / "calm")))

    root = tmp_path / "killed" / "checkpoints"
    killed: list[int] = []
    thread = threading.Thread(target=kill_after_checkpoint, args=(root, 12, killed))
    thread.start()
    survived = train(config.replace(output=str(tmp_path / "killed")))
    thread.join()

    assert len(killed) == 1
    names = [name.split("/")[1] for name in Folder(str(root)).list() if name.endswith("/manifest.json")]
    made = sorted((int(step), attempt) for _, step, attempt in (name.split("-") for name in names))
    assert [step for step, _ in made] == [6, 12, 18, 24, 30], "no step was made twice: a restart would make 6 again"
    assert made[1][1] == made[0][1] != made[-1][1] == made[-2][1], "the second half was made by other processes"
    assert survived.manifest.facts["last_step"] == calm.manifest.facts["last_step"]
    assert survived.manifest.files == calm.manifest.files
