"""Running a sweep: the order, what is skipped, what goes on after a failure, and what is written."""

from __future__ import annotations

import contextlib
import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chatsearch.config import Config, runtime
from chatsearch.errors import NonFiniteLossError
from chatsearch.evaluate.inputs import read_result
from chatsearch.evaluate.seeds import ClaimConfig
from chatsearch.kinds import MODEL_BUNDLE
from chatsearch.manifest import begin_output, open_artefact
from chatsearch.model.config import ObjectiveConfig
from chatsearch.testing.training import tiny_training
from chatsearch.tracking.tracker import Tracker

from jobs import step, sweep, sweep_result, train
from jobs.cell import CellConfig, SweepConfig
from jobs.command import Job, Made, main
from jobs.finished import Finished, Input
from jobs.step import Step

done: list[str] = []
"""What the toys have done, in order."""
broken: dict[str, BaseException] = {}
"""What the training of a cell ends in, by its place."""


class ToyTrainConfig(Config):
    gain: float = 0.0
    seed: int = 0
    shared: str = runtime("")
    output: str = runtime("")


class ToyMeasureConfig(Config):
    gallery: str = "gallery"
    model: str = runtime("")
    output: str = runtime("")


def toy_train(config: ToyTrainConfig, tracker: Tracker) -> Made:
    place = "/".join(Path(config.output).parts[-2:])
    if place in broken:
        raise broken[place]
    done.append(place)
    inputs = {"shared": open_artefact(config.shared, "toy").fingerprint} if config.shared else {}
    output = begin_output(config.output, "toy", config, inputs)
    facts = {"score": 10 * config.gain + config.seed}
    return Made(output.commit(counts={}, facts=facts).uri, {})


def toy_measure(config: ToyMeasureConfig, tracker: Tracker) -> Made:
    done.append(Path(config.output).name)
    score = open_artefact(config.model, "toy").manifest.facts["score"]
    result = {
        "schema_version": 1,
        "protocol": {"name": "chatsearch"},
        "model": {"fingerprint": open_artefact(config.model, "toy").fingerprint},
        "inputs": {"data": {"fingerprint": "d"}, "features": {"fingerprint": config.gallery}},
        "counts": {task: {"num_queries": 4, "num_gallery": {"targets": 4, "all": 9}} for task in "tim"},
        "methods": {"ChatSearcher": method(score), "baseline": method(1.0), "random (simulated)": method(0.0)},
        "fingerprint": "f",
    }
    Path(config.output).write_text(json.dumps(result))
    return Made(config.output, {})


def method(score: float) -> dict[str, Any]:
    """A method whose every recall is one number."""
    cell = {gallery: dict.fromkeys(("R@1", "R@5", "R@10"), score) for gallery in ("targets", "all")}
    m = {**cell, "all": {**cell["all"], "beside_i": {"mdc_t": {"i": score, "m": score}}}}
    return {"t": cell, "i": cell, "m": m, "average": {"targets": score, "all": score}}


def recognise(config: ToyMeasureConfig, inputs: Sequence[Input]) -> Finished | None:
    return Finished("f", {}) if read_result(config.output) else None


RECIPES = types.ModuleType("jobs.recipes.toy")
TRAIN = Job("toy_train", RECIPES, default=None, kind="toy", work=toy_train)
MEASURE = Job("toy_measure", RECIPES, default=None, kind=None, work=toy_measure, recognise=recognise)


def toy_steps(config: SweepConfig, cell: CellConfig, seed: int) -> list[Step]:
    """Training and measuring; what a cell sets is its gain."""
    (gain,) = cell.align
    model = f"{config.folder}/{cell.name}/{seed}"
    toy = ToyTrainConfig(gain=float(gain), seed=seed, shared=f"{config.folder}/shared/inputs", output=model)
    measured = ToyMeasureConfig(model=model, output=f"{config.folder}/{cell.name}-{seed}.json")
    return [Step("train", TRAIN, "toy", toy), Step("measure", MEASURE, "toy", measured)]


