"""``kind=auto``: the fastest kind of index and search parameters within budgets, measured with queries of the model.

Every kind that keeps ``max_bytes`` is built once over the rows of the largest shard, or a seeded sample of them, and asked with one half
of the model's query vectors, one query at a time in one thread, looking further and further until it finds enough. What was measured is
kept with the index. Times are those of the machine: another one may choose otherwise, and a finished index is never chosen anew.

Shape suffixes: Q queries, M items of a shard, N pictures of the gallery, d retrieval dimension.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chatsearch.errors import ConfigError
from chatsearch.index.approximate import MIN_ROWS, default_parameters, num_lists, sample_rows
from chatsearch.index.config import IndexConfig
from chatsearch.index.exhaustive import limited_threads
from chatsearch.index.features import FeatureStore
from chatsearch.index.kind_bytes import index_bytes
from chatsearch.index.projection import Projection
from chatsearch.index.query_vectors import QueryVectors
from chatsearch.index.raw_features import RawFeatures
from chatsearch.index.search_parameters import TAKEN, SearchParameters
from chatsearch.index.shard_work import Method
from chatsearch.index.shares import picture_rows, project_rows
from chatsearch.index.trial import Clock, K, Trial, TrialRows, recall
from chatsearch.index.vectors import Float32, Float64
from chatsearch.tracking.machine import this_machine
from chatsearch.types import GalleryItem

MIN_QUERIES = 100
"""Fewer say too little about a recall of 0.95: its error would be two points."""
MAX_QUERIES = 500
RERANKED: Mapping[str, tuple[int, ...]] = {
    "": (10, 20, 40, 80, 160),
    "nprobe": (20, 100, 400),
    "ef_search": (10,),
}
"""Candidates whose exact scores decide, by what else a kind is told; the vectors of a graph are exact already."""
FIRST_REACH = {"nprobe": 1, "ef_search": 16}
_BISECTIONS = 2
"""Between the last reach that finds too little and the first that finds enough."""
_NEARLY_ALL = 0.995
"""A recall beyond which the curve is not followed."""
_ONE_SIDED = 1.645
"""Standard errors below the mean that 95 of 100 means of as many queries lie above."""
_SEED = 0


@dataclass(frozen=True)
class Measured:
    """One kind with one setting of its search: a point of the curve."""

    kind: str
    search: dict[str, int]
    num_bytes: int
    """Of the FAISS files of all shards."""
    bytes_each: float
    """The same by vector."""
    recall: float
    recall_low: float
    """Lower end of its interval: the choice goes by this, so that it holds for other queries too."""
    p50_ms: float
    p95_ms: float
    growth: float = 1.0
    """How many times as long a search takes in a whole shard, where a sample of it was searched."""

    def describe(self) -> str:
        """In words."""
        said = " ".join(f"{name}={value}" for name, value in self.search.items())
        return f"{self.kind} {said}".strip()


def open_queries(config: IndexConfig, projection: Projection | RawFeatures) -> QueryVectors | None:
    """The query vectors that a configuration chooses by; None where it names its kind itself.

    Raises:
        ConfigError: it has none to choose by, with the command that makes them.
        ArtefactError: they are not finished, damaged, or another model's.
    """
    if config.kind != "auto":
        return None
    assert isinstance(projection, Projection), "IndexConfig refuses raw features with kind=auto"
    if not config.queries:
        raise ConfigError(
            "kind=auto chooses by query vectors of the model; queries is not set. Make them: python -m jobs.queries --set "
            f"data=DOCUMENT_SHARDS --set model={config.model} --set output=QUERIES, then --set queries=QUERIES."
        )
    queries = QueryVectors.open(config.queries)
    queries.check(projection)
    return queries


def settle(
    config: IndexConfig,
    queries: QueryVectors | None,
    shards: Sequence[Sequence[tuple[int, GalleryItem]]],
    store: FeatureStore,
    projection: Projection | RawFeatures,
    *,
    clock: Clock,
) -> tuple[Method, dict[str, Any] | None]:
    """How an index is searched, and what was measured to choose it: None where nothing was.

    Args:
        config: what to build.
        queries: of :func:`open_queries`.
        shards: items with their faiss ids, by shard.
        store: the features of the gallery.
        projection: of the model.
        clock: what searches are timed with.

    Raises:
        ConfigError: nothing keeps the budgets; the message names what each of them allowed.
        InputError: a search parameter is none of the kind's, or there are too few queries.
    """
    num_items = sum(map(len, shards))
    num_pictures = min(num_items, len(store))
    lists = min(config.num_lists, len(store)) or num_lists(num_pictures // len(shards))
    if num_pictures < MIN_ROWS:
        return Method("flat", lists, {}), None
    if queries is None:
        given = SearchParameters(**config.search.given()).over(_defaults(config.kind, lists), config.kind)
        return Method(config.kind, lists, {name: value for name, value in asdict(given).items() if value}), None
    asked_Qd = queries.vectors("tuning", at_least=MIN_QUERIES)[:MAX_QUERIES]
    counts, dimension = [len(members) for members in shards], projection.dimension
    sizes = {kind: index_bytes(kind, counts, dimension, lists) for kind in TAKEN}
    kept = [kind for kind in TAKEN if not config.max_bytes or sizes[kind] <= config.max_bytes]
    if not kept:
        least = min(sizes, key=lambda kind: sizes[kind])
        raise ConfigError(
            f"max_bytes={config.max_bytes} allows no kind of index for {num_items} items of {dimension} numbers; the smallest, "
            f"{least}, takes {sizes[least]} bytes. Raise max_bytes to that, or to 0 for no limit."
        )
    rows = _rows(max(shards, key=len), config.tuning_rows, lists, store, projection)
    curve = [
        _measured(point, sizes[point.kind], num_items, len(rows.members), max(counts))
        for point in _sweep(kept, rows, asked_Qd, config.min_recall, clock)
    ]
    best = choose(curve, min_recall=config.min_recall, p95_ms=config.p95_ms)
    if best is None:
        raise ConfigError(_refusal(config, curve, {kind: sizes[kind] for kind in TAKEN if kind not in kept}))
    tuning = {
        "queries": queries.uri,
        "queries_fingerprint": queries.fingerprint,
        "num_queries": len(asked_Qd),
        "k": K,
        "rows": len(rows.members),
        "rows_per_shard": max(counts),
        "lists": lists,
        "left_out": {kind: sizes[kind] for kind in TAKEN if kind not in kept},
        "curve": [asdict(point) for point in curve],
        "machine": this_machine(),
    }
    return Method(best.kind, lists, best.search), tuning


def choose(curve: Sequence[Measured], *, min_recall: float, p95_ms: float = 0.0) -> Measured | None:
    """The fastest point by median time, of equal ones the smallest, that keeps the budgets; None where none does."""
    kept = [p for p in curve if p.recall_low >= min_recall and (not p95_ms or _p95(p) <= p95_ms)]
    return min(kept, key=lambda p: (p.p50_ms * p.growth, p.num_bytes), default=None)


def as_chosen(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What builds the like of a chosen index, whose facts these are, without choosing anew."""
    lists = facts["tuning"]["lists"] if "nprobe" in facts["search"] else 0  # so many that nprobe means the same
    return {"kind": facts["kind"], "num_lists": lists, "search": facts["search"]}


