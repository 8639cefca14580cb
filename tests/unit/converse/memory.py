"""A small gallery of coloured pictures, all in memory."""

from __future__ import annotations

import io
from collections.abc import Collection

import numpy as np
from chatsearch.converse.engine import Ranking
from chatsearch.converse.pictures import PictureEncoder
from chatsearch.errors import MissingInputError
from chatsearch.index.exact import ExactIndex
from chatsearch.model.bundle import ModelBundle
from chatsearch.types import GalleryItem, content_hash
from PIL import Image


def picture(seed: int) -> bytes:
    """A PNG of random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


class MemoryGallery:
    """Pictures by hash, and exact search over them with the model's own gallery embeddings."""

    version = "index-1"

    def __init__(self, bundle: ModelBundle, num_pictures: int = 12) -> None:
        data = [picture(seed) for seed in range(num_pictures)]
        self.pictures = {content_hash(d): d for d in data}
        hashes = list(self.pictures)
        cls_ID = PictureEncoder(bundle.vision, self).encode(hashes).cls_ID
        vectors = bundle.searcher.gallery_embedding(cls_ID).detach().numpy()
        self.items = [GalleryItem(f"item-{number}", content_hash) for number, content_hash in enumerate(hashes)]
        self.index = ExactIndex(self.items, vectors)
        self.queries: list[np.ndarray] = []
        """Every query embedding that was searched with, in order."""

    def get(self, content_hash: str) -> bytes:
        if content_hash not in self.pictures:
            raise MissingInputError(f"no picture {content_hash}")
        return self.pictures[content_hash]

    def search(self, query_d: np.ndarray, k: int, exclude: Collection[str]) -> Ranking:
        self.queries.append(query_d)
        (hits,) = self.index.search(query_d[None], k, [exclude])
        return Ranking(hits, self.version)
