"""The report of sweeps that the sweep job itself recorded in a real MLflow store, against the sweep's own result files."""

from __future__ import annotations

import json
import random
import re
import statistics
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chatsearch.config import Config, runtime
from chatsearch.errors import NonFiniteLossError
from chatsearch.evaluate.seeds import OURS, ClaimConfig
from chatsearch.tracking.tracker import Tracker

from jobs import report, sweep
from jobs.cell import CellConfig, SweepConfig
from jobs.command import Job, Made, main
from jobs.step import Step

DEPTHS = ("R@1", "R@5", "R@10")


class ToyConfig(Config):
    cell: str
    seed: int
    baselines: bool
    output: str = runtime("")


def measure(config: ToyConfig, tracker: Tracker) -> Made:
    """A measurement with scores drawn by cell and seed."""
    if config.cell == "broken":
        raise NonFiniteLossError("The loss of step 7 is not finite.")
    draw = random.Random(f"{config.cell} {config.seed}")

    def method(tasks: str) -> dict[str, Any]:
        cells = {t: {g: {d: draw.uniform(0, 90) for d in DEPTHS} for g in ("targets", "all")} for t in tasks}
        held = {g: statistics.mean(cells[t][g][d] for t in tasks for d in DEPTHS) for g in ("targets", "all")}
        return {**cells, "average": held}

    baselines = {"dual encoder (i)": method("im"), "random (simulated)": method("tim")} if config.baselines else {}
    result = {
        "schema_version": 1,
        "protocol": {"name": "chatsearch"},
        "model": {"fingerprint": "m"},
        "inputs": {"data": {"fingerprint": "d0c5"}, "features": {"fingerprint": "feed"}},
        "counts": {task: {"num_queries": 200, "num_gallery": {"targets": 200, "all": 7255}} for task in "tim"},
        "methods": {OURS: method("tim"), **baselines},
        "fingerprint": "f",
    }
    Path(config.output).write_text(json.dumps(result))
    return Made(config.output, {})


RECIPES = types.ModuleType("jobs.recipes.toy")
MEASURE = Job("toy_measure", RECIPES, default=None, kind=None, work=measure)


def steps(config: SweepConfig, cell: CellConfig, seed: int) -> list[Step]:
    output = f"{config.folder}-{cell.name}-{seed}.json"
    toy = ToyConfig(cell=cell.name, seed=seed, baselines=bool(cell.baselines), output=output)
    return [Step("measure", MEASURE, "toy", toy)]


def both(name: str, *settings: str) -> CellConfig:
    return CellConfig(name=name, align=settings, instruct=settings)


SWEEPS = {
    "scenes_table2": SweepConfig(
        cells=(CellConfig(name=OURS, baselines=("random", "dual_encoder")),),
        claims=(
            ClaimConfig(text="m at least i | or not", row=OURS, over=OURS, task="m", over_task="i", or_equal=True),
        ),
    ),
    "scenes_queue": SweepConfig(
        cells=(both("queue 1000", "objective.queue_size=1000"), both("queue 0", "objective.queue_size=0")),
        claims=(ClaimConfig(text="a queue of 1,000 beats 0", row="queue 1000", over="queue 0"),),
    ),
    "scenes_data_scale": SweepConfig(
        cells=(
            CellConfig(name="x 1"),
            CellConfig(name="x 0.1", instruct=('streams.0.fractions={"t": 0.1, "i": 0.1}',)),
        ),
    ),
}


