"""Bytes of a gallery: FAISS files exactly as ``faiss.write_index`` writes them, and what a shard holds in memory.

n vectors of d numbers. All layouts are those of FAISS 1.15 (``impl/index_write.cpp``); tests hold them against real files.
"""

from __future__ import annotations

import math

from chatsearch.index.plan.request import PlanRequest

_HEADER = 4 + 33
"""Four-letter code; then d (4), ntotal, two unused (8 each), is_trained (1), metric (4)."""
_VECTOR = 8
"""Length before every array."""
ID_MAP_HEAP = 40
"""Memory of one id in IndexIDMap2's hash map: libstdc++ allocates a node of 32 bytes and a bucket of 8."""
SHARD_ARRAYS = 16
"""A row's faiss id and its place in the order of the item ids, as our shards hold them beside FAISS."""


def flat_bytes(n: int, d: int) -> int:
    """IndexFlat, float32."""
    return _HEADER + _VECTOR + 4 * n * d


def scalar_bytes(n: int, d: int, bits: int) -> int:
    """IndexScalarQuantizer of 8 bits (with a minimum and a range a dimension) or 16 (fp16)."""
    assert bits in (8, 16), "SQ8 and fp16 are what is planned with"
    trained = 2 * d if bits == 8 else 0
    quantizer = 4 + 4 + 4 + 8 + 8 + _VECTOR + 4 * trained
    return _HEADER + quantizer + _VECTOR + n * d * bits // 8


def pq_lists_bytes(n: int, d: int, nlist: int, code_bytes: int) -> int:
    """IndexIVFPQ with 8-bit codes over a flat coarse quantizer, more than half of its lists in use."""
    codebook = 8 + 8 + 8 + _VECTOR + 4 * 256 * d
    return _lists_bytes(n, d, nlist, code_bytes) + 1 + 8 + codebook


def opq_lists_bytes(n: int, d: int, nlist: int, code_bytes: int) -> int:
    """The same behind a rotation: IndexPreTransform with one LinearTransform of d by d numbers and no bias."""
    rotation = 4 + 1 + _VECTOR + 4 * d * d + _VECTOR + 4 + 4 + 1
    return _HEADER + 4 + rotation + pq_lists_bytes(n, d, nlist, code_bytes)


def rabitq_lists_bytes(n: int, d: int, nlist: int) -> int:
    """IndexIVFRaBitQ with 2 bits a number, likewise: signs, a bit more, and five factors a vector."""
    quantizer = 8 + 8 + 4 + 8
    return _lists_bytes(n, d, nlist, 2 * math.ceil(d / 8) + 20) + quantizer + 8 + 1 + 1


def _lists_bytes(n: int, d: int, nlist: int, code_bytes: int) -> int:
    """What all inverted lists have: their header, the flat coarse quantizer, codes and ids."""
    ivf = _HEADER + 8 + 8 + flat_bytes(nlist, d) + 1 + _VECTOR
    return ivf + 4 + 8 + 8 + 4 + _VECTOR + 8 * nlist + n * (code_bytes + 8)


def refined_bytes(base: int, refine: int) -> int:
    """IndexRefine over two indexes of these sizes."""
    return _HEADER + base + refine + 4


def id_map_bytes(n: int, inner: int) -> int:
    """IndexIDMap2 over an index of this size."""
    return _HEADER + inner + _VECTOR + 8 * n


def graph_bytes(n: int, d: int, links: int) -> int:
    """IndexHNSWFlat: close, not exact, for levels are drawn. A node has ``links`` / (``links`` - 1) levels on average."""
    upper = n / (links - 1) * links
    neighbors = 4 * math.ceil(2 * links * n + upper)
    return _HEADER + 6 * _VECTOR + 4 * n + 8 * (n + 1) + neighbors + 200 + flat_bytes(n, d)


def item_bytes(request: PlanRequest) -> int:
    """Arrow memory of one row of the item table: id, content hash (64 hex digits), metadata, their offsets, the faiss id."""
    return request.id_bytes + 4 + 64 + 4 + request.metadata_bytes + 4 + 8


def feature_bytes(request: PlanRequest) -> int:
    """One row of the feature store: raw f_CLS in float32 and the content hash."""
    return 4 * request.feature_dimension + 64 + 4
