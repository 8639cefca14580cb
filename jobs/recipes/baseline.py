"""Dual encoders trained on the same documents, features and starting weights as the model beside them."""

from __future__ import annotations

from chatsearch.evaluate.config import BaselineConfig, PhaseConfig
from chatsearch.train.config import TrainConfig

from jobs.recipes import train
from jobs.recipes.places import SMALL, TINY, Places


def _phase(stage: TrainConfig, learning_rate: float) -> PhaseConfig:
    """The same documents in the same number of steps as a stage of the model's training."""
    return PhaseConfig(
        streams=stage.streams,
        steps=stage.steps,
        learning_rate=learning_rate,
        warmup_steps=stage.optimiser.warmup_steps,
    )


def tiny(places: Places = TINY) -> BaselineConfig:
    """The scenes' dual encoder: the steps and documents of both stages."""
    return BaselineConfig(
        weights=places.weights,
        features=places.train_features,
        phases=(_phase(train.tiny_align(places), 1e-3), _phase(train.tiny_instruct(places), 1e-3)),
        heads=train.tiny_align(places).heads,
        output=places.baseline,
    )


def small(places: Places = SMALL) -> BaselineConfig:
    """The photographs' dual encoder on SmolLM2: the steps and documents of both stages."""
    align = train.small_align(places)
    return BaselineConfig(
        weights=places.weights,
        features=places.train_features,
        phases=(_phase(align, 1e-4), _phase(train.small_instruct(places), 3e-5)),
        num_layers=align.model.language.num_layers,
        freeze_words=align.model.freeze_words,
        heads=align.heads,
        mixed=True,
        head_multiplier=3.0,
        retrieval_dim=align.model.retrieval_dim,
        output=places.baseline,
    )
