"""The comparison of engines: recall with ties, the fastest setting at a recall, the table, sets of vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.benchmarks.__main__ import parts
from tests.benchmarks.harness import Result, Rounds
from tests.benchmarks.index_auto import _against_autofaiss, _by_queries_or_pictures, further
from tests.benchmarks.index_curves import Point, fastest, plot, table
from tests.benchmarks.index_engines import Build, Side
from tests.benchmarks.index_sets import VectorSet, kth_scores, projected, recall
from tests.benchmarks.peers.engine import K
from tests.unit.index.synthetic import make_gallery


def vector_set(folder: Path, num: int = 300) -> VectorSet:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((num + 7, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.save(folder / "vectors.npy", rows[:num])
    np.save(folder / "queries.npy", rows[num:])
    return VectorSet("small", "a small set", folder / "vectors.npy", folder / "queries.npy")


def point(name: str, recalled: float, rate: float) -> Point:
    return Point(Side(name, "tests.benchmarks.index_faiss", {}, []), {"ef": round(rate)}, recalled, [rate])


def test_recall_counts_ties_once_and_nothing_else() -> None:
    vectors = np.zeros((40, 4), np.float32)
    vectors[:12, 0] = 1.0  # twelve rows tie for ten places
    vectors[12:, 1] = 1.0
    queries = np.array([[1, 0, 0, 0]], np.float32)
    least = kth_scores(vectors, queries, block=7)
    assert least.tolist() == [1.0]
    assert recall(vectors, queries, least, [list(range(2, 12))]) == 1.0
    assert recall(vectors, queries, least, [[0] * K]) == 0.1
    assert recall(vectors, queries, least, [[*range(5), *range(20, 25)]]) == 0.5
    assert recall(vectors, queries, least, [[0, 1, -1, -1]]) == 0.2


def test_kth_scores_are_those_of_a_full_sort(tmp_path: Path) -> None:
    made = vector_set(tmp_path)
    vectors, queries = np.load(made.vectors), np.load(made.queries)
    whole = np.sort(queries @ vectors.T, axis=1)[:, -K]
    np.testing.assert_allclose(kth_scores(vectors, queries, block=64), whole, atol=1e-6)


def test_the_fastest_setting_reaches_the_recall_and_is_not_interpolated() -> None:
    points = [point("a", 0.949, 900), point("a", 0.951, 500), point("a", 0.99, 100)]
    best = fastest(points, 0.95)
    assert best is not None
    assert best.rate == 500
    assert fastest(points, 0.995) is None


def test_the_table_has_a_row_a_side_and_says_what_could_not_run() -> None:
    points = [point("a", 0.96, 500), point("b", 0.9, 900)]
    builds = {name: Build(Path("x"), 3.0, 2**20, cached=name == "b") for name in "ab"}
    rows = table(points, builds, {"a": {"version": "1"}, "b": {"version": "2"}}, {"c": "no | wheel"}).splitlines()
    assert len({row.count("|") for row in rows if not row.startswith("|---")}) == 1
    assert "| a | 500 (ef=500: 0.960) | not reached | 0.960 | 3 s | 1 MiB | 1 |" in rows
    assert "kept from an earlier run" in next(row for row in rows if row.startswith("| b |"))
    assert "could not run: no / wheel" in rows[-1]
    assert plot(points, "title").count("<text") > 5


def test_features_are_projected_and_rows_held_out_as_queries(tmp_path: Path, monkeypatch) -> None:
    missing = projected("scenes", tmp_path, "BENCH_")
    assert isinstance(missing, str)
    assert "BENCH_FEATURES" in missing
    gallery = make_gallery(str(tmp_path / "gallery"), 60)
    monkeypatch.setenv("BENCH_FEATURES", gallery.features)
    monkeypatch.setenv("BENCH_MODEL", gallery.model)
    made = projected("scenes", tmp_path, "BENCH_")
    assert isinstance(made, VectorSet)
    assert made.shape == (54, 8)
    assert made.num_queries == 6
    rows = np.concatenate([np.load(made.vectors), np.load(made.queries)])
    unit = gallery.projected_Nd / np.linalg.norm(gallery.projected_Nd, axis=1, keepdims=True)
    np.testing.assert_allclose(np.sort(rows.sum(axis=1)), np.sort(unit.sum(axis=1)), atol=1e-6)


def test_parts_of_a_benchmark_are_those_that_measure() -> None:
    found = parts(["index", "training"])
    assert found["index.peers"] == "index_peers"
    assert found["index.auto"] == "index_auto"
    assert "index.scenes" not in found
    assert found["training.queue"] == "training_queue"
    assert "index.curves" not in found


def _rounds(ours: float, theirs: float) -> Rounds:
    return Rounds({"ours auto ef_search=16": [ours] * 9, "autofaiss reach=0": [theirs] * 9}, [1.0] * 4)


def _judged(tmp_path: Path, recalled: float, ours: float) -> Result:
    auto = Side("ours auto", "tests.benchmarks.index_auto_ours", {}, [{}], ours=True)
    peer = Side("autofaiss", "tests.benchmarks.index_faiss", {}, [{"reach": 0}])
    mine = Point(auto, {"ef_search": 16}, recalled, [ours])
    theirs = Point(peer, {"reach": 0}, 0.96, [100.0])
    return _against_autofaiss(vector_set(tmp_path), _rounds(ours, 100.0), mine, theirs, theirs, theirs="", rows="")


def test_a_choice_meets_the_goal_only_with_the_recall_on_test_queries(tmp_path: Path) -> None:
    assert _judged(tmp_path, 0.951, 130.0).status == "met"
    assert _judged(tmp_path, 0.949, 130.0).status == "missed"
    assert _judged(tmp_path, 0.951, 110.0).status == "missed"
    alone = _against_autofaiss(
        vector_set(tmp_path), _rounds(1, 1), point("a", 1.0, 1), None, None, theirs="no wheel", rows=""
    )
    assert (alone.status, alone.value) == ("not_run", None)
    assert "no wheel" in alone.note


def test_a_choice_may_look_further_step_by_step() -> None:
    reaches = [search["nprobe"] for search in further({"nprobe": 4, "num_reranked": 50})]
    assert reaches == [4, 5, 7, 8, 10, 13, 16, 20, 24, 30]
    assert further({"num_reranked": 20}) == [{"num_reranked": 20}]


def test_what_tuning_on_queries_gains_is_a_ratio_at_equal_recall(tmp_path: Path) -> None:
    vectors, tuned = vector_set(tmp_path), {"queries": point("q", 0.95, 300), "pictures": point("p", 0.97, 150)}
    rounds = Rounds({tuned["queries"].label: [300.0] * 9, tuned["pictures"].label: [150.0] * 9}, [1.0] * 4)
    gained = _by_queries_or_pictures(vectors, rounds, tuned)
    assert (gained.status, gained.value) == ("reported", 2.0)
    assert _by_queries_or_pictures(vectors, rounds, {**tuned, "pictures": tuned["queries"]}).value == 1.0
    lost = _by_queries_or_pictures(vectors, rounds, {**tuned, "pictures": None})
    assert lost.value is None
    assert "tuned on pictures: no choice reaches 0.95" in lost.note
