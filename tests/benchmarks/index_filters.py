"""Goal I7: searches under filters that 1 %, 10 % and 50 % of the items pass, beside plain FAISS with an IDSelector.

The vectors are those of :mod:`tests.benchmarks.index_kinds`, called synthetic; who passes is drawn without looking at them. Ours is a
gallery of kind ``ivf-pq`` whose filter asks for metadata, evaluated in the first search and remembered. FAISS knows no metadata: its
selectors are made beforehand and are not timed. Every side looks into as few lists as reach the recall on queries made for that; one
that does not reach it in all its lists takes no part. Ours answers with items, FAISS with row numbers.

    ours                                 scores all that pass where they are few, else FAISS proposes under a selector
    ours, the other way                  the other of these two, where that does not take too long
    IDSelectorBitmap, IDSelectorBatch    the float32 rows in as many inverted lists as ours has
    same file                            the FAISS file of ours, re-ranked by the vectors (IndexRefineFlat), IDSelectorBitmap
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import faiss
import numpy as np
from chatsearch.index import shard
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.filters import Between, Filter, OneOf
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.selection import SCANNED_NUMBERS
from chatsearch.index.shard import IndexShard, index_name
from chatsearch.index.vectors import Float32
from chatsearch.types import GalleryItem

from tests.benchmarks.harness import Result, judge, seconds, take_turns
from tests.benchmarks.index_galleries import COMMAND
from tests.benchmarks.index_kinds import DIMENSION, NUM_CENTRES, around, unit
from tests.unit.index.synthetic import picture_hash, write_bundle, write_store

NUM_ITEMS = int(os.environ.get("BENCH_ITEMS", "100000"))
NUM_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
NUM_TUNING = 128
NUM_QUERIES = 512
RECALL = 0.90
K = 10
NUM_RERANKED = 40
BATCHES = (1, 64)
PROBES = (2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536)
FILTERS: Mapping[str, Filter] = {
    "1 %": OneOf("percent", ("7",)),
    "10 %": Between("percent", at_least=10, below=20),
    "50 %": OneOf("half", ("1",)),
}
_FAISS: Any = faiss

Search = Callable[[Float32], Any]
"""Hits, or row numbers, of each query of a batch."""


@dataclass(frozen=True)
class _Sides:
    """All searchers over the same rows."""

    gallery: GalleryIndex
    lists: Any
    refined: Any
    rows_ND: Float32
    """In the order of the gallery's rows."""

    def all(self, filter: Filter, mask_N: np.ndarray) -> dict[str, Callable[[int], Search]]:
        """By name, how each searches when it looks into some number of lists."""
        bits = np.packbits(mask_N, bitorder="little")
        bitmap, batch = _FAISS.IDSelectorBitmap(bits), _FAISS.IDSelectorBatch(np.flatnonzero(mask_N))

        def ours(nprobe: int) -> Search:
            parameters = SearchParameters(nprobe=nprobe, num_reranked=NUM_RERANKED)
            return lambda queries: self.gallery.search(queries, K, parameters=parameters, filter=filter)

        def theirs(selector: Any, nprobe: int) -> Search:
            said = _FAISS.SearchParametersIVF(sel=selector, nprobe=nprobe)
            return lambda queries: self.lists.search(queries, K, params=said)[1]

        def same_file(nprobe: int) -> Search:
            said = _FAISS.IndexRefineSearchParameters(
                k_factor=NUM_RERANKED / K, base_index_params=_FAISS.SearchParametersIVF(sel=bitmap, nprobe=nprobe)
            )
            return lambda queries: self.refined.search(queries, K, params=said)[1]

        made = {
            "ours": ours,
            "IDSelectorBitmap": partial(theirs, bitmap),
            "IDSelectorBatch": partial(theirs, batch),
            "same file": same_file,
        }
        if len(mask_N) >= 5 * (num_passing := np.count_nonzero(mask_N)):
            few = num_passing * DIMENSION <= SCANNED_NUMBERS

            def other_way(nprobe: int) -> Search:
                search = ours(nprobe)

                def patched(queries: Float32) -> Any:
                    with mock.patch.object(shard, "SCANNED_NUMBERS", 0 if few else math.inf):
                        return search(queries)

                return patched

            made["ours, the other way"] = other_way
        return made


@dataclass(frozen=True)
class _Tuned:
    nprobe: int
    recall: float
    search: Search


