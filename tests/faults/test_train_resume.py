"""SIGKILL of all ranks at a random moment of training: the run that goes on is the calm one, bit for bit (R4)."""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path
from typing import Any

import pytest
from chatsearch.testing.training import tiny_training
from chatsearch.train.config import TrainConfig

from tests.faults.points import run_points
from tests.ranks import start_training

pytestmark = pytest.mark.fault
WORLD_SIZE, STEPS, EVERY = 2, 30, 4
SOURCES = ("platform/chatsearch/train", "platform/chatsearch/model", "platform/chatsearch/data")


def weights(config: TrainConfig) -> str:
    return hashlib.sha256(Path(config.output, "searcher.safetensors").read_bytes()).hexdigest()


@pytest.mark.timeout(3600)
def test_a_run_killed_anywhere_ends_as_the_calm_one(tmp_path: Path) -> None:
    config = tiny_training(tmp_path, steps=STEPS, checkpoint_every=EVERY, log_every=1, output=str(tmp_path / "calm"))
    calm = start_training(config, WORLD_SIZE, tmp_path / "logs")
    calm.wait_until(lambda: bool(calm.losses()))
    begun = time.monotonic()
    calm.finish()
    step_s = (time.monotonic() - begun) / STEPS
    expected, expected_weights = calm.losses(), weights(config)
    assert sorted(expected) == list(range(1, STEPS + 1))

    def kill_and_resume(number: int) -> dict[str, Any]:
        draw = random.Random(f"resume-{number}")
        stop_at = draw.randrange(1, STEPS)
        killed = config.replace(output=str(tmp_path / f"killed-{number}"))
        first = start_training(killed, WORLD_SIZE, tmp_path / "logs")
        try:
            first.wait_until(lambda: stop_at in first.losses())
            time.sleep(draw.uniform(0.0, step_s))
        finally:
            first.kill()
        second = start_training(killed, WORLD_SIZE, tmp_path / "logs")
        second.wait_until(lambda: bool(second.losses()))
        resume_s = time.monotonic() - second.started
        second.finish()
        made, again = first.losses(), second.losses()
        resumed = min(again) - 1
        assert all(expected[step] == loss for losses in (made, again) for step, loss in losses.items())
        assert max(again) == STEPS
        assert resumed >= max(made) - 2 * EVERY, "one checkpoint may be under way, the one before it is whole"
        assert weights(killed) == expected_weights
        return {"killed_after": max(made), "resumed_from": resumed, "resume_s": round(resume_s, 2)}

    run_points("training-resumed", 20, SOURCES, kill_and_resume)
