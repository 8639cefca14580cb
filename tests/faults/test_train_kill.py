"""kill -9 of a training worker while it saves, three times: the job finishes by itself, and its model is the calm run's, bit for bit."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from chatsearch.storage import Folder
from chatsearch.testing.training import tiny_training
from chatsearch.train.run import train

from tests.training_workers import training_workers

pytestmark = [pytest.mark.ray, pytest.mark.fault]
KILLED_AT = (12, 18, 24)


def kill_in_saves(root: Path, killed: list[int]) -> None:
    """Each time the folder of a checkpoint appears, which is long before its manifest does, kill one worker."""
    deadline = time.monotonic() + 400
    for step in KILLED_AT:
        while not list(root.glob(f"*/step-{step:08d}-*")):
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)
        victim = training_workers()[len(killed) % 2]
        os.kill(victim.pid, signal.SIGKILL)
        killed.append(victim.pid)


@pytest.mark.timeout(900)
def test_the_final_loss_is_the_calm_runs(ray_session, tmp_path: Path) -> None:
    config = tiny_training(tmp_path).replace(num_workers=2, steps=30, checkpoint_every=6, keep_checkpoints=9)
    calm = train(config.replace(output=str(tmp_path / "calm")))

    root = tmp_path / "killed" / "checkpoints"
    killed: list[int] = []
    thread = threading.Thread(target=kill_in_saves, args=(root, killed))
    thread.start()
    survived = train(config.replace(output=str(tmp_path / "killed")))
    thread.join()

    assert len(killed) == len(KILLED_AT)
    names = [name.split("/")[1] for name in Folder(str(root)).list() if name.endswith("/manifest.json")]
    made = sorted((int(step), attempt) for _, step, attempt in (name.split("-") for name in names))
    assert [step for step, _ in made] == [6, 12, 18, 24, 30], "no step was made twice: a restart would make 6 again"
    assert len({attempt for _, attempt in made}) > 2, "each restart went on from what the one before had saved"
    assert survived.manifest.facts["last_step"] == calm.manifest.facts["last_step"]
    assert survived.manifest.files == calm.manifest.files
