"""SIGKILL of a process in the middle of an epoch: the one that reads on sees what the unbroken one would have seen (D4)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chatsearch.corpora.config import ScenesCounts
from chatsearch.data.steps import StepBuilder
from chatsearch.data.tokenizer import train_byte_bpe
from chatsearch.storage import Folder
from chatsearch.testing.training import write_tiny_shards

from tests.faults.points import ROOT, run_points
from tests.faults.stream_reader import seen, step_builder

pytestmark = pytest.mark.fault
STOP = 60
SOURCES = ("platform/chatsearch/data",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    write_tiny_shards(str(folder / "shards"), ScenesCounts(caption=97, edit=31))
    train_byte_bpe(["a large red circle above a small blue square"], 300).save(Folder(str(folder / "tokenizer")))
    return folder


@pytest.fixture(scope="module")
def builder(folder: Path) -> StepBuilder:
    return step_builder(str(folder / "shards"), str(folder / "tokenizer"))


def start(folder: Path, **told: Any) -> subprocess.Popen[str]:
    settings = {"shards": str(folder / "shards"), "tokenizer": str(folder / "tokenizer"), "stop": STOP, **told}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.stream_reader", json.dumps(settings)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
    )


def lines_of(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What it still says until it ends; a line that the kill has cut short is left out."""
    assert process.stdout
    return [json.loads(line) for line in process.stdout if line.endswith("\n") and line.startswith("{")]


def first_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout
    for line in process.stdout:
        if line.startswith("{"):
            return dict(json.loads(line))
    raise AssertionError(f"it ended with {process.wait()} and said nothing")


def kill_and_resume(folder: Path, builder: StepBuilder, number: int, ray: str | None) -> dict[str, Any]:
    """Kill a reader at a random step and moment, have another one read on, and compare both with the unbroken run."""
    draw = random.Random(f"stream-{number}")
    world_size = draw.choice([1, 2, 4])
    rank = draw.randrange(world_size)
    stop_at = draw.randrange(1, STOP - 1)
    noted = folder / f"noted-{number}-{'ray' if ray else 'bare'}"
    told: dict[str, Any] = {"noted": str(noted), "rank": rank, "world_size": world_size, "ray": ray}
    first = start(folder, **told)
    try:
        made = [first_line(first) for _ in range(stop_at)]
        time.sleep(draw.uniform(0.0, 0.01))  # anywhere between this step and the next ones
    finally:
        first.kill()
    made += lines_of(first)
    first.wait()
    behind = int(noted.read_text()) if noted.exists() else 0
    assert behind in (len(made), len(made) - 1), "a step is noted after it was told"

    begun = time.monotonic()
    second = start(folder, **told)
    again = [first_line(second)]
    resume_s = time.monotonic() - begun
    again += lines_of(second)
    assert second.wait() == 0
    expected = [seen(builder, step, rank, world_size, builder.build(step, rank, world_size)) for step in range(STOP)]
    assert made == expected[: len(made)]
    assert again == expected[behind:]
    return {"killed_after": len(made), "resumed_from": behind, "world_size": world_size, "resume_s": round(resume_s, 2)}


@pytest.mark.timeout(1800)
def test_who_reads_on_sees_the_samples_of_the_unbroken_run(folder: Path, builder: StepBuilder) -> None:
    run_points("stream-killed", 50, SOURCES, lambda number: kill_and_resume(folder, builder, number, None))


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_also_through_ray(ray_session, folder: Path, builder: StepBuilder) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    run_points("stream-killed-ray", 3, SOURCES, lambda number: kill_and_resume(folder, builder, number, address))
