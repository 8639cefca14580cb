"""``kill -9`` of an embed job, its driver or its workers, at any time (goal E3): a kill costs one part at most, none is made again
that was there, and the store is the calm run's, byte for byte.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from chatsearch.index.config import EmbedConfig
from chatsearch.index.embed import embed
from chatsearch.index.features import FeatureStore
from chatsearch.types import Kind

from tests.faults.embedding import embed_here
from tests.faults.points import ROOT, run_points
from tests.integration.embed_samples import config_for, contents, make_model, picture, sample, write_shards

pytestmark = pytest.mark.fault
NUM_PICTURES = 60
PER_PART = 4
MOST_STEPS = 150
"""Steps at the file system between the first part and the end of the job, and some more."""
SOURCES = ("platform/chatsearch/index",)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbedConfig, dict[str, bytes]]:
    """A job, and what it makes undisturbed."""
    base = tmp_path_factory.mktemp("embed")
    pictures = [sample(f"item-{n}", Kind.GALLERY, picture(n)) for n in range(NUM_PICTURES)]
    shards, model = write_shards(base / "shards", [pictures]), make_model(base / "model")
    config = config_for(shards, model, base / "calm", images_per_part=PER_PART)
    embed_here(config)
    return config, contents(base / "calm")


def times(output: Path) -> dict[str, int]:
    """When each part that is there was written."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "features").glob("part-*")}


def run_until_killed(config: EmbedConfig, notes: Path, kill_at: int) -> bool:
    """Whether it was killed; else it came to its end before."""
    program = [sys.executable, "-m", "tests.faults.embedding", config.model_dump_json(), str(notes), str(kill_at)]
    environment = {**os.environ, "PYTHONPATH": "platform", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
    return done.returncode != 0


def kill_and_go_on(number: int, calm: tuple[EmbedConfig, dict[str, bytes]], scratch: Path) -> dict[str, Any]:
    """One point: one kill or two, each at a random step, and a last run that is not disturbed."""
    config, wanted = calm
    output, rng = scratch / f"point-{number}", random.Random(number)
    config = config.replace(output=str(output))
    steps, num_lost = [], 0
    for attempt in range(1 + number % 2):
        before, notes = times(output), scratch / f"begun-{number}-{attempt}"
        steps.append(rng.randint(1, MOST_STEPS))
        run_until_killed(config, notes, steps[-1])
        after = times(output)
        begun = len(notes.read_text().split()) if notes.exists() else 0
        assert {name: after.get(name) for name in before} == before, "a part was made again"
        assert begun - (len(after) - len(before)) <= 1, "a kill may cost the part that was being made"
        num_lost += begun - (len(after) - len(before))
    before = times(output)
    embed_here(config)
    after = times(output)
    assert {name: after[name] for name in before} == before, "a part was made again"
    assert contents(output) == wanted
    shutil.rmtree(output)
    return {"kill_at_steps": steps, "parts_lost": num_lost, "parts_left": len(before)}


@pytest.mark.timeout(3600)
def test_killed_anywhere_it_loses_one_part_at_most(calm: tuple[EmbedConfig, dict[str, bytes]], tmp_path: Path) -> None:
    assert run_points("embed-killed", 50, SOURCES, lambda number: kill_and_go_on(number, calm, tmp_path)) > 0


def encoders() -> list[psutil.Process]:
    """The actors of this session that encode."""
    return [p for p in psutil.Process().children(recursive=True) if "PartEncoder" in " ".join(p.cmdline())]


def kill_an_encoder(output: Path, rng: random.Random, done: dict[str, Any]) -> None:
    """Once a few parts are there, kill one of the actors, and note which parts were there."""
    deadline, wanted = time.monotonic() + 120, rng.randint(1, 6)
    while time.monotonic() < deadline and not (output / "manifest.json").exists():
        found = times(output)
        running = encoders() if len(found) >= wanted else []
        if running:
            done["parts"] = times(output)
            os.kill(rng.choice(running).pid, signal.SIGKILL)
            done["killed"] = True
            return
        time.sleep(0.005)


def kill_a_worker(number: int, calm: tuple[EmbedConfig, dict[str, bytes]], scratch: Path) -> dict[str, Any]:
    """One point through Ray: two actors, one of them killed; the job itself goes on."""
    config, wanted = calm
    output = scratch / f"ray-{number}"
    done: dict[str, Any] = {}
    thread = threading.Thread(target=kill_an_encoder, args=(output, random.Random(number), done))
    thread.start()
    store = FeatureStore(embed(config.replace(output=str(output), num_actors=2)))
    thread.join()
    assert done.get("killed"), "the job was over before an actor was killed"
    after = times(output)
    again = [name for name, when in done["parts"].items() if after[name] != when]
    assert len(again) <= 1, "more than the part of the killed actor was made again"
    assert contents(output) == wanted
    assert len(store.hashes) == len(set(store.hashes)) == NUM_PICTURES
    shutil.rmtree(output)
    return {"parts_then": len(done["parts"]), "made_again": len(again)}


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_killed_actor_costs_one_part_at_most(
    ray_session, calm: tuple[EmbedConfig, dict[str, bytes]], tmp_path: Path
) -> None:
    assert run_points("embed-actor-killed", 3, SOURCES, lambda number: kill_a_worker(number, calm, tmp_path)) == 3


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_killed_driver_is_continued(calm: tuple[EmbedConfig, dict[str, bytes]], tmp_path: Path) -> None:
    import ray

    config, wanted = calm
    output = tmp_path / "cut"
    cut = config.replace(output=str(output))
    program = (
        "import sys, ray\n"
        "from chatsearch.index.config import EmbedConfig\n"
        "from chatsearch.index.embed import embed\n"
        "ray.init(address=sys.argv[1], log_to_driver=False)\n"
        "embed(EmbedConfig.model_validate_json(sys.argv[2]))\n"
    )
    address = ray.get_runtime_context().gcs_address
    job = subprocess.Popen([sys.executable, "-c", program, address, cut.model_dump_json()])
    try:
        deadline = time.monotonic() + 120
        while len(times(output)) < 2:
            assert job.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline, "the job made no part"
            time.sleep(0.002)
    finally:
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    assert not (output / "manifest.json").exists()
    time.sleep(1.0)  # its actors end with it; a part they were writing appears whole or not at all
    done = times(output)
    embed(cut)
    after = times(output)
    assert {name: after[name] for name in done} == done
    assert contents(output) == wanted