@dataclass
class _Point:
    """A setting that is being measured."""

    kind: str
    search: dict[str, int]
    recall_Q: Float64
    seconds_Q: Float64

    @property
    def recall_low(self) -> float:
        mean, spread = float(self.recall_Q.mean()), float(self.recall_Q.std())
        return mean - _ONE_SIDED * spread / math.sqrt(len(self.recall_Q))


_Ask = Callable[[dict[str, int]], _Point]
"""Everything asked with some search parameters."""


def _defaults(kind: str, lists: int) -> dict[str, int]:
    return {} if kind == "flat" else default_parameters(kind, lists)


def _rows(
    members: Sequence[tuple[int, GalleryItem]],
    most: int,
    lists: int,
    store: FeatureStore,
    projection: Projection | RawFeatures,
) -> TrialRows:
    if len(members) > most:
        drawn = np.sort(np.random.default_rng(_SEED).choice(len(members), most, replace=False))
        members = [members[row] for row in drawn]
    rows_M = picture_rows(members, store)
    vectors_Td = project_rows(store, projection, np.concatenate([rows_M, sample_rows(len(store), lists)]))
    return TrialRows(members, vectors_Td[: len(members)], vectors_Td[len(members) :], lists)


def _sweep(kinds: Sequence[str], rows: TrialRows, queries_Qd: Float32, min_recall: float, clock: Clock) -> list[_Point]:
    """All settings of all kinds, each asked everything twice; of each query the shorter time counts, so that a hiccup does not."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chatsearch-tuning-")))
        trials = {kind: Trial(kind, rows, str(folder / kind)) for kind in dict.fromkeys(["flat", *kinds])}
        stack.enter_context(limited_threads(1))
        num = min(K, len(rows.members))
        exact, _ = trials["flat"].ask(queries_Qd, {}, clock)
        least_Q = np.array([scores[num - 1] for scores in exact])

        def ask(kind: str, search: dict[str, int]) -> _Point:
            found, seconds_Q = trials[kind].ask(queries_Qd, search, clock)
            return _Point(kind, search, recall(found, least_Q, num), seconds_Q)

        points: list[_Point] = []
        for kind in kinds:
            points += _walk(kind, rows, min_recall, partial(ask, kind))
        for point in reversed(points):  # the other way round: no kind always has the quieter minute
            _, seconds_Q = trials[point.kind].ask(queries_Qd, point.search, clock)
            point.seconds_Q = np.minimum(point.seconds_Q, seconds_Q)
    return points


def _walk(kind: str, rows: TrialRows, min_recall: float, ask: _Ask) -> Iterator[_Point]:
    """The settings of one kind, from the shortest look on."""
    reach = next((name for name in TAKEN[kind] if name != "num_reranked"), "")
    if not TAKEN[kind]:
        yield ask({})
        return
    limit = rows.lists if reach == "nprobe" else len(rows.members)
    for num in RERANKED[reach]:
        if reach:
            yield from _further(reach, limit, {"num_reranked": num}, min_recall, ask)
            continue
        point = ask({"num_reranked": num})
        yield point
        if point.recall_low >= min_recall:
            return


def _further(reach: str, limit: int, fixed: dict[str, int], min_recall: float, ask: _Ask) -> Iterator[_Point]:
    """Twice as far each time until nearly all is found or nothing more is, then by halves to where enough is."""
    below, enough = 0, 0
    at, before = min(FIRST_REACH[reach], limit), -1.0
    while True:
        point = ask({reach: at, **fixed})
        yield point
        found = float(point.recall_Q.mean())
        if not enough:
            below, enough = (below, at) if point.recall_low >= min_recall else (at, 0)
        if at == limit or found <= before or (enough and found >= _NEARLY_ALL):
            break
        at, before = min(2 * at, limit), found
    for _ in range(_BISECTIONS if enough else 0):
        middle = (below + enough) // 2
        if middle == below:
            return
        point = ask({reach: middle, **fixed})
        yield point
        below, enough = (below, middle) if point.recall_low >= min_recall else (middle, enough)


def _measured(point: _Point, num_bytes: int, num_items: int, num_rows: int, rows_per_shard: int) -> Measured:
    p50, p95 = np.percentile(point.seconds_Q, [50, 95])
    growth = rows_per_shard / num_rows
    if growth > 1 and "ef_search" in point.search:  # a walk through a graph grows with the logarithm of its size
        growth = math.log(rows_per_shard) / math.log(num_rows)
    return Measured(
        point.kind,
        point.search,
        num_bytes,
        num_bytes / num_items,
        float(point.recall_Q.mean()),
        point.recall_low,
        round(1000 * float(p50), 3),
        round(1000 * float(p95), 3),
        growth,
    )


def _refusal(config: IndexConfig, curve: Sequence[Measured], left_out: Mapping[str, int]) -> str:
    """What each budget allowed, and what to relax."""
    kinds = ", ".join(dict.fromkeys(point.kind for point in curve))
    limit = f"max_bytes={config.max_bytes}" + ("" if config.max_bytes else " (no limit)")
    said = [f"Nothing keeps {limit}, p95_ms={config.p95_ms:g} and min_recall={config.min_recall:g} together."]
    said.append(f"max_bytes allows {kinds}" + (f", not {', '.join(left_out)}." if left_out else "."))
    enough = [point for point in curve if point.recall_low >= config.min_recall]
    quick = [point for point in curve if not config.p95_ms or _p95(point) <= config.p95_ms]
    quickest, ways = min(enough or curve, key=_p95), []
    if enough:
        said.append(f"min_recall takes a p95 of {_p95(quickest):.3g} ms at least ({quickest.describe()}).")
        ways.append(f"p95_ms to {_up(_p95(quickest))}")
    else:
        said.append("None of them reaches min_recall.")
    if quick:
        best = max(quick, key=lambda point: point.recall_low)
        said.append(
            f"p95_ms allows a recall of {best.recall:.3f}, at its low end {best.recall_low:.3f} ({best.describe()})."
        )
        ways.append(f"min_recall to {_down(best.recall_low)}")
    else:
        said.append(f"None of them keeps p95_ms; {quickest.describe()} comes nearest with {_p95(quickest):.3g} ms.")
    if not ways:
        ways.append(f"p95_ms to {_up(_p95(quickest))} together with min_recall to {_down(quickest.recall_low)}")
    if left_out:
        next_kind = min(left_out, key=lambda kind: left_out[kind])
        ways.append(f"max_bytes to {left_out[next_kind]}, for {next_kind}")
    return f"{' '.join(said)} Relax {', or '.join(ways)}."


def _p95(point: Measured) -> float:
    """Milliseconds in a whole shard."""
    return point.p95_ms * point.growth


def _down(share: float) -> str:
    return f"{math.floor(1000 * share) / 1000:g}"


def _up(milliseconds: float) -> str:
    """Rounded up to two digits, so that what is named is enough."""
    unit = 10.0 ** (math.floor(math.log10(max(milliseconds, 1e-3))) - 1)
    return f"{math.ceil(milliseconds / unit) * unit:.6g}"
