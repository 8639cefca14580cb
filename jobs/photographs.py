"""What training on a captioned folder starts from, made by the ordinary jobs in folders beside the output."""

from __future__ import annotations

from chatsearch.corpora.captioned import CAPTIONS_FILE
from chatsearch.corpora.config import CaptionedFolderConfig
from chatsearch.evaluate.inputs import splits_of
from chatsearch.storage import Folder
from chatsearch.train.config import TrainConfig
from chatsearch.types import Kind

from jobs import embed, prepare, weights
from jobs.recipes import embed as embeddings
from jobs.recipes import prepare as corpora
from jobs.recipes import weights as published
from jobs.recipes.places import Places
from jobs.step import Step

VALIDATION = "val"
VALIDATION_SHARDS, VALIDATION_FEATURES = "shards-val", "features-val"


def located(config: TrainConfig) -> TrainConfig:
    """The same with a place beside the output for every input that ``data`` stands in for.

    Where the folder has a split ``val``, its pictures are looked for in mid-training.
    """
    if not config.data or not config.output:
        return config
    places = _beside(config.output)
    validation = config.validation
    if not validation.shards and _has_validation(config.data):
        validation = validation.replace(shards=places.at(VALIDATION_SHARDS), features=places.at(VALIDATION_FEATURES))
    return config.replace(
        weights=config.weights or places.weights,
        features=config.features or places.train_features,
        streams=tuple(stream.replace(shards=stream.shards or places.align_shards) for stream in config.streams),
        validation=validation,
    )


def input_steps(config: TrainConfig) -> list[Step]:
    """The jobs that make what a located configuration reads, as far as it reads it from beside the output."""
    places = _beside(config.output)
    folder = CaptionedFolderConfig(path=config.data, split="train", emit=(Kind.CAPTION,))
    captions = corpora.small_align(places).replace(corpus=folder)
    validation_shards, validation_features = places.at(VALIDATION_SHARDS), places.at(VALIDATION_FEATURES)
    pictures = embeddings.small_train(places).replace(model=config.weights)
    steps = {
        places.weights: Step(
            "weights", weights.JOB, "small", published.small(places).replace(vision=config.model.vision)
        ),
        places.align_shards: Step("prepare captions", prepare.JOB, "small_align", captions),
        places.train_features: Step(
            "embed training pictures",
            embed.JOB,
            "small_train",
            pictures.replace(gallery=(places.align_shards,)),
        ),
        validation_shards: Step(
            "prepare validation captions",
            prepare.JOB,
            "small_align",
            captions.replace(corpus=folder.replace(split=VALIDATION), output=validation_shards),
        ),
        validation_features: Step(
            "embed validation pictures",
            embed.JOB,
            "small_train",
            pictures.replace(gallery=(validation_shards,), output=validation_features),
        ),
    }
    validation = config.validation
    read = {config.weights, config.features, validation.shards, validation.features}
    read |= {stream.shards for stream in config.streams}
    return [step for place, step in steps.items() if place in read]


def _has_validation(data: str) -> bool:
    """Of a folder that is not there the first job says what is wrong."""
    return Folder(data).exists(CAPTIONS_FILE) and VALIDATION in splits_of(data)


def _beside(output: str) -> Places:
    return Places(f"{output.rstrip('/')}-inputs")
