"""A live gallery over random directions: none of what is measured of it depends on what they mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.live.batch import Features
from chatsearch.index.live.create import create_gallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.types import GalleryItem

from tests.unit.index.synthetic import picture_hash, write_bundle, write_store

COMMAND = "make bench ONLY=gallery"
DIMENSION = 64
K = 10


def make_gallery(folder: str, num_items: int) -> str:
    """A gallery over an index of random vectors, in two shards."""
    root, uri = Path(folder), str(Path(folder) / "gallery")
    rows_ND = np.random.default_rng(0).standard_normal((num_items, DIMENSION)).astype(np.float32)
    write_store(str(root / "features"), rows_ND, num_parts=8)
    write_bundle(str(root / "model"), np.eye(DIMENSION, dtype=np.float32))
    index = build_index(
        IndexConfig(
            features=str(root / "features"), model=str(root / "model"), output=str(root / "index"), num_shards=2
        )
    )
    create_gallery(uri, index=index.uri)
    return uri


def put(writer: GalleryWriter, first: int, num: int, rng: np.random.Generator) -> int:
    """Add new items, numbered from ``first`` on."""
    items = [GalleryItem(f"new-{n}", picture_hash(n)) for n in range(first, first + num)]
    rows_ND = rng.standard_normal((num, DIMENSION)).astype(np.float32)
    return writer.upsert(items, Features(rows_ND, "encoder-a", "plain-64"))
