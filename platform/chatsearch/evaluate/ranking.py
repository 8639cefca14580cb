"""From unit vectors to ranks, a block of queries at a time.

Shape suffixes: Q queries, N gallery pictures, D retrieval dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chatsearch.evaluate.metrics import Ranks, ranks_of_targets
from chatsearch.index.exact import ExactIndex
from chatsearch.index.vectors import Float32
from chatsearch.types import GalleryItem

_BLOCK = 256


class Gallery:
    """Distinct pictures in a fixed order. A picture is its content hash: two items that show the same one are one."""

    def __init__(self, hashes: Sequence[str]) -> None:
        self.hashes = list(dict.fromkeys(hashes))
        self.column_of = {content_hash: column for column, content_hash in enumerate(self.hashes)}

    def __len__(self) -> int:
        return len(self.hashes)

    def columns(self, hashes: Sequence[str]) -> list[int]:
        """Columns of those of these pictures that are in the gallery."""
        return [self.column_of[h] for h in hashes if h in self.column_of]


def rank(
    gallery: Gallery,
    gallery_ND: Float32,
    queries_QD: Float32,
    targets: Sequence[str],
    excluded: Sequence[Sequence[str]] | None = None,
) -> Ranks:
    """Rank each query's target by exact cosine.

    Args:
        gallery: the pictures that compete.
        gallery_ND: their unit vectors, in the gallery's order.
        queries_QD: unit query vectors.
        targets: content hash of each query's target, in the gallery.
        excluded: for each query, pictures that do not compete.
    """
    # The arithmetic that search is held to: see chatsearch.index.vectors.
    exact = ExactIndex([GalleryItem(h, h) for h in gallery.hashes], gallery_ND)
    columns_Q = np.array([gallery.column_of[target] for target in targets], dtype=np.int64)
    pessimistic: list[NDArray[np.int64]] = []
    optimistic: list[NDArray[np.int64]] = []
    for start in range(0, len(queries_QD), _BLOCK):
        rows = slice(start, start + _BLOCK)
        dropped = None if excluded is None else [gallery.columns(hashes) for hashes in excluded[rows]]
        ranks = ranks_of_targets(exact.scores(queries_QD[rows]), columns_Q[rows], dropped)
        pessimistic.append(ranks.pessimistic_Q)
        optimistic.append(ranks.optimistic_Q)
    return Ranks(np.concatenate(pessimistic), np.concatenate(optimistic))
