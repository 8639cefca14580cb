"""Properties of the plan: more is never less, tighter is never cheaper, and what cannot be had is named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from chatsearch import cli
from chatsearch.errors import PlanBudgetError
from chatsearch.index.plan.kinds import index_kinds
from chatsearch.index.plan.layout import USABLE_MEMORY, Layout, cheapest_layout
from chatsearch.index.plan.machines import CATALOGUE, GIB
from chatsearch.index.plan.phases import embed_phase
from chatsearch.index.plan.planner import GalleryPlan, plan_gallery
from chatsearch.index.plan.rates import ASSUMED, measured, read_rates, write_rates
from chatsearch.index.plan.report import plan_json, plan_text
from chatsearch.index.plan.request import PlanRequest
from hypothesis import given, settings
from hypothesis import strategies as st

# One type of machine, so that a cheaper plan is one of fewer machines.
ONE_TYPE = tuple(machine for machine in CATALOGUE if machine.name == "r7i.16xlarge")


def request(**changes: float) -> PlanRequest:
    return PlanRequest(**{"images": 10**7, "qps": 100, "p95_ms": 100, "recall": 0.95} | changes)


def layouts(asked: PlanRequest) -> dict[str, Layout]:
    found = {kind.name: cheapest_layout(asked, kind, ASSUMED, ONE_TYPE) for kind in index_kinds(asked, ASSUMED)}
    return {name: layout for name, layout in found.items() if isinstance(layout, Layout)}


@settings(max_examples=12, deadline=None)
@given(images=st.integers(10**5, 10**9), more=st.floats(1.0, 30.0))
def test_more_images_never_take_fewer_bytes_or_machines(images: int, more: float) -> None:
    few, many = request(images=images), request(images=int(images * more))
    for small, large in zip(index_kinds(few, ASSUMED), index_kinds(many, ASSUMED), strict=True):
        assert large.shard_bytes(many.images) >= small.shard_bytes(few.images)
        assert large.build_seconds >= small.build_seconds
    before, after = layouts(few), layouts(many)
    assert after.keys() <= before.keys()
    for name, layout in after.items():
        assert layout.num_machines >= before[name].num_machines


@settings(max_examples=12, deadline=None)
@given(p95=st.floats(4.0, 500.0), tighter=st.floats(0.2, 1.0), qps=st.floats(1, 5000), recall=st.floats(0.5, 0.99))
def test_a_tighter_budget_is_never_cheaper(p95: float, tighter: float, qps: float, recall: float) -> None:
    loose = layouts(request(p95_ms=p95, qps=qps, recall=recall))
    for changes in ({"p95_ms": p95 * tighter}, {"recall": 1 - (1 - recall) * tighter}):
        tight = layouts(request(**{"p95_ms": p95, "qps": qps, "recall": recall} | changes))
        assert tight.keys() <= loose.keys()
        for name, layout in tight.items():
            assert layout.dollars_per_hour >= loose[name].dollars_per_hour


@settings(max_examples=10, deadline=None)
@given(qps=st.floats(1, 20_000), more=st.floats(1.0, 20.0))
def test_the_layout_carries_the_load_in_time_and_in_memory(qps: float, more: float) -> None:
    for name, layout in layouts(request(qps=qps * more)).items():
        assert layout.p95_ms <= 100, name
        assert layout.replicas >= 2
        assert layout.resident_bytes <= USABLE_MEMORY * layout.machine.memory_gib * GIB
        busy = qps * more / layout.replicas * layout.service_seconds / layout.num_servers
        assert busy <= 0.9


@pytest.fixture(scope="module")
def five_billion() -> GalleryPlan:
    return plan_gallery(request(images=5 * 10**9, qps=200, p95_ms=150))


def test_five_billion_pictures_have_a_plan_that_fits_together(five_billion: GalleryPlan) -> None:
    best = five_billion.best
    assert best.total == min(choice.total for choice in five_billion.choices)
    assert best.bytes.features.value == 5e9 * (4 * 1024 + 68)
    assert best.bytes.index.value >= 5e9 * (64 + 8 + 512)
    assert best.layout.machines * best.layout.machine.memory_gib * GIB > best.bytes.index.value
    assert best.build.hours.value * best.build.num_machines * best.build.machine.cores * 3600 == pytest.approx(
        best.kind.build_seconds
    )
    assert best.build.hours.value <= five_billion.request.build_hours
    for choice in five_billion.choices:
        for figure in (choice.machines, choice.p95_ms, choice.serve_month, choice.build.hours, choice.build.dollars):
            assert figure.low <= figure.value <= figure.high
            assert figure.source


def test_the_report_says_where_each_figure_comes_from(five_billion: GalleryPlan) -> None:
    text = plan_text(five_billion)
    for name in (
        "flat",
        "fp16",
        "sq8",
        "ivf-pq",
        "hnsw",
        "features",
        "metadata",
        "embed",
        "build",
        "serve",
        "assumed: ",
    ):
        assert name in text
    held = json.loads(json.dumps(plan_json(five_billion), allow_nan=False))
    assert held["best"] == five_billion.best.kind.name
    assert held["choices"][0]["bytes"]["index"]["source"].startswith("exact")


def test_an_exact_answer_takes_the_flat_index() -> None:
    plan = plan_gallery(request(images=10**6, recall=1.0))
    assert [choice.kind.name for choice in plan.choices] == ["flat"]
    assert {none.budget for none in plan.refused.values()} == {"recall"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"p95_ms": 1}, "--p95-ms 1 "),
        ({"images": 10**12, "recall": 1.0}, "--images 1,000,000,000,000"),
        ({"images": 5 * 10**9, "recall": 1.0, "p95_ms": 20}, "--p95-ms 20"),
        ({"images": 10**9, "recall": 1.0, "qps": 1e6, "p95_ms": 200}, "--qps 1e+06"),
    ],
)
def test_the_budget_that_cannot_be_kept_is_named(changes: dict[str, float], named: str) -> None:
    with pytest.raises(PlanBudgetError) as caught:
        plan_gallery(request(**changes))
    assert named in str(caught.value)


def test_embedding_is_reckoned_by_the_measured_rate_where_there_is_one() -> None:
    rates = replace(ASSUMED, embed_images=measured(10.0, "test"))
    phase = embed_phase(request(images=36 * 10**6, embed_hours=1), rates, CATALOGUE)
    assert phase is not None
    assert phase.machine.name.startswith("c7i")  # the cheapest cores
    assert phase.hours.value * phase.num_machines * phase.machine.cores == pytest.approx(1000)


def test_rates_come_back_from_their_file(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "rates.json")
    write_rates(path, ASSUMED, {"host": "here"})
    assert read_rates(path) == ASSUMED


ASKED = ["plan", "--images", "1e6", "--qps", "10", "--p95-ms", "100", "--recall", "0.9"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "--images 0"),
        (["--images", "1.5"], "--images 1.5"),
        (["--qps", "-1"], "--qps -1"),
        (["--p95-ms", "nan"], "--p95-ms nan"),
        (["--recall", "1.2"], "--recall 1.2"),
        (["--dimension", "30"], "multiple of 8"),
        (["--recall", "inf"], "--recall inf"),
        (["--rates", "none.json"], "none.json"),
        (["--machines", "none.json"], "none.json"),
        (["--model", "bundle"], "--probe"),
        (["--p95-ms", "0.5"], "Raise --p95-ms"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ASKED, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "{", '[{"name": "x"}]', '{"rates": {"flat_bytes": {"value": -1}}}', "{}"])
def test_files_that_are_something_else_are_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    for option in ("--machines", "--rates"):
        assert cli.main([*ASKED, option, str(path)]) == 2
        assert str(path) in capsys.readouterr().err


def test_the_command_prints_and_writes_the_plan_without_faiss_or_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from chatsearch.cli import main; code = main(sys.argv[1:]); "
        "print(*[m for m in ('faiss', 'torch', 'ray') if m in sys.modules], file=sys.stderr); raise SystemExit(code)"
    )
    path = tmp_path / "out" / "plan.json"
    done = subprocess.run(
        [sys.executable, "-c", code, *ASKED, "--json", str(path)], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == ""
    assert "asked  1,000,000 pictures" in done.stdout
    assert json.loads(path.read_text())["request"]["images"] == 10**6
