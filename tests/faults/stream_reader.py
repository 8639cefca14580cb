"""A process that reads training batches and tells of each, until it is done or killed: ``python -m tests.faults.stream_reader JSON``.

After every step it prints one line, then notes the number of steps behind it in a file, as a checkpoint would.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chatsearch.data.config import LoaderConfig, StreamConfig
from chatsearch.data.pack import Batch
from chatsearch.data.plan import rank_slice
from chatsearch.data.steps import StepBuilder
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.storage import Folder
from PIL import Image


def small(image: Image.Image) -> Any:
    """Preprocessing of a picture: pixels (3, 24, 24)."""
    import numpy as np

    return np.asarray(image.resize((24, 24))).transpose(2, 0, 1)


def step_builder(shards: str, tokenizer: str) -> StepBuilder:
    """Two streams whose epochs end in the middle of steps."""
    streams = (
        StreamConfig(shards=shards, per_step=10, kinds=("caption",)),
        StreamConfig(shards=shards, per_step=4, kinds=("edit",)),
    )
    return StepBuilder(
        streams, ChatTokenizer.load(Folder(tokenizer)), 3, 128, seed=5, num_micro_batches=2, preprocess=small
    )


def seen(builder: StepBuilder, step: int, rank: int, world_size: int, batches: Sequence[Batch]) -> dict[str, Any]:
    """What a step held: ids of its documents in order, and a hash over every array."""
    hasher = hashlib.sha256()
    for batch in batches:
        for name, array in sorted(batch.to_arrays().items()):
            hasher.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    share = rank_slice(builder.plan.step(step), rank, world_size)
    documents = [
        builder.sources[s.stream][0].document(int(builder.sources[s.stream][1][s.document])).document_id for s in share
    ]
    return {"step": step, "documents": documents, "arrays": hasher.hexdigest()}


def steps_of(
    builder: StepBuilder, rank: int, world_size: int, *, start: int, stop: int, ray_address: str | None
) -> Iterator[tuple[int, list[Batch]]]:
    """The steps that are left, through Ray Data where there is an address."""
    if ray_address is None:
        for step in range(start, stop):
            yield step, builder.build(step, rank, world_size)
        return
    import ray
    from chatsearch.data.stream import rank_batches

    ray.init(address=ray_address, log_to_driver=False)
    loader = LoaderConfig(num_tasks=2, cpus_per_task=0.5, steps_per_task=3)
    yield from rank_batches(builder, rank, world_size, start=start, stop=stop, loader=loader)


def main() -> None:
    """Read on from the noted step."""
    told = json.loads(sys.argv[1])
    builder = step_builder(told["shards"], told["tokenizer"])
    noted, rank, world_size = Path(told["noted"]), told["rank"], told["world_size"]
    start = int(noted.read_text()) if noted.exists() else 0
    for step, batches in steps_of(builder, rank, world_size, start=start, stop=told["stop"], ray_address=told["ray"]):
        print(json.dumps(seen(builder, step, rank, world_size, batches)), flush=True)
        fresh = noted.with_suffix(".new")
        fresh.write_text(str(step + 1))
        fresh.replace(noted)


if __name__ == "__main__":
    main()
