"""Goal I7: searches under filters that 1 %, 10 % and 50 % of the items pass, against plain FAISS with an IDSelector.

The vectors are those of :mod:`tests.benchmarks.index_kinds`, called synthetic; who passes is drawn without looking at them. Ours is a
gallery of kind ``ivf-pq`` whose filter asks for metadata. FAISS' sides know no metadata: their selectors are made beforehand and are
not timed, while ours evaluates its filter in the first search and remembers it. Both sides look into as few lists as reach the recall
on queries of their own; a side that does not reach it in all its lists takes no part. Ours answers with items, FAISS with row numbers.

    ivf-flat bitmap, batch    the float32 rows in inverted lists, as many as ours has; IDSelectorBitmap, IDSelectorBatch
    same file                 the FAISS file of ours with the vectors beside it (IndexRefineFlat); IDSelectorBitmap
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.filters import Between, Filter, OneOf
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.shard import SCANNED_ROWS, IndexShard, index_name
from chatsearch.index.vectors import Float32
from chatsearch.types import GalleryItem

from tests.benchmarks.harness import Result, judge, seconds, take_turns
from tests.benchmarks.index_kinds import DIMENSION, NUM_CENTRES, around, unit
from tests.unit.index.synthetic import picture_hash, write_bundle, write_store

NUM_ITEMS = int(os.environ.get("BENCH_ITEMS", "100000"))
NUM_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
NUM_QUERIES = 256
NUM_TUNING = 128
"""More queries, on which sides choose how many lists they look into."""
RECALL = 0.90
K = 10
NUM_RERANKED = 40
BATCHES = (1, 64)
PROBES = (2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
FILTERS: Mapping[str, Filter] = {
    "1 %": OneOf("percent", ("7",)),
    "10 %": Between("percent", at_least=10, below=20),
    "50 %": OneOf("half", ("1",)),
}
_FAISS: Any = faiss

Search = Callable[[Float32], list[set[int]]]
"""Rows found for each query of a batch."""


@dataclass(frozen=True)
class _Side:
    """A searcher that reached the recall."""

    nprobe: int
    recall: float
    search: Callable[[Float32], object]


def filters(command: str) -> Iterator[Result]:
    """I7 for each filter, one query at a time and in batches, in one thread; judged by the fastest FAISS side."""
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((NUM_CENTRES, DIMENSION)))
    queries, tuning = around(centres, NUM_QUERIES, rng), around(centres, NUM_TUNING, rng)
    rows_ND = around(centres, NUM_ITEMS, rng)
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        gallery = _gallery(Path(folder), rows_ND, rng)
        shard = IndexShard.open(gallery.artefact, 0)
        order_N = np.array([int(item.metadata["row"]) for item in shard.items])
        same_file = faiss.read_index(gallery.artefact.folder.path(index_name(0)))
        lists = _FAISS.index_factory(DIMENSION, f"IVF{same_file.nlist},Flat", faiss.METRIC_INNER_PRODUCT)
        lists.train(rows_ND)
        lists.add(rows_ND[order_N])
        refined = _FAISS.IndexRefineFlat(same_file, faiss.swig_ptr(np.ascontiguousarray(rows_ND[order_N])))
        columns = shard.items.columns()
        first = {name: 1000 * seconds(partial(filter.mask_N, columns)) for name, filter in FILTERS.items()}
        again = {name: 1000 * seconds(partial(filter.mask_N, columns)) for name, filter in FILTERS.items()}
        for share, filter in FILTERS.items():
            mask_N = filter.mask_N(columns)
            sides = _sides(gallery, lists, refined, filter, mask_N, tuning)
            note = (
                f"{NUM_ITEMS:,} synthetic vectors of {DIMENSION}, {np.count_nonzero(mask_N):,} pass, one thread; evaluating the filter "
                f"took {first[share]:.1f} ms the first time, with the columns decoded {again[share]:.2f} ms"
            )
            for batch in BATCHES:
                yield _result(command, share, batch, sides, queries, note)


def _gallery(root: Path, rows_ND: Float32, rng: np.random.Generator) -> GalleryIndex:
    drawn = rng.permutation(len(rows_ND)).tolist()
    items = [
        GalleryItem(
            f"item-{row:07d}", picture_hash(row), {"row": str(row), "percent": str(n % 100), "half": str(n // 100 % 2)}
        )
        for row, n in enumerate(drawn)
    ]
    write_store(str(root / "features"), rows_ND, items)
    write_bundle(str(root / "model"), np.eye(DIMENSION, dtype=np.float32))
    config = IndexConfig(
        features=str(root / "features"), model=str(root / "model"), output=str(root / "index"), kind="ivf-pq"
    )
    return GalleryIndex(build_index(config))


def _sides(
    gallery: GalleryIndex, lists: Any, refined: Any, filter: Filter, mask_N: np.ndarray, tuning: Float32
) -> dict[str, _Side]:
    """The searchers that reach the recall, each looking into as few lists as it can."""
    bits = np.packbits(mask_N, bitorder="little")
    bitmap, ids = _FAISS.IDSelectorBitmap(bits), _FAISS.IDSelectorBatch(np.flatnonzero(mask_N))
    row_of = {item.item_id: row for row, item in enumerate(IndexShard.open(gallery.artefact, 0).items)}

    def ours(nprobe: int) -> Callable[[Float32], object]:
        parameters = SearchParameters(nprobe=nprobe, num_reranked=NUM_RERANKED)
        return lambda queries: gallery.search(queries, K, parameters=parameters, filter=filter)

    def theirs(index: Any, selector: Any, nprobe: int) -> Callable[[Float32], object]:
        said = _FAISS.SearchParametersIVF(sel=selector, nprobe=nprobe)
        if index is refined:
            said = _FAISS.IndexRefineSearchParameters(k_factor=NUM_RERANKED / K, base_index_params=said)
        # The parameters hold no reference to the bits that the selector reads.
        return lambda queries, _bits=bits: index.search(queries, K, params=said)[1]

    flat = GalleryIndex.search  # the oracle is ours with every row re-ranked
    everything = SearchParameters(nprobe=lists.nlist, num_reranked=NUM_ITEMS)
    wanted = [{row_of[hit.item_id] for hit in hits} for hits in flat(gallery, tuning, K, (), everything, filter=filter)]
    made: dict[str, Callable[[int], Callable[[Float32], object]]] = {
        "ours": ours,
        "ivf-flat bitmap": partial(theirs, lists, bitmap),
        "ivf-flat batch": partial(theirs, lists, ids),
        "same file": partial(theirs, refined, bitmap),
    }
    reached = {}
    for name, make in made.items():
        for nprobe in (*(n for n in PROBES if n < lists.nlist), lists.nlist):
            search = make(nprobe)
            found = search(tuning)
            rows = [
                {row_of[hit.item_id] for hit in hits} if name == "ours" else set(hits.tolist())
                for hits in found  # type: ignore[attr-defined]
            ]
            recall = float(np.mean([len(a & b) / K for a, b in zip(rows, wanted, strict=True)]))
            if recall >= RECALL:
                reached[name] = _Side(nprobe, recall, search)
                break
    return reached


def _result(
    command: str, share: str, batch: int, sides: Mapping[str, _Side], queries: Float32, note: str
) -> Result:
    def rate(side: _Side) -> float:
        parts = [queries[start : start + batch] for start in range(0, len(queries), batch)]
        return len(queries) / seconds(lambda: [side.search(part) for part in parts])

    for side in sides.values():
        rate(side)
    rounds = take_turns({name: partial(rate, side) for name, side in sides.items()}, NUM_ROUNDS)
    medians = {name: float(np.median(values)) for name, values in rounds.values.items()}
    best = max((name for name in medians if name != "ours"), key=lambda name: medians[name])
    table = "; ".join(
        f"{name}: nprobe {side.nprobe}, recall@{K} {side.recall:.3f}, {medians[name]:.0f} a second"
        for name, side in sides.items()
    )
    asked = "one query at a time" if batch == 1 else f"{batch} queries at a time"
    return judge(
        "I7",
        rounds.ratios("ours", best),
        goal=f"filtered search >= 5x FAISS IDSelector QPS at recall {RECALL:.2f}; {share} pass, {asked}",
        command=command,
        at_least=5.0,
        null=rounds.null,
        note=f"over {best}; {table}; {note}; ours scores all that pass up to {SCANNED_ROWS:,}",
        sides=rounds.values,
    )
