"""The same random directions in a sharded gallery and in one flat FAISS index: speed and equality do not depend on what they mean."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.gallery import GalleryIndex

from tests.unit.index.synthetic import write_bundle, write_store

COMMAND = "make bench ONLY=index"


@contextmanager
def galleries(
    num_items: int, dimension: int, num_shards: int
) -> Iterator[tuple[GalleryIndex, faiss.Index, list[str], np.random.Generator]]:
    """The same vectors in a sharded index and in one flat index, with the item id of each row of the latter."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((num_items, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_store(str(root / "features"), vectors)
        write_bundle(str(root / "model"), np.eye(dimension, dtype=np.float32))
        config = IndexConfig(
            features=str(root / "features"),
            model=str(root / "model"),
            output=str(root / "index"),
            num_shards=num_shards,
        )
        sharded = GalleryIndex.open(build_index(config).uri)
        single = faiss.IndexFlatIP(dimension)
        single.add(vectors)
        try:
            yield sharded, single, [f"item-{n:04d}" for n in range(num_items)], rng
        finally:
            sharded.close()
