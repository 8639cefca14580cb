"""A training run that is whole and takes seconds: tiny random weights, a few scenes, the encoder run online."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from chatsearch.corpora.config import ScenesConfig, ScenesCounts
from chatsearch.corpora.open import open_corpus
from chatsearch.data.config import PrepareConfig, StreamConfig
from chatsearch.data.part import commit_shards, write_part
from chatsearch.data.tokenizer import train_byte_bpe
from chatsearch.kinds import DOCUMENT_SHARDS, MODEL_WEIGHTS
from chatsearch.manifest import begin_output, read_manifest
from chatsearch.model.config import ObjectiveConfig, SearcherConfig
from chatsearch.model.vision import VisionEncoder
from chatsearch.model.weights import StartingWeights, save_weights
from chatsearch.storage import join
from chatsearch.testing.tiny import SENTENCES, tiny_config, tiny_searcher
from chatsearch.train.config import OptimiserConfig, TrainConfig

VOCABULARY = 300


def write_tiny_shards(uri: str, counts: ScenesCounts, split: Literal["train", "val", "test"] = "train") -> str:
    """Document shards of scenes, without a cluster; returns the URI."""
    config = PrepareConfig(corpus=ScenesConfig(kinds=counts, split=split))
    corpus = open_corpus(config.corpus)
    output = begin_output(uri, DOCUMENT_SHARDS, config, {"corpus": corpus.fingerprint()})
    records = (record for partition in corpus.partitions() for record in corpus.read(partition))
    return commit_shards(output, corpus.name, [write_part(output.folder, 0, records)]).uri


def write_tiny_weights(uri: str, model: SearcherConfig | None = None) -> str:
    """Starting weights with seeded random values; returns the URI."""
    model = model or tiny_config(VOCABULARY)
    searcher = tiny_searcher(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision = VisionEncoder(model.vision)
    output = begin_output(uri, MODEL_WEIGHTS, model, {})
    weights = StartingWeights(
        vision=vision,
        language_config=model.language,
        language=searcher.language.word_weights(),
        tokenizer=train_byte_bpe(SENTENCES * 3, VOCABULARY),
    )
    return save_weights(output, weights).uri


def tiny_training(folder: Path | str, **changes: Any) -> TrainConfig:
    """A configuration whose inputs lie in ``folder``, made there if they are not yet. ``changes`` are fields of it."""
    shards, weights = join(str(folder), "shards"), join(str(folder), "weights")
    if read_manifest(weights) is None:
        write_tiny_shards(shards, ScenesCounts(caption=40, edit=24))
        write_tiny_weights(weights)
    config = TrainConfig(
        weights=weights,
        model=tiny_config(VOCABULARY),
        objective=ObjectiveConfig(queue_size=50),
        streams=(StreamConfig(shards=shards, per_step=8),),
        steps=6,
        max_length=320,
        optimiser=OptimiserConfig(learning_rate=1e-3, warmup_steps=2),
        checkpoint_every=2,
        num_workers=0,
        output=join(str(folder), "model"),
    )
    return config.replace(**changes)
