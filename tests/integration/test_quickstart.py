"""The whole path at toy scale: real jobs, real Ray, two workers with ZeRO 1 and 2, and a second run that does nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chatsearch.corpora.config import ScenesCounts
from chatsearch.data.config import PrepareConfig
from chatsearch.evaluate.config import BaselineConfig
from chatsearch.index.config import EmbedConfig
from chatsearch.tracking.config import TrackingConfig
from chatsearch.train.config import LanguageTrainingConfig, TinyWeightsConfig, TrainConfig, VisionTrainingConfig

from jobs.command import Made, main
from jobs.quickstart import show_tables
from jobs.recipes import quickstart
from jobs.step import Step, run_steps
from jobs.steps import steps

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.ray

LANGUAGE = LanguageTrainingConfig(
    vocab_size=500, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, num_documents=400, steps=4
)
COUNTS = {"caption": 60, "interleaved": 12, "question": 8, "edit": 12, "chatsearch_t": 12, "chatsearch_i": 12}


def toy(step: Step) -> Step:
    """The same step, seconds long."""
    config: Any = step.config
    if isinstance(config, TinyWeightsConfig):
        vision = VisionTrainingConfig(
            num_crowded=256, crowded_epochs=1, num_pictures=256, epochs=1, num_test_pictures=64
        )
        config = config.replace(vision=vision, language=LANGUAGE)
    elif isinstance(config, PrepareConfig):
        kinds = config.corpus.kinds  # type: ignore[union-attr]  # the tiny size reads scenes only
        fewer = {name: min(count, COUNTS.get(name, 12)) for name, count in dict(kinds).items() if count is not None}
        config = config.replace(corpus=config.corpus.replace(kinds=ScenesCounts(**fewer)))
    elif isinstance(config, EmbedConfig):
        config = config.replace(images_per_part=64)
    elif isinstance(config, TrainConfig):
        language = config.model.language.replace(
            **{
                name: getattr(LANGUAGE, name)
                for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers")
            },
            num_heads=LANGUAGE.num_heads,
            num_key_value_heads=LANGUAGE.num_heads,
        )
        config = config.replace(
            model=config.model.replace(language=language),
            streams=tuple(stream.replace(per_step=4) for stream in config.streams),
            steps=4,
            optimiser=config.optimiser.replace(warmup_steps=1),
            checkpoint_every=2,
        )
    elif isinstance(config, BaselineConfig):
        phases = tuple(
            phase.replace(streams=tuple(s.replace(per_step=4) for s in phase.streams), steps=3, warmup_steps=1)
            for phase in config.phases
        )
        config = config.replace(phases=phases, heads=config.heads.replace(num_steps=3), retrieval_dim=16)
    return replace(step, config=config)


def walk(output: str) -> list[tuple[Step, Made]]:
    """All steps below ``output``, at toy scale."""
    path = [toy(step) for step in steps(quickstart.tiny().replace(output=output))]
    with ExitStack() as stack:
        return run_steps(path, TrackingConfig(enabled=False), stack)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[str, list[tuple[Step, Made]]]:
    # Relative, as the recipes have it: workers have other working folders.
    output = os.path.relpath(tmp_path_factory.mktemp("quickstart") / "out")
    return output, walk(output)


def test_every_step_is_done(done: tuple[str, list[tuple[Step, Made]]], capsys: pytest.CaptureFixture[str]) -> None:
    output, made = done
    assert [m.reused for _, m in made] == [False] * len(made)
    show_tables([(step, replace(m, reused=True)) for step, m in made], seconds=1.0, address="nowhere")
    shown = capsys.readouterr().out
    assert "ChatSearcher" in shown
    assert "t R@10" in shown
    assert "train stage 2: instruct" in shown
    result = json.loads(Path(output, "evaluation.json").read_text())
    assert {"t", "i", "m"} <= set(result["counts"])


def test_second_run_reads_manifests_and_imports_nothing_heavy(done: tuple[str, list[tuple[Step, Made]]]) -> None:
    output, _ = done
    program = f"""
import sys
from tests.integration.test_quickstart import walk
made = walk({output!r})
heavy = sorted({{m.partition(".")[0] for m in sys.modules}} & {{"torch", "ray", "faiss", "mlflow", "transformers", "deepspeed"}})
print([step.title for step, m in made if not m.reused], heavy)
"""
    again = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "[] []"


def test_text_to_image_on_a_captioned_folder_by_the_command_line(
    done: tuple[str, list[tuple[Step, Made]]], tmp_path: Path
) -> None:
    from PIL import Image

    from jobs import evaluate

    output, _ = done
    lines = []
    for n, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{n}.png")
        lines.append(json.dumps({"id": str(n), "file": f"{n}.png", "captions": [f"all {colour}"], "split": "test"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    scores = tmp_path / "scores.json"
    settings = {
        "protocol": "text_to_image",
        "data": str(tmp_path),
        "model": f"{output}/model-instruct",
        "output": str(scores),
    }
    arguments = ["--no-tracking", *(a for k, v in settings.items() for a in ("--set", f"{k}={v}"))]
    assert main(evaluate.JOB, arguments) == 0
    result = json.loads(scores.read_text())
    assert (result["num_queries"], result["num_gallery"], result["split"]) == (4, 4, "test")
    assert result["R@5"] == 100.0
    before = scores.stat().st_mtime_ns
    assert main(evaluate.JOB, arguments) == 0
    assert scores.stat().st_mtime_ns == before
