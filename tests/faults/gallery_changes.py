"""Changes a gallery at random until it is killed, writing down each change before it begins and after it was acknowledged.

Run as a program: ``python -m tests.faults.gallery_changes URI SEED KILL_AT NOTES``. With ``KILL_AT`` > 0 it kills itself when it opens,
links, renames or removes its file of that number, so that every step of the protocol is hit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from chatsearch.index.live.forget import forget
from chatsearch.index.live.writer import GalleryWriter

from tests.unit.index.live.galleries import features, item
from tests.unit.index.synthetic import picture_hash

IDS = [f"item-{n:04d}" for n in range(35)]
"""Ids of the base that is there at first, and some that are not in it."""
WEIGHTS = {"upsert": 8, "delete": 5, "compact": 4, "snapshot": 2, "rollback": 1, "collect": 2, "forget": 1}
STEPS = ("open", "os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir")


def draw(rng: random.Random, snapshots: set[str]) -> dict[str, Any]:
    """One change."""
    kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    if kind == "rollback" and not snapshots:
        kind = "snapshot"
    change: dict[str, Any] = {"kind": kind}
    if kind == "upsert":
        change["items"] = {item_id: rng.randrange(40) for item_id in rng.sample(IDS, rng.randint(1, 6))}
    elif kind == "delete":
        change["ids"] = rng.sample(IDS, rng.randint(1, 6))
    elif kind == "compact":
        change["num_shards"] = rng.randint(1, 2)
    elif kind == "snapshot":
        change["name"] = rng.choice([name for name in "abc" if name not in snapshots] or ["a"])
        change["kind"] = "drop" if change["name"] in snapshots else "snapshot"
    elif kind == "rollback":
        change["name"] = rng.choice(sorted(snapshots))
    elif kind == "forget":
        change["what"] = rng.choice([*IDS, *map(picture_hash, range(40))])
    return change


def make(writer: GalleryWriter, change: dict[str, Any]) -> None:
    """Do it."""
    match change["kind"]:
        case "upsert":
            held = change["items"]
            writer.upsert([item(item_id, number) for item_id, number in held.items()], features(list(held.values())))
        case "delete":
            writer.delete(change["ids"])
        case "compact":
            writer.compact(num_shards=change["num_shards"])
        case "snapshot":
            writer.snapshot(change["name"])
        case "drop":
            writer.drop_snapshot(change["name"])
        case "rollback":
            writer.rollback(change["name"])
        case "collect":
            writer.collect(grace_s=0.0)
        case "forget":
            if any(change["what"] in (entry.item_id, entry.content_hash) for entry in writer.catalogue):
                forget(writer, change["what"])


def change_until_killed(uri: str, seed: int, kill_at: int, notes: str) -> None:
    """Never returns."""
    rng = random.Random(seed)
    if kill_at:
        steps = iter(range(1, kill_at))

        def count(event: str, _: tuple[object, ...]) -> None:
            if event in STEPS and next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
    with Path(notes).open("ab", buffering=0) as sink:
        writer = GalleryWriter.open(uri, f"seed {seed}", take_over=True)
        sink.write(b'{"ready": true}\n')
        while True:
            change = draw(rng, set(writer.state.snapshots))
            sink.write(json.dumps(change).encode() + b"\n")
            make(writer, change)
            sink.write(b'{"acknowledged": true}\n')


if __name__ == "__main__":
    change_until_killed(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
