"""``kind=auto`` over a large gallery of scenes: beside autofaiss at the same bytes (I4), tuned on queries and on pictures (I6).

Recall counts on the test half of the model's query vectors, which tuned nothing. Sides are processes of their own, asked one query
at a time in one thread on one core, in turns; see ``index_peers`` for the protocol and ``index_scenes`` for the gallery.
``BENCH_AUTO_BYTES`` sets ``max_bytes``; ``BENCH_TURN_S`` and ``BENCH_ROUNDS`` make it shorter for a trial, which is no result then.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from chatsearch.index.auto import Measured, choose
from chatsearch.index.vectors import Float32
from chatsearch.manifest import Manifest, read_manifest

from tests.benchmarks.harness import Result, Rounds, judge, report, take_turns
from tests.benchmarks.index_curves import Point, fastest, table
from tests.benchmarks.index_engines import KEPT, Build, Opened, Side, build
from tests.benchmarks.index_peers import OURS, PEERS, REACH, ROUNDS, TURN_S, sweep
from tests.benchmarks.index_scenes import Scenes, make_scenes
from tests.benchmarks.index_sets import VectorSet

COMMAND = "make bench ONLY=index.auto"
MIN_RECALL = 0.95
STRICTER = [round(MIN_RECALL + 0.005 * step, 3) for step in range(11)]
"""Recalls that tuning is asked for, one after the other, until the test queries get :data:`MIN_RECALL`."""
WIDER = [1.25**step for step in range(10)]
"""By so much further each choice may look than it was tuned to, in favour of whatever was tuned on the wrong thing."""
MAX_BYTES = int(os.environ.get("BENCH_AUTO_BYTES", "0"))
NUM_TEST = 1000
I4 = f"recall@10 >= {MIN_RECALL} on held-out queries, QPS >= 1.2x autofaiss' choice at the same bytes"
I6 = f"QPS tuned on queries over QPS tuned on pictures, at recall@10 >= {MIN_RECALL} on held-out queries; >= 1.5 is the aim"


def measure() -> Iterator[Result]:
    """I4, then I6, from one set of turns."""
    scenes = make_scenes(KEPT)
    bench = Bench(_vector_set(scenes))
    by_queries = bench.open(_auto("ours auto", _kept_queries(scenes)))
    by_pictures = bench.open(_auto("ours auto, tuned on pictures", _kept_pictures(scenes)))
    with bench.stack:
        if isinstance(by_queries, str) or isinstance(by_pictures, str):
            for id, goal in (("I4", I4), ("I6", I6)):
                yield Result(id, "not_run", None, None, goal, COMMAND, note=f"{by_queries}; {by_pictures}")
            return
        theirs = bench.open(_autofaiss(_all_bytes(by_queries)))
        sides = [by_queries] + ([] if isinstance(theirs, str) else [theirs])
        points = sweep([built.side for built in sides], bench.opened, bench.vectors, bench.refused)
        ours = next(point for point in points if point.side is by_queries.side)
        others = [point for point in points if point.side is not by_queries.side]
        # Their fastest setting that finds enough, be it their own choice or not; where none does, what finds most.
        other = fastest(others, MIN_RECALL) or max(others, key=lambda point: point.recall, default=None)
        own = next((point for point in others if point.parameters == {"reach": 0}), None)
        tuned = {name: bench.least(built) for name, built in (("queries", by_queries), ("pictures", by_pictures))}
        turns = {point.label: point for point in (ours, other, own, *tuned.values()) if point}
        rounds = take_turns({label: bench.turn(point) for label, point in turns.items()}, ROUNDS)
        facts = {name: opened.facts for name, opened in bench.opened.items()}
        rows = table([*points, *(p for p in tuned.values() if p)], bench.builds(points, tuned), facts, bench.refused)
    yield _against_autofaiss(bench.vectors, rounds, ours, other, own, theirs=theirs, rows=rows)
    yield _by_queries_or_pictures(bench.vectors, rounds, tuned)


@dataclass(frozen=True)
class Built:
    """A side that is built, with its manifest where it is ours."""

    side: Side
    build: Build
    manifest: Manifest | None


@dataclass
class Bench:
    """Sides over one set of vectors, each open in its process until the stack is left."""

    vectors: VectorSet
    opened: dict[str, Opened] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)
    _built: dict[str, Build] = field(default_factory=dict)

    def open(self, side: Side) -> Built | str:
        """Build and open a side, or say why that cannot be."""
        try:
            made = build(side, self.vectors, KEPT)
            if side.name not in self.opened:
                self.opened[side.name] = self.stack.enter_context(Opened(side, made, self.vectors))
        except RuntimeError as error:
            self.refused[side.name] = " ".join(str(error).split())
            return f"{side.name}: {self.refused[side.name]}"
        self._built[side.name] = made
        return Built(side, made, read_manifest(str(made.folder / "index")) if side.ours else None)

    def least(self, tuned: Built) -> Point | None:
        """What tuning chooses, looking as much further as it takes to give the test queries enough.

        Where that is not to be had, the choice at a stricter recall; None where no choice gets there.
        """
        assert tuned.manifest is not None
        curve = [Measured(**point) for point in tuned.manifest.facts["tuning"]["curve"]]
        for wanted in STRICTER:
            chosen = choose(curve, min_recall=wanted)
            if chosen is None:
                return None
            side = Side(f"ours {chosen.kind}", OURS, {"kind": chosen.kind}, [chosen.search], ours=True)
            if isinstance(self.open(side), str):
                return None
            for search in further(chosen.search):
                found, rate = self.opened[side.name].answers(search, self.vectors.num_queries)
                point = Point(side, search, self.vectors.recall(found), [rate])
                if point.recall >= MIN_RECALL:
                    return point
        return None

    def turn(self, point: Point) -> _Turn:
        """A turn of a side with one setting."""
        return _Turn(self.opened[point.side.name], point)

    def builds(self, points: Sequence[Point], tuned: Mapping[str, Point | None]) -> dict[str, Build]:
        """Of the sides that these points belong to."""
        named = dict.fromkeys(point.side.name for point in (*points, *tuned.values()) if point)
        return {name: self._built[name] for name in named}


def further(search: Mapping[str, int]) -> list[dict[str, int]]:
    """The same search looking further and further, with as many candidates ranked again."""
    reach = next((name for name in search if name != "num_reranked"), None)
    if reach is None:
        return [dict(search)]
    reaches = dict.fromkeys(math.ceil(search[reach] * factor) for factor in WIDER)
    return [{**search, reach: value} for value in reaches]


@dataclass(frozen=True)
class _Turn:
    opened: Opened
    point: Point

    def __call__(self) -> float:
        return self.opened.rate(self.point.parameters, max(1, round(TURN_S * self.point.rate)))


def _against_autofaiss(
    vectors: VectorSet,
    rounds: Rounds,
    ours: Point,
    other: Point | None,
    own: Point | None,
    *,
    theirs: Built | str,
    rows: str,
) -> Result:
    said = [
        f"{vectors.what}; one query at a time, one thread, one core; ours recall@10 {ours.recall:.3f} on {vectors.num_queries} test queries"
    ]
    if other is None or own is None:
        return Result(
            "I4", "not_run", None, None, I4, COMMAND, note=f"{said[0]}; nothing to compare with: {theirs}\n\n{rows}"
        )
    allowed = "the bytes of ours with the vectors beside its codes"
    said.append(f"autofaiss, allowed {allowed}, by its own tuning: recall {own.recall:.3f}")
    own_ratio = np.median(rounds.ratios(ours.label, own.label))
    said.append(f"ours over that {own_ratio:.2f}; the value is ours over {other.label} with recall {other.recall:.3f}")
    result = judge(
        "I4",
        rounds.ratios(ours.label, other.label),
        goal=I4,
        command=COMMAND,
        at_least=1.2,
        null=rounds.null,
        note=f"{'; '.join(said)}\n\n{rows}",
        sides=rounds.values,
    )
    return replace(result, status="missed") if result.status == "met" and ours.recall < MIN_RECALL else result


def _by_queries_or_pictures(vectors: VectorSet, rounds: Rounds, tuned: Mapping[str, Point | None]) -> Result:
    said = [vectors.what]
    for name, point in tuned.items():
        said.append(
            f"tuned on {name}: {point.label}, recall@10 {point.recall:.3f}"
            if point
            else f"tuned on {name}: no choice reaches {MIN_RECALL} on the test queries"
        )
    by_queries, by_pictures = tuned["queries"], tuned["pictures"]
    if by_queries is None or by_pictures is None:
        return Result("I6", "reported", None, None, I6, COMMAND, note="; ".join(said))
    if by_queries.label == by_pictures.label:
        return Result("I6", "reported", 1.0, None, I6, COMMAND, note=f"{'; '.join(said)}; both choose the same")
    ratios = rounds.ratios(by_queries.label, by_pictures.label)
    return report("I6", ratios, goal=I6, command=COMMAND, null=rounds.null, note="; ".join(said), sides=rounds.values)


def _auto(name: str, queries: Path) -> Side:
    told = {"queries": str(queries), "min_recall": str(MIN_RECALL), "max_bytes": MAX_BYTES}
    return Side(name, "tests.benchmarks.index_auto_ours", told, [{}], ours=True)


def _autofaiss(max_bytes: int) -> Side:
    tried = [{"reach": reach} for reach in (0, *REACH)]
    return Side("autofaiss", f"{PEERS}.autofaiss_engine", {"max_bytes": max_bytes}, tried)


def _all_bytes(ours: Built) -> int:
    """Codes or graph, and the vectors that lie beside codes."""
    assert ours.manifest is not None
    files = ours.manifest.files.items()
    return sum(entry.num_bytes for name, entry in files if name.startswith(("shards/index", "shards/vectors")))


def _vector_set(scenes: Scenes) -> VectorSet:
    test_Qd = scenes.queries.vectors("test")[:NUM_TEST]
    what = (
        f"scenes: {len(scenes.vectors_Nd):,} different pictures x {scenes.vectors_Nd.shape[1]}, model "
        f"{scenes.projection.model_fingerprint}; {len(test_Qd)} test query vectors of the model"
    )
    return VectorSet("scenes", what, _keep("vectors", scenes.vectors_Nd), _keep("test", test_Qd))


def _kept_queries(scenes: Scenes) -> Path:
    """All query vectors with their ids and targets: the same half of them tunes as in the artefact."""
    held = scenes.queries
    ids, targets = ([*read("tuning"), *read("test")] for read in (held.ids, held.targets))
    return _named(_keep("queries", np.concatenate([held.vectors("tuning"), held.vectors("test")])), ids, targets)


def _kept_pictures(scenes: Scenes) -> Path:
    """As many rows of the gallery, as if they were queries."""
    num = min(len(scenes.vectors_Nd), len(scenes.queries.ids("tuning")) + len(scenes.queries.ids("test")))
    rows = np.random.default_rng(0).choice(len(scenes.vectors_Nd), num, replace=False)
    return _named(_keep("pictures", scenes.vectors_Nd[rows]), [f"row-{row}" for row in rows], [""] * num)


def _named(path: Path, ids: Sequence[str], targets: Sequence[str]) -> Path:
    path.with_suffix(".json").write_text(json.dumps({"ids": list(ids), "targets": list(targets)}))
    return path


def _keep(name: str, rows_ND: Float32) -> Path:
    """A file named for what is in it, so that builds over it are found again."""
    path = KEPT / f"auto-{name}-{hashlib.sha256(rows_ND.tobytes()).hexdigest()[:16]}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, rows_ND)
    return path
