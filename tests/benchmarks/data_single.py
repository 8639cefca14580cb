"""The limit: decode, resize and collate in one thread, over pictures in memory. No loader around it."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator

import torch
from chatsearch.data.shards import ImageStore

from tests.benchmarks.data_process import serve
from tests.benchmarks.peers.work import pixels_of


def batches(shards: str, batch_size: int) -> Iterator[int]:
    """Pictures of each batch, over and over."""
    store = ImageStore.open(shards)
    pictures = itertools.cycle([store.get(name) for name in store.hashes()])
    while True:
        torch.stack([pixels_of(data) for data in itertools.islice(pictures, batch_size)])
        yield batch_size


def main() -> None:
    """Serve turns."""
    torch.set_num_threads(1)
    settings = json.loads(sys.argv[1])
    serve(batches(settings["shards"], settings["batch_size"]), {"settings": "1 thread"})


if __name__ == "__main__":
    main()
