"""Makes a feature store until it is done or killed, noting every part before it is begun.

Run as a program it is the driver of a Ray session: ``python -m tests.faults.embed_maker ADDRESS CONFIG``.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chatsearch.model.frozen_encoder  # noqa: F401 -- with torch, before the fork
from chatsearch.index.config import EmbedConfig
from chatsearch.index.embed import embed, make_on_ray
from chatsearch.index.encode import PartEncoder, make_here

STEPS = ("open", "os.link", "os.rename", "os.remove", "os.mkdir")


def notes_of(output: str) -> Path:
    """Where the parts of a store are noted: one JSON line each, with the process that began it."""
    return Path(f"{output}.notes")


def begun(output: str) -> list[dict[str, int]]:
    """What has been noted so far."""
    path = notes_of(output)
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


class NotedEncoder(PartEncoder):
    """Notes each part before making it."""

    def __init__(self, config: EmbedConfig) -> None:
        super().__init__(config)
        self._notes = notes_of(config.output)

    def make(self, row: Mapping[str, Any]) -> None:
        """See :class:`PartEncoder`."""
        line = json.dumps({"part": int(row["part"]), "process": os.getpid()}).encode() + b"\n"
        handle = os.open(self._notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, line)  # in one piece, whoever else writes
        os.close(handle)
        super().make(row)


def make(config_json: str, kill_at: int, steps: str) -> None:
    """Make a store in this process.

    Args:
        config_json: the configuration.
        kill_at: the process kills itself when it opens, links, renames or removes its file of this number; 0 never.
        steps: file that gets the number of such steps in the end.
    """
    count = 0

    def step(event: str, _: tuple[object, ...]) -> None:
        nonlocal count
        if event in STEPS:
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)
    embed(EmbedConfig.model_validate_json(config_json), functools.partial(make_here, encoder=NotedEncoder))
    Path(steps).write_text(str(count))


def main() -> None:
    """Make a store on a Ray that is running."""
    import ray

    ray.init(address=sys.argv[1], log_to_driver=False)
    embed(EmbedConfig.model_validate_json(sys.argv[2]), functools.partial(make_on_ray, encoder=NotedEncoder))


if __name__ == "__main__":
    main()