def recipe_of(config: SweepConfig) -> Callable[[], SweepConfig]:
    def recipe() -> SweepConfig:
        return config

    recipe.__module__ = RECIPES.__name__
    return recipe


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of three finished sweeps and one with a broken cell, and the store that recorded them."""
    folder = tmp_path_factory.mktemp("sweeps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setattr(sweep, "cell_steps", steps)
        patch.setattr(sweep, "shared_steps", lambda config: [])
        broken = SweepConfig(cells=(CellConfig(name="all"), CellConfig(name="broken")), seeds=(0,))
        for name, config in {**SWEEPS, "scenes_instruction_mix": broken}.items():
            told = config.replace(folder=str(folder / name), output=str(folder / f"{name}.json"))
            patch.setattr(RECIPES, name, recipe_of(told), raising=False)
            job = Job("sweep", RECIPES, default=None, kind=None, work=sweep.work)
            assert main(job, ["--recipe", name]) == (1 if config is broken else 0)
    return folder


@pytest.fixture
def store(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{recorded}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    return recorded


def run(*arguments: str) -> int:
    return main(report.JOB, ["--no-tracking", "--set", "output=report", *arguments])


def section(page: str, title: str) -> str:
    (found,) = [part for part in page.split("\n## ") if part.startswith(title)]
    return found


def test_every_number_is_that_of_the_sweeps_own_result(store: Path) -> None:
    assert run() == 0
    page = Path("report/report.md").read_text()
    held = json.loads(Path("report/report.json").read_text())["parts"]
    for title, name in (("Table 2", "scenes_table2"), ("Figure 5", "scenes_queue"), ("Figure 6", "scenes_data_scale")):
        part = title.lower().replace(" ", "")
        result = json.loads((store / f"{name}.json").read_text())
        assert held[part]["claims"] == result["claims"]
        assert held[part]["world"] == result["world"] == {"data": "d0c5", "features": "feed"}
        for row, told in result["rows"]["all"].items():
            ours, _, _ = section(page, title).partition("as printed in the paper")
            (line,) = re.findall(rf"^\| {re.escape(row)} \|.*$", ours, re.MULTILINE)
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            keys = [*(f"{task} {depth}" for task in "tim" for depth in DEPTHS), "average"]
            for key, shown in zip(keys, cells[2:], strict=True):
                values = [scores[key] for scores in told["seeds"].values()]
                if None in values:
                    assert shown == "-"
                else:
                    mean, deviation = map(float, shown.split(" ±"))
                    assert abs(mean - statistics.mean(values)) < 0.051
                    assert abs(deviation - statistics.stdev(values)) < 0.051


def test_the_page_says_where_its_numbers_come_from_and_what_is_missing(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    page = Path("report/report.md").read_text()
    table2 = section(page, "Table 2")
    assert "- gallery: the whole index (t: 200 queries in 7,255, i: 200 queries in 7,255" in table2
    assert "- world: data d0c5, features feed" in table2
    assert "cores" in table2
    assert "as printed in the paper, at another scale" in table2
    assert "m at least i \\| or not" in table2
    assert "**Missing**: sweep `scenes_ablations`: no run of it is recorded" in section(page, "Table 4")
    assert "is marked FAILED, cells ended: 1" in section(page, "Table 6")
    assert "missing scenes_ablations: no run of it is recorded" in capsys.readouterr().out
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", page)
    assert sorted([*links, "report.json", "report.md"]) == sorted(path.name for path in Path("report").iterdir())
    assert links == ["figure5.svg", "figure6.svg"]
    assert str(store) not in page


def test_a_second_report_replaces_the_first_and_nothing_else(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    first = {path.name: path.read_bytes() for path in Path("report").iterdir()}
    assert run() == 0
    assert {path.name: path.read_bytes() for path in Path("report").iterdir()} == first
    assert run("--set", "figure5=none") == 0
    assert not Path("report/figure5.svg").exists()
    Path("report/report.json").write_text("{}")
    assert run() == 2
    assert "holds something else than a report" in capsys.readouterr().err


def test_the_reports_own_run_is_recorded(store: Path) -> None:
    assert main(report.JOB, ["--set", "output=report"]) == 0
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'chatsearch'")
    (found,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'report'")
    assert found.data.params["table2"] == "scenes_table2"


def test_no_store_no_experiment_and_no_sweep_are_named(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{key}=none" for key in ("table2", "figure5", "table4", "table6", "figure6")]
    assert run(*(word for name in names for word in ("--set", name))) == 2
    assert "There is nothing to report. none: no run of it is recorded" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    assert run() == 2
    assert f"No run is recorded at {tmp_path}/none.db" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()
    Path("torn.db").write_bytes(b"not a database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/torn.db")
    assert run() == 1
    assert "cannot be read" in capsys.readouterr().err
    assert not Path("report").exists()
