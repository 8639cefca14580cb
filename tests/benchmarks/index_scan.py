"""Goal I3: a scan of a flat gallery, one query at a time, beside the rate at which the same bytes are read.

The gallery has as many shards as there are cores, each mapped from its file and scanned by one thread. The limit is measured over
the same rows mapped from an .npy file, whose numbers lie where NumPy and BLAS read them without a copy, by as many threads: inner
products of stretches with themselves, each read once (``numpy.vecdot``). Plain FAISS holds copies of the rows in memory of its own:
in one index, whose search of one query takes one thread, and in ``IndexShards``.
``BENCH_SCAN_ITEMS``, ``BENCH_SCAN_TURN_S`` and ``BENCH_ROUNDS`` make it shorter for a trial; what then comes out is no result.

Shape suffixes: N rows, D dimension.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any

import faiss
import numpy as np
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.vectors import Float32

from tests.benchmarks.harness import Result, judge, take_turns
from tests.benchmarks.index_engines import KEPT, Side, build
from tests.benchmarks.index_galleries import COMMAND
from tests.benchmarks.index_sets import synthetic
from tests.benchmarks.peers.engine import K, num_cores

NUM_ITEMS = int(os.environ.get("BENCH_SCAN_ITEMS", "640000"))
DIMENSION = 512
TURN_S = float(os.environ.get("BENCH_SCAN_TURN_S", "5"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
_SUMMED = 8192
"""Numbers of one inner product when memory is read: few enough for BLAS to keep to the thread that asks."""


def measure() -> Iterator[Result]:
    """I3."""
    vectors = synthetic("scan", KEPT, NUM_ITEMS, DIMENSION)
    side = Side(
        "ours flat", "tests.benchmarks.index_ours", {"kind": "flat", "num_shards": num_cores()}, [{}], ours=True
    )
    made = build(side, vectors, KEPT)
    queries_QD = np.load(vectors.queries)
    gallery = GalleryIndex.open(str(made.folder / "index"))
    faiss.omp_set_num_threads(1)
    mapped_ND = np.load(vectors.vectors, mmap_mode="r")
    parts = np.array_split(mapped_ND, num_cores())
    single, shards = _faiss_indices(parts)
    num_bytes = sum(part.nbytes for part in parts)
    assert num_bytes == 4 * NUM_ITEMS * DIMENSION
    with ThreadPoolExecutor(len(parts)) as pool:
        sides = {
            "read": _rate(lambda _: list(pool.map(_read, parts)), queries_QD, num_bytes),
            "ours": _rate(lambda query_1D: gallery.search(query_1D, K), queries_QD, num_bytes),
            "FAISS, one thread": _rate(lambda query_1D: single.search(query_1D, K), queries_QD, num_bytes),
            "FAISS IndexShards": _rate(lambda query_1D: shards.search(query_1D, K), queries_QD, num_bytes),
        }
        for turn in sides.values():
            turn()
        rounds = take_turns(sides, ROUNDS)
    gallery.close()
    medians = ", ".join(f"{name} {statistics.median(values):.1f} GB/s" for name, values in rounds.values.items())
    shares = ", ".join(
        f"{name} {statistics.median(rounds.ratios(name, 'read')):.3f}" for name in sides if name not in ("read", "ours")
    )
    yield judge(
        "I3",
        rounds.ratios("ours", "read"),
        goal="flat scan >= 0.90x of measured memory bandwidth (> 1 GiB)",
        command=COMMAND,
        at_least=0.90,
        null=rounds.null,
        note=f"{num_bytes / 2**30:.2f} GiB, {NUM_ITEMS:,} x {DIMENSION}, one query at a time, {len(parts)} threads; {medians}; "
        f"over the same limit: {shares}; turns of {TURN_S:g} s",
        sides=rounds.values,
    )


def _faiss_indices(parts: list[Float32]) -> tuple[Any, Any]:
    """One flat index over all rows, and one whose shards are searched by a thread each."""
    single: Any = faiss.IndexFlatIP(DIMENSION)
    shards: Any = faiss.IndexShards(DIMENSION, True, True)
    for part_ND in parts:
        single.add(part_ND)
        shard: Any = faiss.IndexFlatIP(DIMENSION)
        shard.add(part_ND)
        shards.add_shard(shard)
    return single, shards


def _read(part_ND: Float32) -> float:
    flat = part_ND.reshape(-1)
    rows = flat[: len(flat) // _SUMMED * _SUMMED].reshape(-1, _SUMMED)
    return float(np.vecdot(rows, rows).sum())


def _rate(run: Callable[[Float32], object], queries_QD: Float32, num_bytes: int) -> Callable[[], float]:
    """A turn: GB/s over as many scans as fill it."""
    queries = cycle([queries_QD[number : number + 1] for number in range(len(queries_QD))])

    def turn() -> float:
        begin, num = time.perf_counter(), 0
        while time.perf_counter() - begin < TURN_S:
            run(next(queries))
            num += 1
        return num * num_bytes / (time.perf_counter() - begin) / 1e9

    return turn
