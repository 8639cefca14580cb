"""Q3: text to image on photographs that no method has seen, as ``small_photos`` learns it.

1,000 pictures of the sample's training part are kept out, the model learns from the others, and so do ridge regression on
bags of words and a dual encoder from scratch. The split ``val`` is the sample's own; ``test`` is not looked at. What is finished
below ``runs/photographs-held-out`` is found again.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatsearch.session import ray_session
from chatsearch.tracking.config import TrackingConfig

from jobs import baseline, evaluate, photographs, train
from jobs.command import Plan, execute
from jobs.recipes import baseline as baselines
from jobs.recipes import train as stages
from jobs.step import Step
from tests.benchmarks.harness import Result
from tests.sample_data import ABSENT, sample_folder

COMMAND = "make bench ONLY=photographs"
ROOT = Path("runs", "photographs-held-out")
NUM_HELD_OUT = 1000
HELD_OUT = "held_out"
DEPTHS = ("R@1", "R@5", "R@10")
AIM = {"R@1": 16.0, "R@5": 40.0, "R@10": 55.0}


def measure() -> Iterator[Result]:
    """Q3: R@1/5/10 above ridge regression and above the dual encoder from scratch, at each depth."""
    goal = (
        "text to image, 1,000 unseen pictures: above ridge and a from-scratch dual encoder at each depth, aim 16/40/55"
    )
    source = sample_folder() / "captioned"
    if not (source / "captions.jsonl").is_file():
        yield Result("Q3", "not_run", None, None, goal, COMMAND, note=ABSENT.format(folder=sample_folder()))
        return
    folder = held_out_folder(source, ROOT / "data")
    result: dict[str, Any] = {}
    with ray_session():
        for step in _steps(folder):
            execute(step.job, Plan.of(step.job, step.recipe, step.config), TrackingConfig(parent="bench-photographs"))
            if step.job is evaluate.JOB:
                result = evaluate.read_result(step.config.output)
    rows = {
        "ours": result,
        "ridge": result["baselines"]["bag-of-words ridge"],
        "dual encoder from scratch": result["baselines"]["dual encoder (t)"],
    }
    ours, *others = rows.values()
    gains = tuple(ours[depth] - max(other[depth] for other in others) for depth in DEPTHS)
    said = "; ".join(f"{name} {' / '.join(f'{row[depth]:.1f}' for depth in DEPTHS)}" for name, row in rows.items())
    aim = "reached" if all(ours[depth] > AIM[depth] for depth in DEPTHS) else "not reached"
    yield Result(
        "Q3",
        "met" if min(gains) > 0 else "missed",
        min(gains),
        None,
        goal,
        COMMAND,
        runs=gains,
        note=f"{said}; aim {aim}; value: least gain over both",
    )


def held_out_folder(source: Path, target: Path) -> Path:
    """A copy of a captioned folder in which some training pictures are of the split ``held_out``. The draw is seeded."""
    lines = [json.loads(line) for line in (source / "captions.jsonl").read_text().splitlines()]
    names = sorted(record["id"] for record in lines if record.get("split", "train") == "train")
    held = set(random.Random(1).sample(names, NUM_HELD_OUT))
    for record in lines:
        if record["id"] in held:
            record["split"] = HELD_OUT
        picture = target / record["file"]
        if not picture.exists():
            picture.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / record["file"], picture)
    (target / "captions.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in lines))
    return target


def _steps(folder: Path) -> Iterator[Step]:
    """The model with what it starts from, the dual encoder, and the measurement of both."""
    model = str(ROOT / "model")
    config = photographs.located(stages.small_photos().replace(data=str(folder), output=model))
    yield from photographs.input_steps(config)
    yield Step("model", train.JOB, "small_photos", config.replace(registered_name=""))
    recipe = baselines.small_photos_scratch()
    phases = tuple(phase.replace(streams=config.streams) for phase in recipe.phases)
    output = str(ROOT / "dual-encoder-from-scratch")
    dual_encoder = recipe.replace(weights=config.weights, features=config.features, phases=phases, output=output)
    yield Step("dual encoder from scratch", baseline.JOB, "small_photos_scratch", dual_encoder)
    measurement = evaluate.EvaluateConfig(
        protocol="text_to_image",
        data=str(folder),
        split=HELD_OUT,
        model=model,
        baseline=output,
        features=(config.features,),
        output=str(ROOT / "evaluation.json"),
    )
    yield Step("evaluation", evaluate.JOB, "text_to_image", measurement)
