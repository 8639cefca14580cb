"""Our index beside FAISS in one process, autofaiss, hnswlib, usearch and LanceDB: recall@10 against queries a second.

Every side is a process of its own, by one protocol (``peers/engine.py``), over the same vectors in the same run: queries one
at a time, in one thread on one core, in turns. Builds take all cores and are kept under ``.bench/index``.
``BENCH_GRAPH_ITEMS``, ``BENCH_LIST_ITEMS``, ``BENCH_QUERIES``, ``BENCH_TURN_S`` and ``BENCH_ROUNDS`` make it shorter for a
trial; what then comes out is no result.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.benchmarks.harness import Result, report, take_turns
from tests.benchmarks.index_curves import TARGETS, Point, fastest, plot, table
from tests.benchmarks.index_engines import KEPT, Build, Opened, Side, build
from tests.benchmarks.index_galleries import COMMAND
from tests.benchmarks.index_sets import VectorSet, projected, synthetic

GRAPH_ITEMS = int(os.environ.get("BENCH_GRAPH_ITEMS", "200000"))
GRAPH_DIMENSION = 256
LIST_ITEMS = int(os.environ.get("BENCH_LIST_ITEMS", "1000000"))
LIST_DIMENSION = 64
TURN_S = float(os.environ.get("BENCH_TURN_S", "1.5"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
SWEEP_ROUNDS = 3
SWEEP_TURN_S = TURN_S / 3
PEERS = "tests.benchmarks.peers"
OURS, FAISS = "tests.benchmarks.index_ours", "tests.benchmarks.index_faiss"

REACH = (16, 32, 64, 128, 256, 512)
PROBES = (4, 8, 16, 32, 64, 128)
FLAT = Side("ours flat", OURS, {"kind": "flat"}, [{}], ours=True)
HNSW = Side("ours hnsw", OURS, {"kind": "hnsw"}, [{"ef_search": n, "num_reranked": 20} for n in REACH], ours=True)
RABITQ = Side(
    "ours ivf-rabitq",
    OURS,
    {"kind": "ivf-rabitq"},
    [{"nprobe": n, "num_reranked": m} for n, m in zip(PROBES, (50, 50, 100, 100, 200, 200), strict=True)],
    ours=True,
)
PQ = Side(
    "ours ivf-pq",
    OURS,
    {"kind": "ivf-pq"},
    [{"nprobe": n, "num_reranked": m} for n, m in zip(PROBES, (50, 100, 200, 200, 400, 800), strict=True)],
    ours=True,
)
GRAPHS = (
    FLAT,
    HNSW,
    RABITQ,
    Side(
        "FAISS HNSW32",
        FAISS,
        {"factory": "HNSW32", "ef_construction": 200},
        [{"ef_search": n} for n in REACH],
    ),
    Side("autofaiss", f"{PEERS}.autofaiss_engine", {}, [{"reach": n} for n in (0, *REACH)]),
    Side("hnswlib", f"{PEERS}.hnswlib_engine", {"M": 32, "ef_construction": 200}, [{"ef": n} for n in REACH]),
    Side(
        "usearch",
        f"{PEERS}.usearch_engine",
        {"connectivity": 32, "expansion_add": 200},
        [{"ef": n} for n in REACH],
    ),
    Side(
        "LanceDB HNSW-SQ",
        f"{PEERS}.lancedb_engine",
        {"num_partitions": 1, "m": 32, "ef_construction": 300},
        [{"ef": n, "refine_factor": 2} for n in REACH[1:]],
    ),
)


def measure() -> Iterator[Result]:
    """A result a set, each with its table and its plot."""
    yield compare(synthetic("graph", KEPT, GRAPH_ITEMS, GRAPH_DIMENSION), GRAPHS)
    lists = synthetic("lists", KEPT, LIST_ITEMS, LIST_DIMENSION)
    yield compare(lists, list_sides(lists))
    for name, prefix in (("scenes", "BENCH_"), ("photographs", "BENCH_PHOTO_")):
        held = projected(name, KEPT, prefix)
        if isinstance(held, str):
            yield Result(f"index-peers-{name}", "not_run", None, None, _goal(name), COMMAND, note=held)
        else:
            yield compare(held, GRAPHS)


def list_sides(vectors: VectorSet) -> list[Side]:
    """Flat and inverted lists. autofaiss may take the bytes of our codes and the vectors beside them."""
    num_vectors, dimension = vectors.shape
    budget = num_vectors * (4 * dimension + dimension // 4 + 8)
    return [
        FLAT,
        PQ,
        RABITQ,
        Side("FAISS flat", FAISS, {"factory": "Flat"}, [{}]),
        Side("FAISS IVF", FAISS, {"factory": "IVF,Flat"}, [{"nprobe": n} for n in PROBES]),
        Side(
            "FAISS IVF-PQ fast scan, refined",
            FAISS,
            {"factory": f"IVF,PQ{dimension // 2}x4fsr,RFlat"},
            [{"nprobe": n, "k_factor": m} for n, m in zip(PROBES, (4, 4, 8, 8, 16, 16), strict=True)],
        ),
        Side("autofaiss", f"{PEERS}.autofaiss_engine", {"max_bytes": budget}, [{"reach": n} for n in (0, *REACH)]),
    ]


def compare(vectors: VectorSet, sides: Sequence[Side], kept: Path = KEPT) -> Result:
    """Sweep every side, then let the fastest settings at each recall take turns."""
    began = time.perf_counter()
    builds, refused = _builds(sides, vectors, kept)
    took = time.perf_counter() - began
    with ExitStack() as stack:
        opened = {
            side.name: stack.enter_context(Opened(side, builds[side.name], vectors))
            for side in sides
            if side.name in builds
        }
        points = sweep([side for side in sides if side.name in opened], opened, vectors, refused)
        chosen = _chosen(points)
        rounds = take_turns({point.label: _turn(opened, point, TURN_S) for point in chosen}, ROUNDS)
        facts = {name: process.facts for name, process in opened.items()}
    said = [
        f"{vectors.what}; one query at a time, one thread, one core; turns of {TURN_S:g} s; builds of this run {took:.0f} s"
    ]
    ratios: list[list[float]] = []
    for target in TARGETS:
        ours = fastest([point for point in points if point.side.ours], target)
        other = fastest([point for point in points if not point.side.ours], target)
        if ours and other:
            ratios.append(rounds.ratios(ours.label, other.label))
            said.append(
                f"at recall@10 >= {target} {ours.label} over {other.label}: {statistics.median(ratios[-1]):.3f}"
            )
        else:
            missing = "ours" if other else "the others"
            said.append(f"at recall@10 >= {target}: no setting of {missing} reaches it")
    note = f"{'; '.join(said)}\n\n{table(points, builds, facts, refused)}"
    measured = {
        **{f"{p.label}, recall@10 {p.recall:.4f}": p.rates for p in points},
        **{f"{label}, in turns": rates for label, rates in rounds.values.items()},
    }
    files = {f"index-{vectors.name}.svg": plot(points, vectors.what)}
    id, goal = f"index-peers-{vectors.name}", _goal(vectors.name)
    if not ratios:
        return Result(id, "reported", None, None, goal, COMMAND, note=note, sides=measured, files=files)
    null = rounds.null
    return report(id, ratios[0], goal=goal, command=COMMAND, null=null, note=note, sides=measured, files=files)


def _goal(name: str) -> str:
    return f"{name}: QPS of ours over the fastest other engine at recall@10 >= {TARGETS[0]}, reported"


def _builds(sides: Sequence[Side], vectors: VectorSet, kept: Path) -> tuple[dict[str, Build], dict[str, str]]:
    """By side: what was built, and why the others could not be."""
    builds: dict[str, Build] = {}
    refused: dict[str, str] = {}
    for side in sides:
        try:
            builds[side.name] = build(side, vectors, kept)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            refused[side.name] = str(error)
            continue
        print(f"{vectors.name}: {side.name} built in {builds[side.name].seconds:.0f} s", file=sys.stderr, flush=True)
    return builds, refused


def sweep(
    sides: Sequence[Side], opened: Mapping[str, Opened], vectors: VectorSet, refused: dict[str, str]
) -> list[Point]:
    """Every setting of every side: its recall over all queries, then its rate in turns with the others.

    A side that fails goes to ``refused`` with its last words.
    """
    points: list[Point] = []
    for side in sides:
        try:
            points += [_first(side, parameters, opened[side.name], vectors) for parameters in side.tried]
        except RuntimeError as error:
            refused[side.name] = str(error)
    rounds = take_turns({point.label: _turn(opened, point, SWEEP_TURN_S) for point in points}, SWEEP_ROUNDS)
    return [Point(p.side, p.parameters, p.recall, rounds.values[p.label]) for p in points]


def _first(side: Side, parameters: Mapping[str, int], process: Opened, vectors: VectorSet) -> Point:
    process.rate(parameters, 5)  # what is read or made at the first query is no part of a turn
    rows, rate = process.answers(parameters, vectors.num_queries)
    return Point(side, parameters, vectors.recall(rows), [rate])


def _turn(opened: Mapping[str, Opened], point: Point, turn_s: float) -> Callable[[], float]:
    return partial(opened[point.side.name].rate, point.parameters, max(1, round(turn_s * point.rate)))


def _chosen(points: Sequence[Point]) -> list[Point]:
    """The fastest setting of every side at each recall."""
    chosen = {}
    for name in dict.fromkeys(point.side.name for point in points):
        own = [point for point in points if point.side.name == name]
        for target in TARGETS:
            best = fastest(own, target)
            if best:
                chosen[best.label] = best
    return list(chosen.values())
