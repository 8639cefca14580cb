"""What benchmarks are judged by: turns, the null test, the bad end of the interval, accounting."""

from __future__ import annotations

import json
from itertools import count

import pytest

from tests.benchmarks.harness import Result, account, cpu_times, judge, report, steal_since, take_turns, write

GOAL = {"goal": "a goal", "command": "make bench"}


def test_sides_take_turns_and_the_ends_stand_twice_in_a_row() -> None:
    order: list[str] = []
    ticks = count(1)

    def side(name: str) -> float:
        order.append(name)
        return float(next(ticks))

    rounds = take_turns({name: lambda name=name: side(name) for name in "ABC"}, 3)
    assert "".join(order) == "ABCCBAABC"
    assert rounds.values == {"A": [1, 6, 7], "B": [2, 5, 8], "C": [3, 4, 9]}
    assert rounds.null == [4 / 3, 7 / 6]
    assert rounds.ratios("C", "A") == [3, 4 / 6, 9 / 7]


@pytest.mark.parametrize(
    ("runs", "limits", "null", "status"),
    [
        ([1.01] * 9, {"at_most": 1.02}, [1.0], "met"),
        ([1.01] * 5 + [1.03] * 4, {"at_most": 1.02}, [1.0], "missed"),  # the median alone would meet it
        ([1.9] * 9, {"at_least": 1.8}, [], "met"),
        ([1.9] * 5 + [1.7] * 4, {"at_least": 1.8}, [], "missed"),
        ([1.9] * 9, {"at_least": 1.8}, [0.9, 0.97, 1.0], "void"),
    ],
)
def test_the_bad_end_of_the_interval_has_to_meet_the_goal(runs, limits, null, status) -> None:
    result = judge("X", runs, null=null, **limits, **GOAL)
    assert result.status == status
    assert result.runs == tuple(runs)
    assert ("null test" in result.note) == bool(null)


def test_accounting_weighs_steps_by_their_time_and_names_the_worst() -> None:
    result = account("X", [0.0] * 99 + [0.5], [1.0] * 99 + [2.0], at_most=0.02, **GOAL)
    assert result.value == pytest.approx(0.5 / 101)
    assert result.interval is not None
    assert 0.0 <= result.interval[0] < result.value < result.interval[1]
    assert "median 0.000%" in result.note
    assert max(result.runs) == 0.25
    assert account("X", [0.03] * 9, [1.0] * 9, at_most=0.02, **GOAL).status == "missed"


def test_steal_is_a_share_of_the_time_since() -> None:
    stolen, total = cpu_times()
    assert 0 <= stolen <= total
    assert steal_since((0.0, 0.0)) == (pytest.approx(stolen / total, rel=0.01) if total else None)


def test_notes_and_steal_reach_the_table(tmp_path) -> None:
    result = Result("X", "met", 1.0, (0.9, 1.1), "a goal", "make bench", note="2 threads", steal=0.031)
    table = write([result], tmp_path)
    assert "| X | met | 1 | 0.9 to 1.1 | a goal; 2 threads |" in table
    assert "at most 3.1% of the processor time" in table
    assert json.loads((tmp_path / "results.json").read_text())[0]["steal"] == 0.031


def test_a_number_without_a_goal_is_reported_and_its_files_lie_beside_the_table(tmp_path) -> None:
    note = "settings\n\n| engine | QPS |\n|---|---|\n| a | 3 |"
    result = report("X", [2.0] * 9, null=[1.0], note=note, files={"x.svg": "<svg/>"}, **GOAL)
    assert result.status == "reported"
    assert report("X", [2.0] * 9, null=[1.5], **GOAL).status == "void"
    written = write([result], tmp_path)
    assert "| X | reported | 2 | 2 to 2 | a goal; settings; null test 1.000 of 1 |" in written.splitlines()
    assert "## X\n\n| engine | QPS |\n|---|---|\n| a | 3 |\n\n![x.svg](x.svg)\n" in written
    assert (tmp_path / "x.svg").read_text() == "<svg/>"
    (held,) = json.loads((tmp_path / "results.json").read_text())
    assert held["files"] == ["x.svg"]
