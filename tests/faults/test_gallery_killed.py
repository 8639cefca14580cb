"""``kill -9`` at any point of a gallery's life: no acknowledged change is lost, nothing deleted is found, and it goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chatsearch.index.live.compact import live_catalogue
from chatsearch.index.live.log import Log
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.storage import Folder

from tests.faults.gallery_changes import change_until_killed
from tests.faults.points import ROOT, run_points
from tests.unit.index.live.galleries import expected, features, gallery_over_index, item
from tests.unit.index.synthetic import RETRIEVAL_DIM, picture_hash

pytestmark = pytest.mark.fault
NUM_POINTS = 500
MOST_STEPS = 700
"""Files that a process opens, links, renames or removes before it is killed at the latest: some forty changes."""
SOURCES = ("platform/chatsearch/index/live",)


@dataclass
class Held:
    """What a gallery must hold: picture number by item id, now and in each snapshot."""

    live: dict[str, int]
    snapshots: dict[str, dict[str, int]] = field(default_factory=dict)

    def after(self, change: dict[str, Any]) -> Held:
        """What it must hold after a change."""
        held = deepcopy(self)
        match change["kind"]:
            case "upsert":
                held.live |= change["items"]
            case "delete":
                held.live = {i: n for i, n in held.live.items() if i not in change["ids"]}
            case "snapshot":
                held.snapshots[change["name"]] = dict(held.live)
            case "drop":
                del held.snapshots[change["name"]]
            case "rollback":
                held.live = dict(held.snapshots[change["name"]])
            case "forget" if any(change["what"] in (i, picture_hash(n)) for i, n in held.live.items()):
                held.live = _without(held.live, change["what"])
                held.snapshots = {name: _without(held, change["what"]) for name, held in held.snapshots.items()}
        return held

    def during(self, change: dict[str, Any]) -> Iterator[Held]:
        """What it may hold when the change was under way: before, after, and in between where it takes two commits."""
        yield self
        yield self.after(change)
        if change["kind"] == "forget":
            yield Held(self.after(change).live, self.snapshots)


def _without(held: dict[str, int], what: str) -> dict[str, int]:
    return {i: n for i, n in held.items() if what not in (i, picture_hash(n))}


def read_notes(notes: Path, start: dict[str, int]) -> tuple[Held, dict[str, Any] | None, int]:
    """What was acknowledged, the change that was under way, and how many were acknowledged."""
    held, under_way, num_done = Held(dict(start)), None, 0
    lines = notes.read_bytes().split(b"\n")[:-1] if notes.exists() else []
    for line in map(json.loads, lines):
        if "acknowledged" in line:
            assert under_way is not None
            held, under_way, num_done = held.after(under_way), None, num_done + 1
        elif "ready" not in line:
            under_way = line
    return held, under_way, num_done


def what_is_there(uri: str) -> Held:
    """What a reader that opens the gallery finds, every answer compared with the exact oracle."""
    reader = LiveGallery.open(uri)
    queries_BD = np.random.default_rng(0).normal(size=(2, RETRIEVAL_DIM))
    hits = reader.search(queries_BD, 1000)
    live = {hit.item_id: int(hit.metadata["number"]) for hit in hits[0]}
    assert hits == expected(live, queries_BD, 1000)
    assert reader.num_items == len(live)
    log = Log(Folder(uri))
    snapshots = {
        name: {entry.item_id: int(entry.metadata["number"]) for entry in live_catalogue(log, version)}
        for name, version in reader.state.snapshots.items()
    }
    reader.close()
    return Held(live, snapshots)


def check_and_go_on(uri: str, notes: Path, start: dict[str, int]) -> dict[str, Any]:
    """Check what is left after a kill, and that a new writer can do all that the old one could."""
    acknowledged, under_way, num_done = read_notes(notes, start)
    there = what_is_there(uri)
    allowed = list(acknowledged.during(under_way)) if under_way else [acknowledged]
    assert there in allowed, f"after {num_done} changes, during {under_way}: {there} is none of {allowed}"
    with GalleryWriter.open(uri, "after", take_over=True) as writer:
        writer.upsert([item("after", 3)], features([3]))
        writer.delete(["item-0000"])
        there.live = {i: n for i, n in there.live.items() if i != "item-0000"} | {"after": 3}
        assert what_is_there(uri) == there
        writer.compact()
        writer.collect(grace_s=0.0)
        assert what_is_there(uri) == there
    bases = {name.split("/")[1] for name in Folder(uri).list("bases")}
    assert len(bases) <= 1 + len(there.snapshots), "what a killed compaction left is collected"
    return {"changes": num_done, "under_way": under_way["kind"] if under_way else None}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A folder with a gallery over a small index, to be copied, and what it holds."""
    base = tmp_path_factory.mktemp("prepared")
    return base, gallery_over_index(str(base), 30)[1]


def kill_one(number: int, prepared: tuple[Path, dict[str, int]], scratch: Path) -> dict[str, Any]:
    """One point: even numbers at a step of the protocol, odd ones at a time."""
    base, start = prepared
    rng = random.Random(number)
    here = scratch / f"point-{number}"
    shutil.copytree(base / "gallery", here / "gallery")
    notes = here / "notes.jsonl"
    kill_at = rng.randint(1, MOST_STEPS) if number % 2 == 0 else 0
    program = [sys.executable, "-m", "tests.faults.gallery_changes"]
    with (here / "output").open("wb") as output:
        process = subprocess.Popen(
            [*program, str(here / "gallery"), str(number), str(kill_at), str(notes)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": "platform", "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            if not kill_at:
                deadline = time.monotonic() + 60
                while not (notes.exists() and notes.stat().st_size) and time.monotonic() < deadline:
                    time.sleep(0.05)
                time.sleep(rng.uniform(0.0, 1.5))
                process.send_signal(signal.SIGKILL)
            assert process.wait(timeout=120) == -signal.SIGKILL, (here / "output").read_text()[-2000:]
        finally:
            process.kill()
            process.wait()
    result = check_and_go_on(str(here / "gallery"), notes, start)
    shutil.rmtree(here)
    return {"kill_at_step": kill_at, **result}


@pytest.mark.timeout(3600)
def test_killed_at_random_points(prepared: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    assert run_points("gallery", NUM_POINTS, SOURCES, lambda number: kill_one(number, prepared, tmp_path)) > 0


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_killed_actor_loses_nothing(prepared: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    """The same with the writer in a Ray actor."""
    import ray

    class Writer:
        def process(self) -> int:
            return os.getpid()

        def change(self, uri: str, seed: int, notes: str) -> None:
            change_until_killed(uri, seed, 0, notes)

    base, start = prepared
    for seed in range(3):
        uri, notes = tmp_path / f"gallery-{seed}", tmp_path / f"notes-{seed}"
        shutil.copytree(base / "gallery", uri)
        actor = ray.remote(Writer).remote()
        pid = ray.get(actor.process.remote())
        running = actor.change.remote(str(uri), seed, str(notes))
        assert not ray.wait([running], timeout=2.0 + seed)[0]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(running)
        assert check_and_go_on(str(uri), notes, start)["changes"] > 0
