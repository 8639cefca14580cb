"""Inverted lists by GPU: the two parts of a build that compare every row with every centroid, learning the lists and choosing one
for each row, run on all GPUs that the process sees. Codes are made on the CPU, and the files are the same kind of file.

Shape suffixes: N rows of a shard, S rows of a sample, L lists, D dimension.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from chatsearch.index.vectors import Float32

_FAISS: Any = faiss
"""Its annotations are those of C++: they know neither keywords nor arrays."""


def flat_on_gpus(dimension: int) -> Any:
    """An empty flat index over all GPUs that this process sees; None where there is none, or FAISS is the build for CPUs."""
    if not _FAISS.get_num_gpus():
        return None
    options = _FAISS.GpuMultipleClonerOptions()
    options.shard = True
    return _FAISS.index_cpu_to_all_gpus(_FAISS.IndexFlatIP(dimension), options)


def train_with(index: Any, sample_SD: Float32, flat: Any) -> None:
    """Train an index with inverted lists, whose centroids are found by a flat index."""
    lists = _FAISS.extract_index_ivf(index)
    lists.clustering_index = flat
    try:
        index.train(sample_SD)
    finally:
        lists.clustering_index = None


def add_with(index: Any, rows_ND: Float32, flat: Any) -> None:
    """Add rows to a trained index with inverted lists; a flat index, empty, chooses the list of each."""
    lists = _FAISS.extract_index_ivf(index)
    if hasattr(index, "chain"):
        rows_ND = _FAISS.downcast_VectorTransform(index.chain.at(0)).apply(rows_ND)
    centroids_LD = _FAISS.downcast_index(lists.quantizer).reconstruct_n(0, lists.nlist)
    flat.add(centroids_LD)
    list_N = np.ascontiguousarray(flat.search(rows_ND, 1)[1][:, 0])
    lists.add_core(len(rows_ND), _FAISS.swig_ptr(rows_ND), None, _FAISS.swig_ptr(list_N))
    index.ntotal = lists.ntotal
