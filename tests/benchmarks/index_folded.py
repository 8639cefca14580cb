"""One index over raw features for several models, beside the index of one model: recall and rate. No goal is set for it.

Synthetic: clustered features of 1,280 numbers as EfficientNet-Lite0 gives them, a random M_Q to 256. ``BENCH_ITEMS``, ``BENCH_ROUNDS``
make it shorter for a trial; ``BENCH_PHOTO_FEATURES`` and ``BENCH_PHOTO_MODEL`` name a feature store and a bundle to take instead.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from chatsearch.index.build import build_index
from chatsearch.index.config import FoldConfig, IndexConfig
from chatsearch.index.features import FeatureStore
from chatsearch.index.fold import build_norms
from chatsearch.index.folded import FoldedGallery
from chatsearch.index.gallery import GalleryIndex
from chatsearch.index.projection import Projection
from chatsearch.index.search_parameters import SearchParameters
from chatsearch.index.vectors import Float32
from chatsearch.types import Hit

from tests.benchmarks.harness import Result, report, seconds, take_turns
from tests.benchmarks.index_galleries import COMMAND
from tests.benchmarks.index_kinds import around, recall_of, unit
from tests.unit.index.synthetic import write_bundle, write_store

NUM_ITEMS = int(os.environ.get("BENCH_ITEMS", "50000"))
NUM_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
WIDTH, DIMENSION, NUM_CENTRES = 1280, 256, 500
NUM_QUERIES = 100
K = 10
KIND = "ivf-pq"
FAR = SearchParameters(nprobe=64, num_reranked=400)
PROPOSED = (10, 50, 200)
"""Items that the raw index proposes a query."""

Answer = Callable[[Float32], list[Hit]]


def measure() -> Iterator[Result]:
    """Folded searches, exact and from proposals, beside an index of the model."""
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        features, model, source = _inputs(Path(folder))
        store = FeatureStore.open(features)
        norms = build_norms(FoldConfig(features=features, model=model, output=f"{folder}/norms"))
        own = GalleryIndex(build_index(IndexConfig(features=features, model=model, output=f"{folder}/own", kind=KIND)))
        raw = GalleryIndex(build_index(IndexConfig(features=features, raw=True, output=f"{folder}/raw", kind=KIND)))
        exact = FoldedGallery.open(norms.uri, store=store)
        proposed = FoldedGallery.open(norms.uri, store=store, proposals=raw)
        answers: dict[str, Answer] = {
            "index of the model": lambda query_D: own.search(query_D[None], K, parameters=FAR)[0],
            "folded, exact": lambda query_D: exact.search(query_D[None], K)[0],
        }
        for num in PROPOSED:
            answers[f"folded, {num} proposed"] = partial(_proposed, proposed, num)
        queries = _queries(store, Projection.open(model))
        wanted = [answers["folded, exact"](query) for query in queries]
        recalls = {name: recall_of([answer(query) for query in queries], wanted) for name, answer in answers.items()}
        few = queries[:20]
        sides = {name: partial(_rate, answer, few) for name, answer in answers.items()}
        rounds = take_turns(sides, NUM_ROUNDS)
    medians = {name: float(np.median(values)) for name, values in rounds.values.items()}
    said = "; ".join(f"{name}: recall@{K} {recalls[name]:.3f}, {medians[name]:.0f} a second" for name in answers)
    yield report(
        "folded",
        rounds.ratios(f"folded, {PROPOSED[-1]} proposed", "index of the model"),
        goal="queries a second of a folded search with proposals from raw features over those of the model's own index",
        command=COMMAND,
        null=rounds.null,
        note=f"{source}; {KIND} with nprobe {FAR.nprobe}, {FAR.num_reranked} ranked again; one query at a time, one thread; {said}",
        sides=rounds.values,
    )


def _inputs(root: Path) -> tuple[str, str, str]:
    """Features, model, and what they are."""
    given = os.environ.get("BENCH_PHOTO_FEATURES"), os.environ.get("BENCH_PHOTO_MODEL")
    if given[0] and given[1]:
        return given[0], given[1], f"features {given[0]}, model {given[1]}"
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((NUM_CENTRES, WIDTH)))
    write_store(str(root / "features"), around(centres, NUM_ITEMS, rng), num_parts=16)
    write_bundle(str(root / "model"), rng.standard_normal((DIMENSION, WIDTH)).astype(np.float32))
    return (
        str(root / "features"),
        str(root / "model"),
        f"{NUM_ITEMS:,} synthetic vectors of {WIDTH}, M_Q random to {DIMENSION}",
    )


def _queries(store: FeatureStore, projection: Projection) -> Float32:
    """Near projections of pictures, which the queries of a trained model are too."""
    rng = np.random.default_rng(1)
    rows_Nd = projection.apply(store.matrix_ND[rng.choice(len(store), min(NUM_QUERIES, len(store)), replace=False)])
    return unit(rows_Nd + unit(rng.standard_normal(rows_Nd.shape)))


def _proposed(gallery: FoldedGallery, num: int, query_D: Float32) -> list[Hit]:
    return gallery.search(query_D[None], K, parameters=FAR, num_proposed=num)[0]


def _rate(answer: Answer, queries_QD: Float32) -> float:
    """Queries a second."""
    return len(queries_QD) / seconds(lambda: [answer(query) for query in queries_QD])