@pytest.fixture(autouse=True)
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepConfig:
    """A sweep of two cells at three seeds, of toys."""
    done.clear()
    broken.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = SweepConfig(
        cells=(CellConfig(name="low", align=("1",)), CellConfig(name="high", align=("2",))),
        seeds=(0, 3, 6),
        claims=(
            ClaimConfig(text="high above low", row="high", over="low"),
            ClaimConfig(text="low above high", row="low", over="high"),
            ClaimConfig(text="twice", row="high", over="low", factor=1.9),
            ClaimConfig(text="above what is not run", row="high", over="FROMAGe"),
        ),
        folder=str(tmp_path / "made"),
        output=str(tmp_path / "toy.json"),
    )
    shared = ToyTrainConfig(output=str(tmp_path / "made" / "shared" / "inputs"))

    def toy() -> SweepConfig:
        """Toys."""
        return config

    toy.__module__ = RECIPES.__name__
    monkeypatch.setattr(RECIPES, "toy", toy, raising=False)
    monkeypatch.setattr(sweep, "JOB", Job("sweep", RECIPES, default="toy", kind=None, work=sweep.work))
    monkeypatch.setattr(step, "ray_session", contextlib.nullcontext)
    monkeypatch.setattr(sweep, "cell_steps", toy_steps)
    monkeypatch.setattr(sweep, "shared_steps", lambda config: [Step("inputs", TRAIN, "toy", shared)])
    return config


def run(*arguments: str) -> int:
    return main(sweep.JOB, ["--no-tracking", *arguments])


def written() -> dict[str, Any]:
    return json.loads(Path("toy.json").read_text())


CALM = [f"{cell}{toy}" for cell in ("low", "high") for seed in (0, 3, 6) for toy in (f"/{seed}", f"-{seed}.json")]


def test_shared_inputs_come_first_then_every_seed_of_a_cell_and_nothing_twice() -> None:
    assert run() == 0
    assert done == ["shared/inputs", *CALM]
    first = written()
    done.clear()
    assert run() == 0
    assert done == []
    again = written()
    assert (again["rows"], again["claims"]) == (first["rows"], first["claims"])


