"""A gallery that changes while it is searched: how soon changes are found, what churn and compaction cost, and one of a million items."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator

import faiss
import numpy as np
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter

from tests.benchmarks import gallery_compaction, gallery_million
from tests.benchmarks.gallery_setup import COMMAND, DIMENSION, K, make_gallery, put
from tests.benchmarks.harness import Result

POLL_S = 0.25


def measure() -> Iterator[Result]:
    """Goal I8, and the gallery of a million items."""
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        uri, rng = make_gallery(folder, 50_000), np.random.default_rng(1)
        yield visibility(uri, rng)
        yield churn(uri, rng)
    for part in (gallery_compaction, gallery_million):
        yield from part.measure()


def visibility(uri: str, rng: np.random.Generator) -> Result:
    """Seconds from the acknowledgement of an upsert until a polling reader answers from it, 99th percentile of 300."""
    reader = LiveGallery.open(uri)
    reader.follow(poll_s=POLL_S)
    waits = []
    with GalleryWriter.open(uri, "bench") as writer:
        for number in range(300):
            version = put(writer, 10**8 + number, 1, rng)
            begin = time.perf_counter()
            while reader.version < version:
                time.sleep(0.001)
            waits.append(time.perf_counter() - begin)
            time.sleep(rng.uniform(0.0, 0.05))  # not in step with the poll
    reader.close()
    p99 = statistics.quantiles(waits, n=100)[98]
    goal = f"upsert visible <= 1 s p99 (polling every {POLL_S:g} s)"
    return Result("I8-visible", "met" if p99 <= 1.0 else "missed", p99, None, goal, COMMAND, runs=tuple(waits))


def churn(uri: str, rng: np.random.Generator) -> Result:
    """Recall@10 lost after half of the items were replaced by others, against a scan of the live vectors."""
    reader = LiveGallery.open(uri)
    half = reader.num_items // 2
    with GalleryWriter.open(uri, "bench") as writer:
        for start in range(0, half, 5000):
            writer.delete([f"item-{n:04d}" for n in range(start, min(half, start + 5000))])
            put(writer, 10**9 + start, min(5000, half - start), rng)
    reader.refresh()
    view = reader.view
    base = [view.shards[shard]._vectors_ND[~dead_N] for shard, dead_N in view.dead.items()]
    ids = [
        view.shards[shard].items.item_id(row)
        for shard, dead_N in view.dead.items()
        for row in np.flatnonzero(~dead_N).tolist()
    ]
    vectors_ND = np.concatenate([*base, view.segment.vectors_ND[view.segment.alive_N]])
    ids += [view.segment.items[row].item_id for row in np.flatnonzero(view.segment.alive_N).tolist()]
    queries_BD = rng.standard_normal((500, DIMENSION)).astype(np.float32)
    best_BK = np.argsort(-(queries_BD @ vectors_ND.T), axis=1)[:, :K]
    found = reader.search(queries_BD, K)
    kept = [
        len({hit.item_id for hit in hits} & {ids[row] for row in rows}) / K
        for hits, rows in zip(found, best_BK, strict=True)
    ]
    lost = 100 * (1 - statistics.mean(kept))
    reader.close()
    goal = "recall@10 falls <= 0.5 point after 50 % churn"
    return Result("I8-churn", "met" if lost <= 0.5 else "missed", lost, None, goal, COMMAND)
