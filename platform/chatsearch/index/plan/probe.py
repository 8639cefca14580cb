"""The probe: what this machine does in a second, measured in about half a minute on a synthetic sample.

Rates of a core are measured with one thread. Each is the best of several passes: the others tell of neighbours, not of the machine.
Shape suffixes: N vectors, Q queries, d retrieval dimension.
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import faiss
import numpy as np

from chatsearch.index.plan.figure import Figure
from chatsearch.index.plan.probe_build import build_rates
from chatsearch.index.plan.rates import ASSUMED, Rates, measured
from chatsearch.index.plan.request import PlanRequest
from chatsearch.index.plan.sample import clustered
from chatsearch.index.vectors import Float32

_SCANNED_BYTES, _BLOCK_BYTES = 1 << 30, 1 << 26
"""Of what is scanned: more than the last-level cache of a whole server, which its guests may share; and of one block of it."""
_NUM_VECTORS = 40_000
"""Of the sample that graphs and lists are built of."""
_NUM_QUERIES = 200
_LISTS = 256
_PASSES = 3


def probe(request: PlanRequest, model: str | None = None) -> tuple[Rates, dict[str, Any]]:
    """Rates of this machine, and what it is.

    Args:
        request: its dimensions, metadata and k are the sample's.
        model: bundle whose vision encoder is timed too.

    Raises:
        ArtefactError: if there is no finished bundle at ``model``.
    """
    began = time.monotonic()
    threads = faiss.omp_get_max_threads()
    found: dict[str, Figure] = {}
    facts: dict[str, Any] = {
        "host": platform.node(),
        "cores": os.cpu_count(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "dimension": request.dimension,
        "sample": f"synthetic: {_NUM_VECTORS:,} vectors around {_NUM_VECTORS // 100:,} centres",
    }
    try:
        found |= _scans(request.dimension, threads, facts)
        faiss.omp_set_num_threads(1)
        found["gemm_flops"] = measured(_gemm_flops(request.dimension), "float32 matrix product, one thread")
        found |= _approximate(request)
        found |= build_rates(request)
    finally:
        faiss.omp_set_num_threads(threads)
    if model is not None:
        from chatsearch.index.plan.probe_embed import images_per_core_second

        found["embed_images"] = measured(images_per_core_second(model), f"encoder of {model} on synthetic pictures")
    facts["seconds"] = round(time.monotonic() - began, 1)
    return replace(ASSUMED, **found), facts


def _best_seconds(work: Callable[[], object], passes: int = _PASSES) -> float:
    """The shortest of several passes, after one that warms up."""
    work()
    times = []
    for _ in range(passes):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _scans(dimension: int, threads: int, facts: dict[str, Any]) -> dict[str, Figure]:
    """Memory bandwidth of all cores, and what of it a flat scan reaches; then each exact kind on one core."""
    # What the numbers are does not matter to a scan: one block, over and over.
    block_Nd = np.random.default_rng(0).standard_normal((_BLOCK_BYTES // (4 * dimension), dimension), dtype=np.float32)
    query_1d = block_Nd[:1].copy()
    shards = [_flat(block_Nd, math.ceil(_SCANNED_BYTES / threads / block_Nd.nbytes)) for _ in range(threads)]
    views = [faiss.rev_swig_ptr(shard.get_xb(), shard.ntotal * dimension) for shard in shards]
    num_bytes = sum(view.nbytes for view in views)
    # A search of one query takes one thread: a machine's cores scan shards side by side. OpenMP's number is each thread's own.
    faiss.omp_set_num_threads(1)
    with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        read = num_bytes / _best_seconds(lambda: list(pool.map(np.max, views)))
        together = num_bytes / _best_seconds(lambda: list(pool.map(lambda shard: shard.search(query_1d, 10), shards)))
    facts |= {"read_bytes_per_second": read, "flat_scan_bytes_per_second": together, "threads": threads}
    found = {
        "flat_scan_share": measured(min(1.0, together / read), f"flat scan over plain reads, {threads} threads"),
        "flat_bytes": measured(
            views[0].nbytes / _best_seconds(lambda: shards[0].search(query_1d, 10)), "flat scan, one thread"
        ),
    }
    for name, kind in (("fp16_bytes", faiss.ScalarQuantizer.QT_fp16), ("sq8_bytes", faiss.ScalarQuantizer.QT_8bit)):
        index = faiss.IndexScalarQuantizer(dimension, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(block_Nd[:20_000])
        for _ in range(4):
            index.add(block_Nd)
        seconds = _best_seconds(lambda index=index: index.search(query_1d, 10))  # type: ignore[misc]
        found[name] = measured(index.ntotal * index.code_size / seconds, "scalar quantiser's scan, one thread")
    return found


def _flat(block_Nd: Float32, times: int) -> Any:
    index = faiss.IndexFlatIP(block_Nd.shape[1])
    for _ in range(times):
        index.add(block_Nd)
    return index


def _gemm_flops(dimension: int) -> float:
    """As FAISS multiplies: a block of vectors by all centroids, one thread."""
    points_Nd = np.random.default_rng(0).standard_normal((4096, dimension), dtype=np.float32)
    centroids = faiss.IndexFlatIP(dimension)
    centroids.add(points_Nd[:1024])
    return 2.0 * 4096 * 1024 * dimension / _best_seconds(lambda: centroids.search(points_Nd, 1))


def _approximate(request: PlanRequest) -> dict[str, Figure]:
    """Lists with product codes, and a graph, over one sample. Only rates: its recall would tell nothing of another gallery's."""
    vectors_Nd = clustered(_NUM_VECTORS + _NUM_QUERIES, request.dimension, seed=0)
    queries_Qd, vectors_Nd = vectors_Nd[:_NUM_QUERIES], vectors_Nd[_NUM_QUERIES:]
    return _lists(vectors_Nd, queries_Qd) | _graph(vectors_Nd, queries_Qd)