def measure() -> Iterator[Result]:
    """I7 for each filter, one query at a time and in batches, in one thread; judged by the fastest side of FAISS."""
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((NUM_CENTRES, DIMENSION)))
    queries, tuning = around(centres, NUM_QUERIES, rng), around(centres, NUM_TUNING, rng)
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        gallery = _gallery(Path(folder), around(centres, NUM_ITEMS, rng), rng)
        rows_ND = np.load(gallery.artefact.folder.path("shards/vectors-00000.npy"))
        file = faiss.read_index(gallery.artefact.folder.path(index_name(0)))
        lists = _FAISS.index_factory(DIMENSION, f"IVF{file.nlist},Flat", faiss.METRIC_INNER_PRODUCT)
        lists.train(rows_ND)
        lists.add(rows_ND)
        sides = _Sides(gallery, lists, _FAISS.IndexRefineFlat(file, faiss.swig_ptr(rows_ND)), rows_ND)
        columns = IndexShard.open(gallery.artefact, 0).items.columns()
        for share, filter in FILTERS.items():
            first, again = (1000 * seconds(partial(filter.mask_N, columns)) for _ in range(2))
            mask_N = filter.mask_N(columns)
            note = (
                f"{NUM_ITEMS:,} synthetic vectors of {DIMENSION}, {np.count_nonzero(mask_N):,} pass, one thread; ours scores all that pass "
                f"up to {SCANNED_NUMBERS // DIMENSION:,}, and evaluates the filter in {first:.1f} ms, with its column decoded in {again:.2f} ms"
            )
            tuned = _tune(sides, filter, mask_N, tuning)
            for batch in BATCHES:
                goal = f"filtered search >= 5x FAISS IDSelector QPS at recall {RECALL:.2f}: {share} pass, {batch} queries at a time"
                yield _compare(tuned, [*np.split(queries, len(queries) // batch)], goal, note)


def _gallery(root: Path, rows_ND: Float32, rng: np.random.Generator) -> GalleryIndex:
    items = [
        GalleryItem(f"item-{row:07d}", picture_hash(row), {"percent": str(n % 100), "half": str(n // 100 % 2)})
        for row, n in enumerate(rng.permutation(len(rows_ND)).tolist())
    ]
    write_store(str(root / "features"), rows_ND, items)
    write_bundle(str(root / "model"), np.eye(DIMENSION, dtype=np.float32))
    config = IndexConfig(
        features=str(root / "features"), model=str(root / "model"), output=str(root / "index"), kind="ivf-pq"
    )
    return GalleryIndex(build_index(config))


def _tune(sides: _Sides, filter: Filter, mask_N: np.ndarray, tuning: Float32) -> dict[str, _Tuned]:
    """The sides that reach the recall, each looking into as few lists as that takes."""
    passing = np.flatnonzero(mask_N)
    best = np.argpartition(-(tuning @ sides.rows_ND[passing].T), K, axis=1)[:, :K]
    wanted = [set(passing[row].tolist()) for row in best]
    row_of = {item.item_id: row for row, item in enumerate(IndexShard.open(sides.gallery.artefact, 0).items)}
    tuned = {}
    for name, make in sides.all(filter, mask_N).items():
        for nprobe in (*(n for n in PROBES if n < sides.lists.nlist), sides.lists.nlist):
            search = make(nprobe)
            found = search(tuning)
            rows = [
                {row_of[h.item_id] for h in hits} if name.startswith("ours") else set(hits.tolist()) for hits in found
            ]
            recall = float(np.mean([len(a & b) / K for a, b in zip(rows, wanted, strict=True)]))
            if recall >= RECALL:
                tuned[name] = _Tuned(nprobe, recall, search)
                break
    return tuned


def _compare(tuned: Mapping[str, _Tuned], batches: list[Float32], goal: str, note: str) -> Result:
    num_queries = sum(map(len, batches))

    def rate(search: Search) -> float:
        return num_queries / seconds(lambda: [search(batch) for batch in batches])

    for side in tuned.values():
        rate(side.search)
    rounds = take_turns({name: partial(rate, side.search) for name, side in tuned.items()}, NUM_ROUNDS)
    medians = {name: float(np.median(values)) for name, values in rounds.values.items()}
    fastest = max((name for name in medians if not name.startswith("ours")), key=lambda name: medians[name])
    table = "; ".join(
        f"{name}: nprobe {side.nprobe}, recall@{K} {side.recall:.3f}, {medians[name]:.0f} a second"
        for name, side in tuned.items()
    )
    return judge(
        "I7",
        rounds.ratios("ours", fastest),
        goal=goal,
        command=COMMAND,
        at_least=5.0,
        null=rounds.null,
        note=f"over {fastest}; {table}; {note}",
        sides=rounds.values,
    )
