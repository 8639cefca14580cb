"""A training run whose steps are all of one size: every document fills its row, so that steps can be compared by their time.

Texts are random digits and pictures flat colours: speed does not depend on what they mean. The decoder is large enough for
a step to take a few tenths of a second of one core.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from chatsearch.corpora.base import Sample
from chatsearch.corpora.config import ScenesConfig
from chatsearch.data.config import PrepareConfig, StreamConfig
from chatsearch.data.part import commit_shards, write_part
from chatsearch.kinds import DOCUMENT_SHARDS
from chatsearch.manifest import begin_output
from chatsearch.model.config import LanguageConfig, ObjectiveConfig
from chatsearch.storage import join
from chatsearch.testing.tiny import tiny_config
from chatsearch.testing.training import VOCABULARY, write_tiny_weights
from chatsearch.train.config import OptimiserConfig, TrainConfig
from chatsearch.types import Document, Kind, Segment, content_hash
from PIL import Image

COMMAND = "make bench ONLY=training"
NUM_WORKERS = 2
RUN_LIMIT_S = 1200.0
"""Longest that one run may take on a machine that is busy with other work."""
NUM_DOCUMENTS = 256
LENGTH = 128
"""Positions of a row, each filled by one document."""
PER_STEP = 16
MODEL = tiny_config(VOCABULARY).replace(
    language=LanguageConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_layers=4,
        num_heads=4,
        num_key_value_heads=4,
        max_positions=512,
    ),
    retrieval_dim=128,
)


def even_training(folder: Path | str, **changes: Any) -> TrainConfig:
    """A run whose inputs lie in ``folder``, made there if they are not yet. ``changes`` are fields of its configuration."""
    shards, weights = join(str(folder), "shards"), join(str(folder), "weights")
    if not Path(weights).exists():
        output = begin_output(shards, DOCUMENT_SHARDS, PrepareConfig(corpus=ScenesConfig()), {"corpus": "even"})
        commit_shards(output, "even", [write_part(output.folder, 0, _samples())])
        write_tiny_weights(weights, MODEL)
    config = TrainConfig(
        weights=weights,
        model=MODEL,
        objective=ObjectiveConfig(queue_size=1000),
        streams=(StreamConfig(shards=shards, per_step=PER_STEP),),
        max_length=LENGTH,
        optimiser=OptimiserConfig(learning_rate=1e-4),
        num_workers=0,
        threads_per_worker=1,
        checkpoint_every=10**6,
        log_every=1,
        output=join(str(folder), "model"),
    )
    return config.replace(**changes)


def _samples() -> Iterator[Sample]:
    draw = np.random.default_rng(0)
    num_digits = LENGTH - MODEL.block_length - 2  # beside the image block, the opening and the closing token
    for number in range(NUM_DOCUMENTS):
        stream = io.BytesIO()
        Image.new("RGB", (64, 64), tuple(draw.integers(0, 256, 3).tolist())).save(stream, "PNG")
        picture = content_hash(stream.getvalue())
        text = "".join(map(str, draw.integers(0, 10, num_digits)))
        segments = (Segment(image=picture), Segment(text=text))
        document = Document(f"even-{number}", Kind.CAPTION, segments, corpus="even")
        yield Sample(document, {picture: stream.getvalue()})
