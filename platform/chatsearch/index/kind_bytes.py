"""Bytes of the FAISS files of a gallery by kind of index, told before anything is built. They are mapped: what is on disk is in memory.

Kinds that hold codes have a file of the float32 vectors beside them, of which a search reads the few rows that it ranks again; it is
not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from chatsearch.index.approximate import LINKS, code_parts
from chatsearch.index.plan import sizes

_SHARD: Mapping[str, Callable[[int, int, int], int]] = {
    "flat": lambda n, d, lists: sizes.id_map_bytes(n, sizes.flat_bytes(n, d)),
    "fp16": lambda n, d, lists: sizes.scalar_bytes(n, d, 16),
    "sq8": lambda n, d, lists: sizes.scalar_bytes(n, d, 8),
    "ivf-pq": lambda n, d, lists: sizes.pq_lists_bytes(n, d, lists, code_parts(d)),
    "ivf-opq": lambda n, d, lists: sizes.opq_lists_bytes(n, d, lists, code_parts(d)),
    "ivf-rabitq": sizes.rabitq_lists_bytes,
    "hnsw": lambda n, d, lists: sizes.graph_bytes(n, d, LINKS),
}
"""By kind, the file of a shard of n vectors of d numbers."""


def index_bytes(kind: str, items_per_shard: Sequence[int], dimension: int, lists: int) -> int:
    """All shards together. Exact, but for the graph, whose levels are drawn: within one percent."""
    return sum(_SHARD[kind](num, dimension, lists) for num in items_per_shard)
