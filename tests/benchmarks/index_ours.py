"""Our own index by the protocol of its peers: one shard of a gallery, asked as a process asks it that holds it."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.plan.sample import write_sample_bundle, write_sample_store
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.vectors import Float32

from tests.benchmarks.peers.engine import Ask, Engine, K, Parameters, main, timed


class Ours(Engine):
    """``IndexConfig(kind)``, ``SearchParameters``. Making the feature store is no part of the build's time."""

    version = f"with FAISS {faiss.__version__}"

    def build(self, vectors_ND: Float32, folder: Path, parameters: Any) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as inputs:
            features, model = str(Path(inputs) / "features"), str(Path(inputs) / "model")
            write_sample_store(features, vectors_ND, metadata_bytes=0)
            write_sample_bundle(model, np.eye(vectors_ND.shape[1], dtype=np.float32))
            config = IndexConfig(features=features, model=model, output=str(folder / "index"), **parameters)
            return timed(lambda: build_index(config))

    def open(self, folder: Path) -> None:
        self._index = GalleryIndex.open(str(folder / "index"))

    def asker(self, parameters: Parameters) -> Ask:
        return partial(self._index.search, k=K, parameters=SearchParameters(**parameters))

    def rows(self, found: Any) -> list[int]:
        return [int(hit.item_id.removeprefix("synthetic-")) for hit in found[0]]


if __name__ == "__main__":
    main(Ours())
