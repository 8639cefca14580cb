"""WebDataset over tars of the same documents, as its documentation has it for training: resampled shards, a shuffle buffer, batches
made in the workers of a ``WebLoader``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import webdataset
from chatsearch.data.part import document_row
from chatsearch.data.shards import DocumentShards

from tests.benchmarks.data_process import serve
from tests.benchmarks.peers.work import Sequences, Step, document_from, pixels_of

SHUFFLED = 1000


def convert(shards: str, folder: str, *, pictures: bool, per_tar: int = 500) -> None:
    """Write document shards as tars: ``key.json``, and ``key.jpg`` where pictures are wanted."""
    source = DocumentShards.open(shards)
    pattern = str(Path(folder) / "part-%05d.tar")
    with webdataset.ShardWriter(pattern, maxcount=per_tar, maxsize=1e12, verbose=0) as writer:
        for number, document in enumerate(source.documents()):
            sample: dict[str, Any] = {"__key__": f"{number:09d}", "json": json.dumps(document_row(document)).encode()}
            if pictures:
                (name,) = document.images()
                sample["jpg"] = source.images.get(name)
            writer.write(sample)


def loader(folder: str, tokenizer: str, *, batch_size: int, num_workers: int, pictures: bool) -> webdataset.WebLoader:
    """The pipeline; an endless one."""
    tars = sorted(str(path) for path in Path(folder).glob("*.tar"))

    def read(sample: dict[str, Any]) -> dict[str, Any]:
        held: dict[str, Any] = {"document": document_from(sample["json"])}
        if pictures:
            held["pixels"] = pixels_of(sample["jpg"])
        return held

    dataset = (
        webdataset.WebDataset(tars, resampled=True, shardshuffle=False, seed=0)
        .shuffle(SHUFFLED)
        .map(read)
        .batched(batch_size, collation_fn=Sequences(tokenizer).collate)
    )
    return webdataset.WebLoader(dataset, batch_size=None, shuffle=False, num_workers=num_workers, prefetch_factor=2)


def main() -> None:
    """Convert, or serve turns."""
    settings = json.loads(sys.argv[1])
    if "convert" in settings:
        convert(settings["convert"], settings["folder"], pictures=settings["pictures"])
        return
    step = Step(settings["batch_size"])

    def batches() -> Iterator[int]:
        for batch in loader(**settings):
            if "pixels" in batch:
                step.take(batch["pixels"])
            yield settings["batch_size"]

    setting = f"resampled shards, shuffle({SHUFFLED}), WebLoader of {settings['num_workers']} workers, prefetch 2"
    serve(batches(), {"version": webdataset.__version__, "settings": setting})


if __name__ == "__main__":
    main()
