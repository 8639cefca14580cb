"""``kill -9`` of embedding at any moment: parts that are there are never made again, and the store is byte-identical (E3)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from chatsearch.index.config import EmbedConfig
from chatsearch.index.features import FeatureStore
from chatsearch.types import Kind

from tests.faults.embed_maker import begun, make, notes_of
from tests.faults.points import ROOT, run_points
from tests.integration.embed_samples import config_for, contents, make_model, picture, sample, write_shards

pytestmark = pytest.mark.fault
NUM_PICTURES = 90
PER_PART = 2
NUM_PARTS = NUM_PICTURES // PER_PART
SOURCES = ("platform/chatsearch/index", "platform/chatsearch/data")
NUM_ACTORS = 2


@dataclass(frozen=True)
class Prepared:
    """Shards and a model, and the store that was made of them without a kill."""

    whole: EmbedConfig
    contents: dict[str, bytes]
    fingerprint: str
    seconds: float
    steps: int


def _paths() -> str:
    return os.pathsep.join([str(ROOT / "platform"), str(ROOT), os.environ.get("PYTHONPATH", "")])


def start(config: EmbedConfig, kill_at: int = 0) -> BaseProcess:
    """A process that makes a store, forked from one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = _paths()
    context.set_forkserver_preload(["tests.faults.embed_maker"])
    process = context.Process(target=make, args=(config.model_dump_json(), kill_at, f"{config.output}.steps"))
    process.start()
    return process


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    base = tmp_path_factory.mktemp("prepared")
    model = make_model(base / "model")
    samples = [sample(f"item-{n}", Kind.GALLERY, picture(n)) for n in range(NUM_PICTURES)]
    shards = write_shards(base / "shards", [samples])
    whole = config_for(shards, model, base / "whole", images_per_part=PER_PART, batch_size=2, thumbnail_px=16)
    start(whole).join()  # the first one waits for the server's imports
    shutil.rmtree(whole.output)
    began = time.monotonic()
    process = start(whole)
    process.join()
    assert process.exitcode == 0
    steps = int(Path(f"{whole.output}.steps").read_text())
    store = FeatureStore.open(whole.output, verify=True)
    return Prepared(whole, contents(Path(whole.output)), store.fingerprint, time.monotonic() - began, steps)


def parts_there(output: str) -> dict[str, tuple[int, int]]:
    """Each part that is there, with what changes when it is written again."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (Path(output) / "features").glob("part-*")
    }


def check(prepared: Prepared, output: str, there: dict[str, tuple[int, int]], killed_workers: int) -> dict[str, Any]:
    """Check a finished store against the unbroken one and what was there when it was last killed."""
    assert contents(Path(output)) == prepared.contents
    store = FeatureStore.open(output, verify=True)
    assert store.fingerprint == prepared.fingerprint
    assert len(store) == len(set(store.hashes)) == NUM_PICTURES
    assert {name: now for name, now in parts_there(output).items() if name in there} == there
    redone = len(begun(output)) - NUM_PARTS
    assert redone <= killed_workers, f"{redone} parts were begun again after {killed_workers} workers were killed"
    return {"redone": redone, "killed_workers": killed_workers, "parts_at_last_kill": len(there)}


def kill_one(prepared: Prepared, number: int, scratch: Path) -> dict[str, Any]:
    """One to three kills, then a run to the end. Even numbers kill at a step of the protocol, odd ones at a time."""
    draw = random.Random(f"embed-{number}")
    output = str(scratch / f"point-{number}")
    config = prepared.whole.replace(output=output)
    kills, there = 0, {}
    for _ in range(draw.randint(1, 3)):
        before = len(begun(output))
        process = start(config, draw.randint(1, prepared.steps) if number % 2 == 0 else 0)
        if number % 2:
            process.join(draw.uniform(0.0, prepared.seconds))
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        for line in begun(output)[before : -1 if process.exitcode else None]:
            assert f"part-{line['part']:05d}.parquet" in parts_there(output), "all but the last one begun are there"
        there = parts_there(output)
        kills += process.exitcode != 0
    started = [line["part"] for line in begun(output)]
    process = start(config)
    process.join()
    assert process.exitcode == 0
    again = [line["part"] for line in begun(output)[len(started) :]]
    assert not {f"part-{part:05d}.parquet" for part in again} & there.keys()
    result = check(prepared, output, there, kills)
    shutil.rmtree(output)
    return result


@pytest.mark.timeout(3600)
def test_killed_at_any_moment(prepared: Prepared, tmp_path: Path) -> None:
    assert run_points("embed-killed", 50, SOURCES, lambda number: kill_one(prepared, number, tmp_path)) > 0


def wait_for(what: Callable[[], Any], driver: subprocess.Popen[bytes]) -> Any:
    """What a condition gives once it holds."""
    deadline = time.monotonic() + 120
    while not (found := what()):
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def kill_on_ray(prepared: Prepared, number: int, scratch: Path, address: str) -> dict[str, Any]:
    """Kill one actor's process, then, at two of three points, the driver, with which its actors end."""
    draw = random.Random(f"embed-ray-{number}")
    output = str(scratch / f"ray-{number}")
    config = prepared.whole.replace(output=output, num_actors=NUM_ACTORS, cpus_per_actor=0.5)
    program = [sys.executable, "-m", "tests.faults.embed_maker", address, config.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": _paths()}
    driver = subprocess.Popen(program, cwd=ROOT, env=environment)
    killed, there = 0, {}
    try:
        first = draw.randint(1, NUM_PARTS // 3)
        victim = wait_for(lambda: (begun(output)[first:] or [None])[-1], driver)["process"]
        time.sleep(draw.uniform(0.0, 0.02))
        os.kill(victim, signal.SIGKILL)
        killed, there = 1, parts_there(output)
        if number % 3:
            second = len(begun(output)) + draw.randint(1, NUM_PARTS // 3)
            wait_for(lambda: len(begun(output)) >= min(second, NUM_PARTS - 3), driver)
            driver.kill()
            driver.wait()
            _wait_for_end({line["process"] for line in begun(output)})
            killed, there = killed + NUM_ACTORS, parts_there(output)
            driver = subprocess.Popen(program, cwd=ROOT, env=environment)
        assert driver.wait(180) == 0
    finally:
        driver.kill()
        driver.wait()
    return check(prepared, output, there, killed) | {"driver_killed": bool(number % 3)}


def _wait_for_end(processes: set[int]) -> None:
    """Wait until Ray has ended the actors of a driver that is gone."""
    deadline = time.monotonic() + 60
    for process in processes:
        while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if " Z " in Path(f"/proc/{process}/stat").read_text():
                    break
            time.sleep(0.02)


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_also_through_ray(ray_session, prepared: Prepared, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    run_points("embed-killed-ray", 3, SOURCES, lambda number: kill_on_ray(prepared, number, tmp_path, address))


def test_notes_are_of_one_line_a_part(prepared: Prepared) -> None:
    assert sorted(line["part"] for line in begun(prepared.whole.output)[NUM_PARTS:]) == list(range(NUM_PARTS))
    assert notes_of(prepared.whole.output).exists()
