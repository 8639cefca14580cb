"""The embed job without a cluster, in a process that ends itself with SIGKILL after so many steps at the file system.

One part after the other is made here, by the same calls that Ray Data makes in its actors.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chatsearch.index import embed as module
from chatsearch.index.config import EmbedConfig
from chatsearch.index.encode import PartEncoder
from chatsearch.manifest import Artefact

STEPS = ("open", "os.rename", "os.remove", "os.mkdir")


def embed_here(config: EmbedConfig, notes: Path | None = None) -> Artefact:
    """The store; each part that is begun becomes a line of ``notes``."""

    def run(config: EmbedConfig, rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, int]]:
        encoder = PartEncoder(config)
        for row in rows:
            if notes:
                with notes.open("a") as sink:
                    sink.write(f"{row['part']}\n")
            yield encoder(row)

    on_ray, module._run = module._run, run
    try:
        return module.embed(config)
    finally:
        module._run = on_ray


def embed_until_killed(config: EmbedConfig, notes: Path, kill_at: int) -> None:
    """Kill this process at its ``kill_at``-th step, counted from the first part on."""
    steps = iter(range(1, kill_at))

    def count(event: str, _: tuple[object, ...]) -> None:
        if event in STEPS and notes.exists() and next(steps, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    embed_here(config, notes)


if __name__ == "__main__":
    embed_until_killed(EmbedConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
