"""The comparison of engines: builds that are kept, sides that answer from processes of their own, sides that fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.index_engines import Build, Opened, Side, build
from tests.benchmarks.index_peers import compare
from tests.unit.test_benchmark_engines import vector_set

FLAT = Side("FAISS flat", "tests.benchmarks.index_faiss", {"factory": "Flat"}, [{}])
OURS = Side("ours", "tests.benchmarks.index_ours", {"kind": "flat", "num_shards": 2}, [{}], ours=True)


def test_sides_answer_alike_from_processes_of_their_own(tmp_path: Path) -> None:
    made = vector_set(tmp_path)
    answers = {}
    for side in (FLAT, OURS):
        built = build(side, made, tmp_path / "kept")
        assert not built.cached
        again = build(side, made, tmp_path / "kept")
        assert again == Build(built.folder, built.seconds, built.num_bytes, cached=True)
        with Opened(side, built, made) as opened:
            answers[side.name], _ = opened.answers({}, 7)
            assert opened.rate({}, 20) > 0  # more than there are queries: they are asked again
    assert answers["FAISS flat"] == answers["ours"]
    assert made.recall(answers["ours"]) == 1.0


def test_other_vectors_and_other_parameters_are_built_anew(tmp_path: Path) -> None:
    built = build(FLAT, vector_set(tmp_path), tmp_path / "kept")
    (tmp_path / "other").mkdir()
    other = build(FLAT, vector_set(tmp_path / "other", 200), tmp_path / "kept")
    assert other.folder != built.folder
    wrong = Side("FAISS", FLAT.module, {"factory": "None,Such"}, [{}])
    with pytest.raises(RuntimeError, match=r"its build ended with 1: .*None,Such"):
        build(wrong, vector_set(tmp_path), tmp_path / "kept")


def test_a_side_that_cannot_run_is_named_and_the_others_are_compared(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tests.benchmarks.index_peers.ROUNDS", 3)
    monkeypatch.setattr("tests.benchmarks.index_peers.TURN_S", 0.01)
    broken = Side("broken", OURS.module, {"kind": "flat"}, [{"nprobe": 1}])
    failed = Side("failed", FLAT.module, {"factory": "None,Such"}, [{}])
    result = compare(vector_set(tmp_path), [OURS, FLAT, broken, failed], tmp_path / "kept")
    assert result.status in ("reported", "void")
    assert result.value is not None
    assert "| broken | could not run: tests.benchmarks.index_ours ended with 1" in result.note
    assert "| failed | could not run: its build ended" in result.note
    assert list(result.files) == ["index-small.svg"]
    assert {name.partition(" exact")[0] for name in result.sides} >= {"ours", "FAISS flat"}
