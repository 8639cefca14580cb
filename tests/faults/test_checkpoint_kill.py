"""SIGKILL at any moment of a checkpoint's save, and damage to what was saved (R3).

Two ranks save without pause, through the writer that training uses and with no model around it. All that they hold is a function
of the step, so whoever goes on from a checkpoint can tell whether it is whole.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from chatsearch.manifest import MANIFEST, file_entry
from chatsearch.storage import Folder
from chatsearch.train import checkpoint
from chatsearch.train.checkpoint import COMMON_FILE, commit, committed, first_whole, rank_file
from chatsearch.train.state import KINDS, Piece, restore, snapshot
from chatsearch.train.writer import CheckpointWriter, find_checkpoint, write_file
from torch import Tensor

from tests.faults.points import run_points
from tests.ranks import Ranks, Seat, join_group, start

pytestmark = pytest.mark.fault
NUM_ELEMENTS = 1 << 17
"""Of a rank and kind: a save takes some hundredths of a second."""
LONGEST_S = 0.3
SOURCES = ("platform/chatsearch/train",)


def contents(step: int, rank: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1000 * step + rank)
    return {kind: torch.rand(NUM_ELEMENTS, generator=draw) for kind in KINDS}


def piece(rank: int, world_size: int, tensors: Mapping[str, Tensor]) -> Piece:
    return Piece("all", rank * NUM_ELEMENTS, world_size * NUM_ELEMENTS, tensors, {"step": 0})


def save_without_pause(seat: Seat, root: str, log: Path) -> None:
    """One rank: go on from the newest checkpoint, then save one after the other until it is killed."""
    join_group(seat)
    folder = Folder(root)
    saved, token = find_checkpoint(folder, "run")
    step = saved.manifest.step if saved else 0
    exact = True
    if saved:
        mine = piece(seat.rank, seat.world_size, {kind: torch.zeros(NUM_ELEMENTS) for kind in KINDS})
        restore([mine], [Path(saved.folder.path(rank_file(seat.rank)))])
        exact = all(torch.equal(mine.tensors[k], tensor) for k, tensor in contents(step, seat.rank).items())

    def tell(**facts: Any) -> None:
        with log.with_suffix(f".{seat.rank}").open("a") as file:
            file.write(json.dumps(facts) + "\n")

    tell(resumed=step, exact=exact)
    deadline = time.monotonic() + 120  # a test that dies itself leaves nobody to kill this
    with CheckpointWriter(folder, run="run", token=token) as writer:
        while time.monotonic() < deadline:
            done = writer.wait()
            if done:
                if seat.rank == 0:
                    checkpoint.prune(folder, 2)
                tell(saved=done.manifest.step)
            step += 1
            files = [snapshot(rank_file(seat.rank), [piece(*_of(seat), contents(step, seat.rank))], {})]
            if seat.rank == 0:
                files.append(snapshot(COMMON_FILE, [], {"step": torch.tensor(step)}))
            writer.start(step, {"loss": 1.0}, files)


def _of(seat: Seat) -> tuple[int, int]:
    return seat.rank, seat.world_size


def left_by(folder: Path) -> str:
    """What the kill has left, in a word: how far the last save had come."""
    newest = max(folder.glob("step-*"), default=None)
    if newest is None:
        return "nothing"
    names = {path.name for path in newest.iterdir()}
    if MANIFEST in names:
        return "whole"
    return f"torn, {sum(name.endswith('.safetensors') for name in names)} of 3 files"


class Saving:
    """Two ranks that save all the time. Each kill is followed by a start that goes on from what it has left."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._root = folder, folder / "checkpoints"
        self._saved = 0
        self.ranks = self._start()

    def kill(self, number: int) -> dict[str, Any]:
        """Kill both at a random moment and start them again; returns what the kill left and where they went on."""
        draw = random.Random(f"save-{number}")
        time.sleep(draw.uniform(0.0, LONGEST_S))
        first, second = draw.sample(self.ranks.processes, 2)
        first.kill()
        time.sleep(draw.choice([0.0, draw.uniform(0.0, 0.02)]))
        second.kill()
        self.ranks.join()
        self._saved = max([self._saved, *(line["saved"] for line in self.ranks.lines() if "saved" in line)])
        left = left_by(self._root)
        self.ranks = self._start()
        told = [self.ranks.lines(rank)[0] for rank in range(2)]
        assert all(line["exact"] for line in told), told
        assert told[0]["resumed"] == told[1]["resumed"] >= self._saved, (told, self._saved)
        return {"left": left, "saved": self._saved, "resumed": told[0]["resumed"]}

    def _start(self) -> Ranks:
        ranks = start(2, self._folder / "logs", save_without_pause, str(self._root))
        try:
            ranks.wait_until(lambda: all(ranks.lines(rank) for rank in range(2)))
        except BaseException:
            ranks.kill()
            raise
        return ranks


@pytest.mark.timeout(3600)
def test_a_save_that_is_killed_costs_nothing_that_was_saved(tmp_path: Path) -> None:
    saving = Saving(tmp_path)
    try:
        run_points("checkpoint-save-killed", 200, SOURCES, saving.kill)
    finally:
        saving.ranks.kill()


def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_used(tmp_path: Path, caplog) -> None:
    """One flipped bit or a cut anywhere in any file of the newest of three."""
    root = Folder(str(tmp_path / "checkpoints"))
    for step in (1, 2, 3):
        target = root.child(checkpoint.checkpoint_name(step, "ab12"))
        files = [snapshot(rank_file(rank), [piece(rank, 2, contents(step, rank))], {}) for rank in range(2)]
        files.append(snapshot(COMMON_FILE, [], {"step": torch.tensor(step)}))
        entries = {file.name: write_file(target, file) for file in files}
        assert entries == {name: file_entry(target, name) for name in entries}
        commit(target, entries, run="run", step=step, world_size=2, metrics={"loss": 1.0}, versions={})
    newest = Path(root.child(checkpoint.checkpoint_name(3, "ab12")).uri)

    def damage(number: int) -> dict[str, Any]:
        draw = random.Random(f"damage-{number}")
        path = newest / draw.choice([rank_file(0), rank_file(1), COMMON_FILE, MANIFEST])
        whole = path.read_bytes()
        place, kind = draw.randrange(len(whole)), draw.choice(["flip", "cut"])
        flipped = bytes([whole[place] ^ 1 << draw.randrange(8)])
        path.write_bytes(whole[:place] if kind == "cut" else whole[:place] + flipped + whole[place + 1 :])
        caplog.clear()
        with caplog.at_level("WARNING"):
            found = first_whole(committed(root, run="run"))
        assert found is not None
        if found.manifest.step == 3:  # a blank between the manifest's fields has become another
            assert json.loads(path.read_bytes()) == json.loads(whole)
        else:
            assert found.manifest.step == 2
            assert str(newest) in caplog.text
        path.write_bytes(whole)
        return {"file": path.name, "kind": kind, "place": place, "used": found.manifest.step}

    run_points("checkpoint-damaged", 200, SOURCES, damage)
