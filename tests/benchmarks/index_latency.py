"""Goal I1's latency: what shards add to one search at batch 1; with it what R9 and R10 cost and guarantee.

One FAISS index in this process, the same vectors in four shards of this process, and in four Ray actors, asked in turn, query by query.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
from chatsearch.errors import OverloadedError
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.merge import merge_batches
from chatsearch.index.shard import IndexShard
from chatsearch.session import ray_session

from tests.benchmarks.harness import Result, judge
from tests.unit.index.synthetic import write_bundle, write_store

NUM_ITEMS = int(os.environ.get("BENCH_LATENCY_ITEMS", "100000"))
NUM_QUERIES = int(os.environ.get("BENCH_LATENCY_QUERIES", "200"))
"""Searches of each side in a round, whose median counts."""
NUM_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
DIMENSION = 256
NUM_SHARDS = 4
K = 10
COMMAND = "make bench ONLY=index"

if TYPE_CHECKING:
    from chatsearch.index.actors import ActorGallery

Search = Callable[[np.ndarray], object]


def measure() -> Iterator[Result]:
    """I1 at batch 1, in this process and behind actors; then R10 and R9."""
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    vectors = _unit(rng.standard_normal((NUM_ITEMS, DIMENSION)))
    queries = _unit(rng.standard_normal((NUM_QUERIES, DIMENSION)))
    with tempfile.TemporaryDirectory() as folder, ray_session():
        from chatsearch.index.actors import ActorGallery  # Ray: not before its environment is set

        root = Path(folder)
        write_store(str(root / "features"), vectors)
        write_bundle(str(root / "model"), np.eye(DIMENSION, dtype=np.float32))
        config = IndexConfig(
            features=str(root / "features"),
            model=str(root / "model"),
            output=str(root / "index"),
            num_shards=NUM_SHARDS,
        )
        uri = build_index(config).uri
        single = faiss.IndexFlatIP(DIMENSION)
        single.add(vectors)
        here = GalleryIndex.open(uri)
        there = ActorGallery.open(uri, cpus_per_shard=0.0)
        with closing(there):
            sides: dict[str, Search] = {
                "one index": lambda query: single.search(query, K),
                "shards": lambda query: here.search(query, K),
                "actors": lambda query: there.search(query, K),
                "one index again": lambda query: single.search(query, K),
            }
            for search in sides.values():
                _median_ms(search, queries[:20])
            rounds = [_round(sides, queries, backwards=number % 2 == 1) for number in range(NUM_ROUNDS)]
            yield from _added(rounds)
            yield coverage(there, uri, queries)
        here.close()
        yield canaries(uri)


def _added(rounds: list[Mapping[str, float]]) -> Iterator[Result]:
    """Median milliseconds of each side over those of one index, round by round."""
    medians = {name: statistics.median(measured[name] for measured in rounds) for name in rounds[0]}
    note = (
        f"{NUM_ITEMS:,} vectors of {DIMENSION}, flat, {NUM_SHARDS} shards, FAISS on one thread a shard; p50 "
        + ", ".join(f"{name} {value:.2f} ms" for name, value in medians.items())
    )
    null = [measured["one index again"] / measured["one index"] for measured in rounds]
    for id, side, limit in (("I1-latency", "shards", 1.0), ("I1-actors", "actors", 3.0)):
        yield judge(
            id,
            [measured[side] - measured["one index"] for measured in rounds],
            goal=f"{side} add at most {limit:g} ms to the p50 of one index, batch 1",
            command=COMMAND,
            at_most=limit,
            null=null,
            note=note,
            sides={name: [measured[name] for measured in rounds] for name in rounds[0]},
        )


def coverage(there: ActorGallery, uri: str, queries: np.ndarray) -> Result:
    """An actor killed again and again under searches: share of answers that were whole, refused by name, or flagged and right.

    One that is none of these, a short answer that does not say so, makes the goal missed.
    """
    import ray

    shards = [IndexShard.open(uri, number) for number in range(NUM_SHARDS)]
    sizes = [len(shard) for shard in shards]
    seen = {"whole": 0, "flagged": 0, "refused": 0, "wrong": 0}
    for number, query in enumerate(queries[:100]):
        if number % 20 == 0:
            ray.kill(there.actors[number // 20 % NUM_SHARDS], no_restart=False)
        wanted = [shard.search(query[None], K) for shard in shards]
        found = there.search(query[None], K, min_coverage=0.1)
        answered = [shard for shard in range(NUM_SHARDS) if shard not in found.missing]
        right = found.hits == merge_batches([wanted[shard] for shard in answered], K)
        told = found.coverage == 1 - sum(sizes[shard] for shard in found.missing) / sum(sizes)
        seen["wrong" if not (right and told) else "flagged" if found.missing else "whole"] += 1
        try:
            right = there.search(query[None], K).hits == merge_batches(wanted, K)
            seen["whole" if right else "wrong"] += 1
        except OverloadedError:
            seen["refused"] += 1
    goal = "one shard down: answers flagged with their coverage, or refused, by config; never silently short"
    total = sum(seen.values())
    hit = seen["flagged"] + seen["refused"] > 0 and seen["wrong"] == 0
    note = ", ".join(f"{count} {name}" for name, count in seen.items()) + f" of {total} answers; 5 kills of an actor"
    return Result("R10", "met" if hit else "missed", seen["wrong"] / total, None, goal, COMMAND, note=note)


def canaries(uri: str) -> Result:
    """Seconds that the check of one shard's canaries takes, beside those that opening the shard takes."""
    begin = time.perf_counter()
    shard = IndexShard.open(uri, 0)
    opened_s = time.perf_counter() - begin
    runs = []
    for _ in range(NUM_ROUNDS):
        begin = time.perf_counter()
        shard.check()
        runs.append(time.perf_counter() - begin)
    goal = "canaries checked at load and each minute, at most 1 % of a minute"
    note = f"seconds a check of a shard of {len(shard):,} items; opening it, the check included, took {opened_s:.2f} s"
    return judge("R9-cost", runs, goal=goal, command=COMMAND, at_most=0.6, note=note)


def _round(sides: Mapping[str, Search], queries: np.ndarray, *, backwards: bool) -> dict[str, float]:
    """Median milliseconds by side. Sides take turns query by query, so that a busy moment hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides.items())
    for query in queries:
        for name, search in reversed(order) if backwards else order:
            times[name].append(_ms(partial(search, query[None])))
    return {name: statistics.median(values) for name, values in times.items()}


def _median_ms(search: Search, queries: np.ndarray) -> float:
    return statistics.median(_ms(partial(search, query[None])) for query in queries)


def _ms(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begin)


def _unit(rows_ND: np.ndarray) -> np.ndarray:
    return (rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)).astype(np.float32)
