"""What ``prepare`` and the training streams are told. Light: nothing heavy is imported."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from chatsearch.config import Config, runtime
from chatsearch.corpora.config import CorpusConfig
from chatsearch.errors import ConfigError
from chatsearch.types import Kind

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class PrepareConfig(Config):
    """One corpus turned into document shards."""

    corpus: CorpusConfig
    partitions_per_part: PositiveInt = 1
    """Partitions of the corpus that one task writes into one part; an interrupted run loses unfinished parts only."""
    max_rejected_fraction: float = runtime(0.05, ge=0.0, le=1.0)
    """The job fails when a larger share of the records is set aside."""
    cpus_per_task: float = runtime(1.0, ge=0.0)
    output: str = runtime("")
    """Folder to write, local or ``s3://``."""
    overwrite: bool = runtime(False)
    """Replace what an earlier run made there from other inputs or in another way."""


class StreamConfig(Config):
    """Documents of one kind of training data, and how many of them go into each global step.

    The URI stays out of fingerprints: whoever trains on the shards records their fingerprint as an input.
    """

    shards: str = runtime("")
    """URI of document shards."""
    per_step: int = Field(default=1, ge=1)
    kinds: tuple[Kind, ...] = ()
    """Only documents of these kinds; empty takes all."""
    fractions: dict[Kind, Fraction] = {}
    """Share of a kind's documents that is taken; kinds not named are taken whole. A larger share holds every smaller one."""
    caption_first: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of caption documents read as retrieval, caption before picture; the others are read as captioning [R]."""
    word_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the tokens left out of a caption that comes before its picture, others in every epoch: small sets of captions
    are learnt by heart otherwise."""
    end_at_image: bool = False
    """Leave out what follows ``[IMG]`` where a caption comes before its picture: no word before it can see the block, which
    costs N + 2 positions and a pass of the perceiver to teach ``[/IMG]`` alone."""

    @model_validator(mode="after")
    def _check(self) -> StreamConfig:
        strange = [kind for kind in self.fractions if self.kinds and kind not in self.kinds]
        if strange:
            raise ConfigError(
                f"fractions names {strange[0]}, of which kinds={', '.join(self.kinds)} takes nothing. Leave it out of fractions, "
                "or add it to kinds."
            )
        return self

    def num_taken(self, kind: Kind, number: int) -> int:
        """How many of ``number`` documents of a kind are taken: its share, rounded up."""
        return math.ceil(round(self.fractions.get(kind, 1.0) * number, 6))


class LoaderConfig(Config):
    """How a training worker makes its batches ahead of time. Changes speed, never content."""

    num_tasks: PositiveInt = runtime(1)
    """Processes that build batches for one worker."""
    cpus_per_task: float = runtime(0.5, ge=0.0)
    steps_per_task: PositiveInt = runtime(8)
    """Consecutive steps that one task builds and hands over together."""
    steps_per_window: PositiveInt = runtime(4096)
    """Steps planned at a time, so that the plan of a long run stays small."""
    prefetch_blocks: PositiveInt = runtime(2)
    """Finished blocks kept ready in the worker."""
