"""Approximate kinds of index: FAISS proposes rows, exact scores decide elsewhere.

Shape suffixes: B queries, K rows proposed per query, N rows of a shard, S rows of a sample, D retrieval dimension.

    fp16         scalar quantiser of 16 bits, all rows looked at
    sq8          scalar quantiser of 8 bits, all rows looked at
    ivf-pq       inverted lists, product quantiser of D / 4 bytes
    ivf-opq      the same after a rotation that is learnt for the quantiser (Ge et al., CVPR 2013)
    ivf-rabitq   inverted lists, RaBitQ of 2 bits a number (arXiv 2405.12497, 2409.09913)
    hnsw         navigable graph of 32 links over float32 rows (arXiv 1603.09320)

Rows are numbered as they were added. Lists and code books are trained once for all shards of a gallery.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from chatsearch.index.gpu_lists import add_with, flat_on_gpus, train_with
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.selection import Selection
from chatsearch.index.vectors import Float32

MIN_ROWS = 1024
"""A smaller gallery is flat whatever kind is wanted: it is searched as fast, and there is too little to train on."""
LINKS = 32
"""Of a node of the graph."""
_EF_CONSTRUCTION = 100
_SAMPLED_PER_LIST = 64
_LEAST_SAMPLE = 10_000
_SEED = 0
_ROTATIONS = 5
_ROTATED_ROWS = 9984
_FIRST_STEPS = 10
"""Rounds in which a rotation is learnt, rows of the sample that each looks at (FAISS wants 39 a centroid), and steps of k-means in the
first of them: FAISS' 50 rounds, and 40 steps, take minutes for vectors of 256 numbers."""
_FAISS: Any = faiss
"""Its annotations are those of C++: they know neither keywords nor arrays."""


def num_lists(num_rows: int) -> int:
    """Inverted lists of a shard: four times the root of its rows, as FAISS' guidelines have it, and never nearly empty ones."""
    return max(1, min(round(4 * math.sqrt(num_rows)), num_rows // 40))


def sample_rows(num_rows: int, lists: int) -> NDArray[np.int64]:
    """Rows to train with, a seeded draw in ascending order."""
    wanted = min(num_rows, max(_LEAST_SAMPLE, _SAMPLED_PER_LIST * lists))
    return np.sort(np.random.default_rng(_SEED).choice(num_rows, wanted, replace=False))


def trained(kind: str, sample_SD: Float32, lists: int) -> Any:
    """An empty FAISS index that has learnt from a sample what all shards share."""
    dimension = sample_SD.shape[1]
    index: Any = faiss.index_factory(dimension, _factory_string(kind, dimension, lists), faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        index.hnsw.efConstruction = _EF_CONSTRUCTION
    if kind == "ivf-opq":
        rotation = _FAISS.downcast_VectorTransform(index.chain.at(0))
        rotation.niter, rotation.max_train_points, rotation.niter_pq_0 = _ROTATIONS, _ROTATED_ROWS, _FIRST_STEPS
    sample_SD = np.ascontiguousarray(sample_SD)
    flat = flat_on_gpus(dimension) if kind.startswith("ivf") else None
    with _few_points(index):
        if flat is None:
            index.train(sample_SD)
        else:
            train_with(index, sample_SD, flat)
    return index


@contextmanager
def _few_points(index: Any) -> Iterator[None]:
    """Small galleries train with what they have; FAISS would warn of it for every clustering, by the hundred."""
    extracted = _FAISS.try_extract_index_ivf(index)
    ivf: Any = None if extracted is None else _FAISS.downcast_index(extracted)
    clusterings = [] if ivf is None else [ivf.cp]
    if hasattr(ivf, "pq"):
        clusterings.append(ivf.pq.cp)
    rotation = _FAISS.downcast_VectorTransform(index.chain.at(0)) if hasattr(index, "chain") else None
    if rotation is not None:
        # The quantizer that it would make itself. It writes to this one and never frees it; the wrapper gave it up when it was assigned.
        quantizer = _FAISS.ProductQuantizer(rotation.d_out, rotation.M, 8)
        rotation.pq = quantizer
        quantizer.thisown = True
        clusterings.append(quantizer.cp)
    for clustering in clusterings:
        clustering.min_points_per_centroid = 1
    try:
        yield
    finally:
        if rotation is not None:
            rotation.pq = None


def filled(empty: Any, rows_ND: Float32) -> Any:
    """A copy of a trained index with the rows of one shard."""
    index = faiss.clone_index(empty)
    rows_ND = np.ascontiguousarray(rows_ND)
    flat = None if _FAISS.try_extract_index_ivf(index) is None else flat_on_gpus(rows_ND.shape[1])
    if flat is None:
        index.add(rows_ND)
    else:
        add_with(index, rows_ND, flat)
    return index


def default_parameters(kind: str, lists: int) -> dict[str, int]:
    """What a search goes by that says nothing; chosen for recall before speed."""
    if kind.startswith("ivf"):
        return {"nprobe": max(8, lists // 16), "num_reranked": 200}
    return {"ef_search": 128, "num_reranked": 100} if kind == "hnsw" else {"num_reranked": 100}


def keeps_vectors(kind: str) -> bool:
    """Whether the FAISS file holds the rows as they are; else they lie in a file beside it."""
    return kind in ("flat", "hnsw")


def propose(
    index: Any, queries_BD: Float32, fetch: int, selected: Selection | None, parameters: SearchParameters
) -> NDArray[np.int64]:
    """The rows that seem best for every query, (B, K), -1 where no more was found.

    Args:
        index: of one shard.
        queries_BD: unit vectors.
        fetch: K.
        selected: rows to choose among; None for all.
        parameters: all that its kind takes.
    """
    selector = None if selected is None else _FAISS.IDSelectorBitmap(selected.bits)  # reads the bits where they are
    rows_BK: NDArray[np.int64]
    told = _faiss_parameters(parameters, selector)
    if hasattr(index, "chain"):
        told = _FAISS.SearchParametersPreTransform(index_params=told)
    _, rows_BK = index.search(queries_BD, fetch, params=told)
    return rows_BK


def reach(index: Any, parameters: SearchParameters) -> int:
    """How far a search of a shard can go: its lists, or its rows."""
    return int(_FAISS.extract_index_ivf(index).nlist) if parameters.nprobe else int(index.ntotal)


def _faiss_parameters(parameters: SearchParameters, selector: Any) -> Any:
    if parameters.nprobe:
        return _FAISS.SearchParametersIVF(sel=selector, nprobe=parameters.nprobe)
    if parameters.ef_search:
        return _FAISS.SearchParametersHNSW(sel=selector, efSearch=parameters.ef_search)
    return _FAISS.SearchParameters(sel=selector)


def code_parts(dimension: int) -> int:
    """Bytes of a product quantiser's code: a vector of D numbers is cut into so many parts, four numbers each where D allows."""
    return max(n for n in range(1, max(1, dimension // 4) + 1) if dimension % n == 0)


def _factory_string(kind: str, dimension: int, lists: int) -> str:
    parts = code_parts(dimension)
    return {
        "fp16": "SQfp16",
        "sq8": "SQ8",
        "ivf-pq": f"IVF{lists},PQ{parts}x8np",  # np: codes are not sorted for Hamming distances, which takes minutes
        "ivf-opq": f"OPQ{parts},IVF{lists},PQ{parts}x8np",
        "ivf-rabitq": f"IVF{lists},RaBitQ2",
        "hnsw": f"HNSW{LINKS}",
    }[kind]
