"""The rows of a shard that a search may find.

Shape suffixes: N rows of the shard, n selected ones, D retrieval dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from chatsearch.index.vectors import Float32

_MAX_GATHERED = 1 << 24
"""Numbers copied at a time (64 MiB)."""
SCANNED_NUMBERS = 1 << 20
"""Rows times dimension up to which a selection keeps a copy of its vectors (4 MiB), and all of them are scored whatever the kind of
index: faster than what FAISS does with a selector, and exact. Beyond, vectors are copied by each search, which is slower than a
selector (``make bench ONLY=index`` holds both beside each other)."""


class Selection:
    """Some rows, and copies of their vectors. Nothing in it changes, so it can be kept and shared."""

    def __init__(self, mask_N: NDArray[np.bool_], vectors_ND: Float32) -> None:
        self.mask_N = mask_N
        self._vectors_ND = vectors_ND
        self.num_rows = int(np.count_nonzero(mask_N))

    def without(self, dead_N: NDArray[np.bool_]) -> Selection:
        """The same but for some rows."""
        return Selection(self.mask_N & ~dead_N, self._vectors_ND) if (self.mask_N & dead_N).any() else self

    @cached_property
    def rows_n(self) -> NDArray[np.int64]:
        """The rows in order."""
        return np.flatnonzero(self.mask_N)

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """The mask as FAISS reads it, a bit a row."""
        return np.packbits(self.mask_N, bitorder="little")

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], Float32]]:
        """Rows with their vectors, as many at a time as should be copied at once."""
        dimension = self._vectors_ND.shape[1]
        if self.num_rows * dimension <= SCANNED_NUMBERS:
            yield self.rows_n, self._few_nD
            return
        step = max(1, _MAX_GATHERED // dimension)
        for start in range(0, self.num_rows, step):
            rows_n = self.rows_n[start : start + step]
            yield rows_n, self._vectors_ND[rows_n]

    @cached_property
    def _few_nD(self) -> Float32:
        return np.ascontiguousarray(self._vectors_ND[self.rows_n])
