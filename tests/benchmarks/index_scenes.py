"""A large gallery of scenes as a trained model sees it: pictures embedded and projected, dialogues turned into query vectors.

``BENCH_MODEL`` names the model bundle; without it the quickstart's is taken from ``runs/quickstart-tiny``, and trained first where it
is not there. Everything is made by the ordinary jobs and kept under ``.bench/index``, so that it is found again.
``BENCH_AUTO_ITEMS`` and ``BENCH_AUTO_DIALOGUES`` (of each sub-task) make it smaller for a trial.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chatsearch.config import digest
from chatsearch.corpora.config import ScenesConfig, ScenesCounts
from chatsearch.data.config import PrepareConfig
from chatsearch.evaluate.config import QueriesConfig
from chatsearch.index.config import EmbedConfig
from chatsearch.index.features import FeatureStore
from chatsearch.index.projection import Projection
from chatsearch.index.query_vectors import QueryVectors
from chatsearch.index.vectors import Float32
from chatsearch.session import ray_session
from chatsearch.tracking.config import TrackingConfig

from jobs import embed, prepare, queries
from jobs.command import Plan, execute
from jobs.recipes.places import TINY
from jobs.recipes.prepare import SEED
from jobs.recipes.quickstart import QuickstartConfig
from jobs.step import Step
from jobs.steps import steps

NUM_ITEMS = int(os.environ.get("BENCH_AUTO_ITEMS", "100000"))
NUM_DIALOGUES = int(os.environ.get("BENCH_AUTO_DIALOGUES", "700"))
_FAMILIES = 30
"""Pictures that three dialogues, one of each sub-task, bring along at least: targets, references and near-misses."""


@dataclass(frozen=True)
class Scenes:
    """The gallery and what is asked of it."""

    store: FeatureStore
    projection: Projection
    queries: QueryVectors

    @cached_property
    def vectors_Nd(self) -> Float32:
        """Unit vectors of the pictures, each different from the others as a picture."""
        return self.projection.apply(self.store.matrix_ND)


def make_scenes(kept: Path) -> Scenes:
    """Make what is missing of it, in one Ray session.

    Raises:
        ValueError: fewer different pictures came out than were asked for.
    """
    model = os.environ.get("BENCH_MODEL", "") or TINY.instruct_model
    with ray_session():
        if not os.environ.get("BENCH_MODEL"):
            path = steps(QuickstartConfig())
            last = next(number for number, step in enumerate(path) if step.config.output == model)
            _run(path[: last + 1])
        fingerprint = Projection.open(model).model_fingerprint
        root = kept / f"scenes-{digest(fingerprint, NUM_ITEMS, NUM_DIALOGUES)}"
        shards, features, asked = (str(root / name) for name in ("shards", "features", "queries"))
        each = dict.fromkeys(("chatsearch_t", "chatsearch_i", "chatsearch_m"), NUM_DIALOGUES)
        counts = ScenesCounts(**each, gallery=max(0, NUM_ITEMS - _FAMILIES * NUM_DIALOGUES))
        corpus = ScenesConfig(seed=SEED, split="test", kinds=counts)
        gallery = EmbedConfig(gallery=(shards,), model=model, output=features, batch_size=128, images_per_part=4096)
        _run(
            [
                Step("prepare", prepare.JOB, "tiny_test", PrepareConfig(corpus=corpus, output=shards)),
                Step("embed", embed.JOB, "tiny_gallery", gallery),
                Step("queries", queries.JOB, "tiny", QueriesConfig(data=shards, model=model, output=asked)),
            ]
        )
    made = Scenes(FeatureStore.open(features), Projection.open(model), QueryVectors.open(asked))
    if len(made.store) < NUM_ITEMS:
        raise ValueError(f"{len(made.store)} different pictures are fewer than the {NUM_ITEMS} asked for")
    return made


def _run(path: list[Step]) -> None:
    for step in path:
        execute(step.job, Plan.of(step.job, step.recipe, step.config), TrackingConfig(enabled=False))
