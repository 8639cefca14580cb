"""Goal I5: bytes a vector, recall and queries a second of each kind of index beside flat, over synthetic clusters.

Vectors are drawn around 2,000 centres, queries around the same ones: called synthetic, since how lists and codes fare
depends on the data. All kinds hold one gallery in one shard, are asked one query at a time in one thread, and take turns.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.search_parameters import TAKEN, SearchParameters
from chatsearch.index.shard import index_name
from chatsearch.index.vectors import Float32
from chatsearch.types import Hit

from tests.benchmarks.harness import Result, Rounds, judge, seconds, take_turns
from tests.benchmarks.index_galleries import COMMAND
from tests.unit.index.synthetic import write_bundle, write_store

NUM_ITEMS = int(os.environ.get("BENCH_ITEMS", "200000"))
DIMENSION = 256
NUM_CENTRES = 2000
SPREAD = 0.8
"""Length of the deviation from a centre of length 1."""
NUM_QUERIES = 300
NUM_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
K = 10
TRIED = {
    "fp16": [{"num_reranked": 20}],
    "sq8": [{"num_reranked": 40}],
    "ivf-pq": [{"nprobe": n, "num_reranked": m} for n, m in ((16, 100), (32, 200), (64, 400))],
    "ivf-opq": [{"nprobe": n, "num_reranked": m} for n, m in ((16, 100), (32, 200), (64, 400))],
    "ivf-rabitq": [{"nprobe": n, "num_reranked": m} for n, m in ((16, 50), (32, 100), (64, 200))],
    "hnsw": [{"ef_search": ef, "num_reranked": 20} for ef in (32, 64, 128)],
}


def measure() -> Iterator[Result]:
    """I5, judged by the fastest setting of each kind that reaches the recall at the bytes."""
    assert set(TRIED) == set(TAKEN) - {"flat"}
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((NUM_CENTRES, DIMENSION)))
    queries = around(centres, NUM_QUERIES, rng)
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_store(str(root / "features"), around(centres, NUM_ITEMS, rng))
        write_bundle(str(root / "model"), np.eye(DIMENSION, dtype=np.float32))
        indices, built = {}, {}
        for kind in TAKEN:
            config = IndexConfig(
                features=str(root / "features"), model=str(root / "model"), output=str(root / kind), kind=kind
            )
            built[kind] = seconds(partial(build_index, config))
            indices[kind] = GalleryIndex.open(str(root / kind))
        wanted = [_answer(indices["flat"], query, None) for query in queries]
        sides: dict[str, Callable[[], float]] = {"flat": partial(_rate, indices["flat"], queries[:50], None)}
        recalls, bytes_each = {"flat": 1.0}, {}
        for kind, settings in TRIED.items():
            size = indices[kind].artefact.manifest.files[index_name(0)].num_bytes
            for said in settings:
                name = f"{kind} {' '.join(f'{key}={value}' for key, value in said.items())}"
                parameters = SearchParameters(**said)
                found = [_answer(indices[kind], query, parameters) for query in queries]
                recalls[name] = recall_of(found, wanted)
                bytes_each[name] = size / NUM_ITEMS
                sides[name] = partial(_rate, indices[kind], queries, parameters)
        rounds = take_turns(sides, NUM_ROUNDS)
    yield from _results(rounds, recalls, bytes_each, built)


def _results(
    rounds: Rounds, recalls: dict[str, float], bytes_each: dict[str, float], built: dict[str, float]
) -> Iterator[Result]:
    medians = {name: float(np.median(values)) for name, values in rounds.values.items()}
    small = [name for name in bytes_each if bytes_each[name] * 8 <= 4 * DIMENSION and recalls[name] >= 0.98]
    table = "; ".join(
        f"{name}: recall@{K} {recalls[name]:.3f}, {medians[name]:.0f} a second"
        + (f", {bytes_each[name]:.0f} bytes" if name in bytes_each else "")
        for name in medians
    )
    builds = ", ".join(f"{kind} {took:.0f} s" for kind, took in built.items())
    goal = "8x fewer bytes a vector at recall@10 >= 0.98 after re-rank, QPS >= 5x flat"
    note = (
        f"{NUM_ITEMS:,} synthetic vectors of {DIMENSION}, one query at a time, one thread; {table}; built in {builds}"
    )
    if not small:
        yield Result("I5", "missed", None, None, goal, COMMAND, note=f"no setting keeps bytes and recall; {note}")
        return
    best = max(small, key=lambda name: medians[name])
    ratios = rounds.ratios(best, "flat")
    yield judge(
        "I5",
        ratios,
        goal=goal,
        command=COMMAND,
        at_least=5.0,
        null=rounds.null,
        note=f"{best}; {note}",
        sides=rounds.values,
    )


def unit(rows_ND: np.ndarray) -> Float32:
    """Rows of length 1."""
    return (rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)).astype(np.float32)


def around(centres: Float32, number: int, rng: np.random.Generator, spread: float = SPREAD) -> Float32:
    """Unit vectors around centres drawn for each."""
    blocks = []
    for start, stop in pairwise([*range(0, number, 50_000), number]):
        chosen = centres[rng.integers(len(centres), size=stop - start)]
        blocks.append(unit(chosen + spread * unit(rng.standard_normal(chosen.shape))))
    return np.concatenate(blocks)


def _answer(index: GalleryIndex, query_D: Float32, parameters: SearchParameters | None) -> list[Hit]:
    return index.search(query_D[None], K, parameters=parameters)[0]


def recall_of(found: list[list[Hit]], wanted: list[list[Hit]]) -> float:
    """Share of the wanted hits that were found."""
    pairs = zip(found, wanted, strict=True)
    return float(np.mean([len({h.item_id for h in a} & {h.item_id for h in b}) / K for a, b in pairs]))


def _rate(index: GalleryIndex, queries_QD: Float32, parameters: SearchParameters | None) -> float:
    """Queries a second."""
    return len(queries_QD) / seconds(lambda: [_answer(index, query, parameters) for query in queries_QD])
