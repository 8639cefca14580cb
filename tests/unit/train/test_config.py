from __future__ import annotations

import subprocess
import sys

import pytest
from chatsearch.config import apply_overrides
from chatsearch.data.config import StreamConfig
from chatsearch.errors import ConfigError
from chatsearch.manifest import fingerprint
from chatsearch.model.config import ObjectiveConfig, PerceiverConfig, SearcherConfig
from chatsearch.train.config import OptimiserConfig, TrainConfig


def test_settings_that_change_no_weight_stay_out_of_the_fingerprint() -> None:
    base = TrainConfig(steps=10)
    assert base.replace(num_workers=4, min_workers=2, resize_every_s=1.0).content() == base.content()
    moved = base.replace(output="x", weights="y", checkpoint_every=3, keep_checkpoints=1, log_every=1, max_failures=0)
    assert fingerprint("model-bundle", base, {}) == fingerprint("model-bundle", moved, {})
    for changes in ({"steps": 11}, {"zero_stage": 2}, {"seed": 1}, {"answer_only": True}):
        assert fingerprint("model-bundle", base.replace(**changes), {}) != fingerprint("model-bundle", base, {})


@pytest.mark.parametrize(
    ("changes", "is_elastic"),
    [
        ({}, True),
        ({"zero_stage": 0, "precision": "mixed", "accumulation": 2}, True),
        ({"objective": ObjectiveConfig(queue_size=0)}, False),
        ({"model": SearcherConfig(perceiver=PerceiverConfig(dropout=0.1))}, False),
    ],
)
def test_the_number_of_workers_counts_only_where_it_changes_more_than_rounding(changes: dict, is_elastic: bool) -> None:
    base = TrainConfig(**changes)
    assert base.is_elastic is is_elastic
    alone, one, two = (fingerprint("model-bundle", base.replace(num_workers=n), {}) for n in (0, 1, 2))
    assert alone == one
    assert (one == two) is is_elastic


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimiser": OptimiserConfig(warmup_steps=11), "steps": 10}, "warmup_steps=11 is more than steps=10"),
        (
            {"streams": (StreamConfig(per_step=3),), "num_workers": 2, "accumulation": 2},
            "3 documents cannot feed 2 workers x 2",
        ),
        ({"precision": "bf16", "zero_stage": 0}, "bf16 needs the fp32 master weights"),
        ({"num_workers": 2, "min_workers": 3}, "min_workers=3 is more than num_workers=2, the most"),
        (
            {"num_workers": 2, "min_workers": 1, "objective": ObjectiveConfig(queue_size=0)},
            r"min_workers=1 .*\(objective.queue_size=0\) the negatives are the worker's own",
        ),
        (
            {
                "num_workers": 2,
                "min_workers": 1,
                "model": SearcherConfig(perceiver=PerceiverConfig(dropout=0.1)),
            },
            "dropout=0.1 is drawn by the worker: the result would depend on it",
        ),
        ({"max_length": 20}, "max_length=20 cannot hold an image block of 35"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TrainConfig(**changes)


def test_unknown_parts_and_betas_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'gallery', .* Take language, control_tokens"):
        OptimiserConfig(multipliers={"gallery": 2.0})
    with pytest.raises(ConfigError, match="betas"):
        OptimiserConfig(betas=(0.9, 1.0))


def test_settings_reach_into_the_parts() -> None:
    config = apply_overrides(TrainConfig(), ["optimiser.learning_rate=1e-4", "zero_stage=2", "loader.num_tasks=3"])
    assert (config.optimiser.learning_rate, config.zero_stage, config.loader.num_tasks) == (1e-4, 2, 3)


def test_the_driver_side_loads_nothing_heavy() -> None:
    code = (
        "import sys, chatsearch.train.config, chatsearch.train.run, chatsearch.train.worker, chatsearch.train.progress;"
        "print([m for m in ('torch', 'ray', 'deepspeed', 'transformers', 'mlflow', 'faiss') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
