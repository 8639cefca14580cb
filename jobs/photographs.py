"""What training on a captioned folder starts from, made by the ordinary jobs in folders beside the output."""

from __future__ import annotations

from chatsearch.corpora.config import CaptionedFolderConfig
from chatsearch.train.config import TrainConfig
from chatsearch.types import Kind

from jobs import embed, prepare, weights
from jobs.recipes import embed as embeddings
from jobs.recipes import prepare as corpora
from jobs.recipes import weights as published
from jobs.recipes.places import Places
from jobs.step import Step


def located(config: TrainConfig) -> TrainConfig:
    """The same with a place beside the output for every input that ``data`` stands in for."""
    if not config.data or not config.output:
        return config
    places = _beside(config.output)
    return config.replace(
        weights=config.weights or places.weights,
        features=config.features or places.train_features,
        streams=tuple(stream.replace(shards=stream.shards or places.align_shards) for stream in config.streams),
    )


def input_steps(config: TrainConfig) -> list[Step]:
    """The jobs that make what a located configuration reads, as far as it reads it from beside the output."""
    places = _beside(config.output)
    folder = CaptionedFolderConfig(path=config.data, split="train", emit=(Kind.CAPTION,))
    captions = corpora.small_align(places).replace(corpus=folder)
    steps = {
        places.weights: Step("weights", weights.JOB, "small", published.small(places)),
        places.align_shards: Step("prepare captions", prepare.JOB, "small_align", captions),
        places.train_features: Step(
            "embed training pictures",
            embed.JOB,
            "small_train",
            embeddings.small_train(places).replace(gallery=(places.align_shards,), model=config.weights),
        ),
    }
    read = {config.weights, config.features, *(stream.shards for stream in config.streams)}
    return [step for place, step in steps.items() if place in read]


def _beside(output: str) -> Places:
    return Places(f"{output.rstrip('/')}-inputs")
