"""LitData over its own optimised chunks of the same pictures: ``StreamingDataset`` and ``StreamingDataLoader``, shuffled."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import litdata
from chatsearch.data.part import document_row
from chatsearch.data.shards import DocumentShards

from tests.benchmarks.data_process import serve
from tests.benchmarks.peers.work import Sequences, Step, document_from, pixels_of


class Source:
    """One document with its picture's bytes, by number: what ``optimize`` is given."""

    def __init__(self, shards: str) -> None:
        self._shards = DocumentShards.open(shards)

    def __call__(self, number: int) -> dict[str, Any]:
        """The sample that is written."""
        document = self._shards.document(number)
        (name,) = document.images()
        return {"document": json.dumps(document_row(document)), "picture": self._shards.images.get(name)}

    def __len__(self) -> int:
        return self._shards.num_documents


class Pictures(litdata.StreamingDataset):
    """Samples decoded where they are read."""

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """A document and its pixels."""
        sample = super().__getitem__(index)
        return {"document": document_from(sample["document"]), "pixels": pixels_of(sample["picture"])}


def main() -> None:
    """Convert, or serve turns."""
    settings = json.loads(sys.argv[1])
    if "convert" in settings:
        source = Source(settings["convert"])
        litdata.optimize(
            fn=source,
            inputs=list(range(len(source))),
            output_dir=settings["folder"],
            chunk_bytes="64MB",
            num_workers=settings["num_workers"],
            verbose=False,
        )
        return
    dataset = Pictures(settings["folder"], shuffle=True, seed=0)
    loader = litdata.StreamingDataLoader(
        dataset,
        batch_size=settings["batch_size"],
        num_workers=settings["num_workers"],
        collate_fn=Sequences(settings["tokenizer"]).collate,
        drop_last=True,
        prefetch_factor=2,
        persistent_workers=True,
    )
    step = Step(settings["batch_size"])

    def batches() -> Iterator[int]:
        while True:  # an epoch after the other
            for batch in loader:
                step.take(batch["pixels"])
                yield len(batch["pixels"])

    setting = (
        f"chunks of 64 MB, shuffle, StreamingDataLoader of {settings['num_workers']} persistent workers, prefetch 2"
    )
    serve(batches(), {"version": litdata.__version__, "settings": setting})


if __name__ == "__main__":
    main()