def test_rows_and_claims_are_those_of_the_cells(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    result = written()
    assert list(result["rows"]["all"]) == ["low", "baseline", "high"]
    assert result["rows"]["all"]["high"]["seeds"] == {
        str(seed): dict.fromkeys(result["rows"]["all"]["high"]["spread"], 20.0 + seed) for seed in (0, 3, 6)
    }
    assert result["rows"]["targets"]["low"]["spread"]["t R@1"] == {
        "mean": 13.0,
        "deviation": 3.0,
        "least": 10.0,
        "most": 16.0,
    }
    assert [(claim["claim"], claim["verdict"]) for claim in result["claims"]] == [
        ("high above low", "shown"),
        ("low above high", "not shown"),
        ("twice", "not shown"),  # 20 is twice 10, 23 is not twice 13
        ("above what is not run", "not measured"),
    ]
    assert result["world"] == {"data": "d", "features": "gallery"}
    assert [cell["beside_i"]["mdc_t"]["m"] for cell in result["cells"]] == [10, 13, 16, 20, 23, 26]
    shown = capsys.readouterr().out
    assert "13.0 ±3.0" in shown
    assert "not measured" in shown


def test_an_interrupted_sweep_goes_on_where_it_was() -> None:
    broken["high/0"] = KeyboardInterrupt()
    assert run() == 130
    assert [(cell["cell"], cell["seed"]) for cell in written()["cells"]] == [("low", 0), ("low", 3), ("low", 6)]
    assert written()["claims"][0]["verdict"] == "not measured"
    broken.clear()
    done.clear()
    assert run() == 0
    assert done == CALM[6:]


def test_a_training_that_cannot_go_on_stops_its_cell_alone(capsys: pytest.CaptureFixture[str]) -> None:
    broken["low/3"] = NonFiniteLossError("The loss of step 7 is not finite.")
    assert run() == 1
    assert done == ["shared/inputs", *CALM[:2], *CALM[4:]]
    assert "1 of 6 cells did not end: low (seed 3). The first: The loss of step 7" in capsys.readouterr().err
    assert [cell["error"] for cell in written()["cells"]] == ["", "The loss of step 7 is not finite.", *[""] * 4]
    assert written()["claims"][0]["verdict"] == "not measured"
    broken.clear()
    done.clear()
    assert run() == 0
    assert done == CALM[2:4]


def test_the_result_of_something_else_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("toy.json").write_text("{}")
    assert run() == 2
    assert "something else than a result of this job" in capsys.readouterr().err
    Path("toy.json").unlink()
    assert run("--set", "seeds=[0]") == 0
    assert run() == 2
    assert "holds the result of another sweep" in capsys.readouterr().err
    done.clear()
    assert run("--set", "overwrite=true") == 0
    assert done == [*CALM[2:6], *CALM[8:]]


def test_cells_on_other_galleries_are_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    other = json.loads(Path("made/high-3.json").read_text())
    other["inputs"]["features"]["fingerprint"] = "another"
    Path("made/high-3.json").write_text(json.dumps(other))
    assert run() == 2
    assert "low (seed 0) and high (seed 3) were measured on different" in capsys.readouterr().err


def test_every_cell_is_a_run_below_the_sweeps() -> None:
    assert main(sweep.JOB, ["--set", "seeds=[0]"]) == 0
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{Path('runs/mlflow.db').absolute()}")
    (experiment,) = client.search_experiments(filter_string="name = 'chatsearch'")
    runs = {found.info.run_name: found for found in client.search_runs([experiment.experiment_id])}
    assert {"sweep", "low, seed 0", "high, seed 0", "toy_train"} <= set(runs)
    ids = {name: found.info.run_id for name, found in runs.items()}
    assert runs["high, seed 0"].data.tags["mlflow.parentRunId"] == ids["sweep"]
    assert runs["high, seed 0"].data.metrics["high/average"] == 20.0
    claims = {name: value for name, value in runs["sweep"].data.metrics.items() if name.startswith("claim/")}
    assert claims == {"claim/low above high": 0.0}  # of the others one seed is too few to tell
    assert runs["sweep"].data.metrics["num_gallery/i"] == 9
    assert runs["sweep"].data.tags["world.features"] == "gallery"
    assert "cores" in runs["sweep"].data.tags["machine"]


def test_two_trainings_follow_each_other_in_this_process_without_a_cluster(
    toys: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def real(config: SweepConfig, cell: CellConfig, seed: int) -> list[Step]:
        objective = ObjectiveConfig(queue_size=int(cell.align[0]))
        output = str(tmp_path / f"real-{cell.name}")
        trained = tiny_training(tmp_path, objective=objective, steps=3, registered_name="", output=output)
        measured = toy_steps(config, cell, seed)
        return [Step("train", train.JOB, "tiny", trained), *measured]

    monkeypatch.setattr(sweep, "cell_steps", real)
    cells = (CellConfig(name="none", align=("0",)), CellConfig(name="queue", align=("50",)))
    config = toys.replace(cells=cells, seeds=(0,), claims=())
    monkeypatch.setattr(RECIPES, "toy", lambda: config)
    RECIPES.toy.__module__ = RECIPES.__name__  # type: ignore[attr-defined]
    import ray

    assert run() == 0
    assert not ray.is_initialized()
    losses = [open_artefact(str(tmp_path / f"real-{name}"), MODEL_BUNDLE) for name in ("none", "queue")]
    assert len({artefact.manifest.facts["last_step"]["image_loss"] for artefact in losses}) == 2


def test_the_forecast_counts_what_is_trained_once_and_what_is_left(tmp_path: Path) -> None:
    config = SweepConfig(
        cells=(CellConfig(name="a"), CellConfig(name="b", instruct=("steps=300",))), folder=str(tmp_path), seeds=(0,)
    )
    first = sweep_result.forecast_of(config).splitlines()[0]
    assert first == "cells  2: 3 stages and 0 baselines to train, 850 + 0 steps, 2 measurements"
