"""Baselines trained on the same documents, features and starting weights as the model beside them.

Learning rates are each baseline's own.
"""

from __future__ import annotations

from typing import Any

from chatsearch.evaluate.config import DualEncoderTrainingConfig, FromageTrainingConfig, PhaseConfig
from chatsearch.train.config import TrainConfig

from jobs.recipes import train
from jobs.recipes.places import PHOTOGRAPHS, SMALL, TINY, Places


def _phases(stages: tuple[TrainConfig, TrainConfig], learning_rates: tuple[float, float]) -> tuple[PhaseConfig, ...]:
    """The same documents in the same number of steps as the stages of the model's training."""
    return tuple(
        PhaseConfig(
            streams=stage.streams,
            steps=stage.steps,
            learning_rate=learning_rate,
            warmup_steps=stage.optimiser.warmup_steps,
        )
        for stage, learning_rate in zip(stages, learning_rates, strict=True)
    )


def _shared(align: TrainConfig, places: Places) -> dict[str, Any]:
    """What every baseline has from the model's stage 1."""
    return {
        "weights": places.weights,
        "features": places.train_features,
        "retrieval_dim": align.model.retrieval_dim,
        "heads": align.heads,
    }


def tiny(places: Places = TINY) -> DualEncoderTrainingConfig:
    """The scenes' dual encoder: the steps and documents of both stages."""
    stages = train.tiny_align(places), train.tiny_instruct(places)
    return DualEncoderTrainingConfig(
        **_shared(stages[0], places), phases=_phases(stages, (1e-3, 1e-3)), output=places.baseline
    )


def tiny_fromage(places: Places = TINY) -> FromageTrainingConfig:
    """The scenes' FROMAGe: the steps and documents of both stages."""
    stages = train.tiny_align(places), train.tiny_instruct(places)
    return FromageTrainingConfig(
        **_shared(stages[0], places),
        phases=_phases(stages, (3e-3, 3e-3)),
        max_length=stages[0].max_length,
        output=places.fromage,
    )


def small(places: Places = SMALL) -> DualEncoderTrainingConfig:
    """The photographs' dual encoder on SmolLM2: the steps and documents of both stages."""
    stages = train.small_align(places), train.small_instruct(places)
    return DualEncoderTrainingConfig(
        **_shared(stages[0], places),
        phases=_phases(stages, (1e-4, 1e-4)),
        num_layers=stages[0].model.language.num_layers,
        freeze_words=stages[0].model.freeze_words,
        mixed=True,
        head_multiplier=3.0,
        output=places.baseline,
    )


def small_fromage(places: Places = SMALL) -> FromageTrainingConfig:
    """The photographs' FROMAGe on SmolLM2: the steps and documents of both stages."""
    stages = train.small_align(places), train.small_instruct(places)
    return FromageTrainingConfig(
        **_shared(stages[0], places),
        phases=_phases(stages, (3e-4, 3e-4)),
        num_layers=stages[0].model.language.num_layers,
        max_length=stages[0].max_length,
        mixed=True,
        output=places.fromage,
    )


def small_photos(places: Places = PHOTOGRAPHS) -> DualEncoderTrainingConfig:
    """The dual encoder beside ``small_photos``: SmolLM2's first layers, as many captions of the same photographs."""
    stage = train.small_photos()
    phase = PhaseConfig(
        streams=tuple(stream.replace(shards=places.align_shards) for stream in stage.streams),
        steps=stage.steps,
        learning_rate=1e-4,
        warmup_steps=stage.optimiser.warmup_steps,
    )
    return small(places).replace(phases=(phase,), heads=stage.heads)


def small_photos_scratch(places: Places = PHOTOGRAPHS) -> DualEncoderTrainingConfig:
    """The same from scratch: a text tower of the same shape, drawn at random."""
    pretrained = small_photos(places)
    return pretrained.replace(
        from_scratch=True,
        freeze_words=False,
        phases=(pretrained.phases[0].replace(learning_rate=3e-4),),
        head_multiplier=1.0,
        output=places.at("baseline-dual-encoder-scratch"),
    )