def _lists(vectors_Nd: Float32, queries_Qd: Float32) -> dict[str, Figure]:
    dimension = vectors_Nd.shape[1]
    coarse = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFPQ(coarse, dimension, _LISTS, dimension // 4, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = index.pq.cp.niter = 4
    index.train(vectors_Nd[: 40 * _LISTS])
    encode = _best_seconds(lambda: index.pq.compute_codes(vectors_Nd[:4000]), passes=1)
    index.add(vectors_Nd)
    index.nprobe = 32
    times = [_best_seconds(partial(index.search, query_d[None], 10)) for query_d in queries_Qd]
    many = _seconds_probing(index, queries_Qd, 32)
    few = _seconds_probing(index, queries_Qd, 8)
    # What a search does once costs the same at 8 lists as at 32: the difference is the scan of 24 lists.
    scanned = 24 * len(vectors_Nd) / _LISTS * (index.code_size + 8)
    return {
        "pq_bytes": measured(scanned / max(1e-9, many - few), "IVF-PQ lists, one thread"),
        "pq_encode_bytes": measured(4000 * 4 * dimension / encode, "product quantiser's codes, one thread"),
        "service_variation": measured(
            max(0.05, statistics.pstdev(times) / statistics.fmean(times)), "single searches of IVF-PQ, one thread"
        ),
    }


def _seconds_probing(index: Any, queries_Qd: Float32, nprobe: int) -> float:
    """Of one search, on average over the queries, one at a time."""
    index.nprobe = nprobe
    return _best_seconds(lambda: [index.search(query_d[None], 10) for query_d in queries_Qd]) / len(queries_Qd)


def _graph(vectors_Nd: Float32, queries_Qd: Float32) -> dict[str, Figure]:
    dimension = vectors_Nd.shape[1]
    index = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)
    part_Nd = vectors_Nd[: _NUM_VECTORS // 2]
    began = time.perf_counter()
    index.add(part_Nd)
    added = len(part_Nd) * 4 * dimension / (time.perf_counter() - began)
    index.hnsw.efSearch = 128
    index.search(queries_Qd, 10)
    counters: Any = faiss.cvar
    counters.hnsw_stats.reset()
    began = time.perf_counter()
    index.search(queries_Qd, 10)
    seconds = time.perf_counter() - began
    visited = counters.hnsw_stats.ndis
    return {
        "graph_bytes": measured(visited * 4 * dimension / seconds, "HNSW search, one thread"),
        "graph_add_bytes": measured(added, "HNSW insertion, one thread"),
        "visits_per_ef": measured(visited / len(queries_Qd) / 128, "HNSW search at efSearch 128"),
    }
