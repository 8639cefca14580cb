"""Our loader as training uses it: document shards, built ahead of time on Ray Data, into the step."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import torch
from chatsearch.data.config import LoaderConfig, StreamConfig
from chatsearch.data.steps import StepBuilder
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.session import ray_session
from chatsearch.storage import Folder

from tests.benchmarks.data_process import serve
from tests.benchmarks.peers.work import MAX_LENGTH, NUM_QUERIES, PREPROCESSING, Step


def step_builder(shards: str, tokenizer: str, *, batch_size: int, pictures: bool) -> StepBuilder:
    """One stream of documents, ``batch_size`` a step."""
    return StepBuilder(
        (StreamConfig(shards=shards, per_step=batch_size),),
        ChatTokenizer.load(Folder(tokenizer)),
        NUM_QUERIES,
        MAX_LENGTH,
        preprocess=PREPROCESSING if pictures else None,
    )


def batches(settings: dict[str, object], loader: LoaderConfig) -> Iterator[int]:
    """Documents of each step, after the step has taken its pictures. A Ray session has set what Ray reads at its import."""
    from chatsearch.data.stream import rank_batches

    builder = step_builder(
        str(settings["shards"]),
        str(settings["tokenizer"]),
        batch_size=int(str(settings["batch_size"])),
        pictures=bool(settings["pictures"]),
    )
    step = Step(builder.plan.per_step)
    for _, made in rank_batches(builder, 0, 1, start=0, stop=1 << 30, loader=loader):
        for batch in made:
            if batch.pixels is not None:
                step.take(torch.from_numpy(batch.pixels))
        yield builder.plan.per_step


def main() -> None:
    """Serve turns."""
    settings = json.loads(sys.argv[1])
    loader = LoaderConfig(num_tasks=settings["num_workers"], cpus_per_task=1, **settings.get("loader", {}))
    setting = f"{loader.num_tasks} tasks of {loader.steps_per_task} steps, prefetch {loader.prefetch_blocks}"
    with ray_session():
        serve(batches(settings, loader), {"settings": setting})


if __name__ == "__main__":
    main()
