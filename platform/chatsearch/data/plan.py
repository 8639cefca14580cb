"""Which documents make global step s: a pure function of (seed, stream sizes, samples per step, s).

Worker count, gradient accumulation and the moment of a resume do not enter, so a run on four workers that is
stopped and continued on two sees the same samples in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatsearch.config import digest
from chatsearch.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sample:
    """One draw of a step."""

    ordinal: int
    """Place in the global step: the order in which images enter the queue."""
    stream: int
    document: int
    """Index of the document in its stream."""
    epoch: int


@dataclass(frozen=True)
class StepPlan:
    """Draws of every global step from several streams, each shuffled anew in every epoch.

    Args:
        seed: of all permutations.
        streams: (number of documents, samples per step) of each.

    Raises:
        ConfigError: no stream, an empty stream, or a stream with no sample per step.
    """

    seed: int
    streams: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.streams:
            raise ConfigError("A plan needs at least one stream of documents. Add one.")
        for number, (num_documents, per_step) in enumerate(self.streams):
            if num_documents < 1 or per_step < 1:
                raise ConfigError(
                    f"Stream {number} holds {num_documents} documents and gives {per_step} samples a step; both must be at "
                    "least 1. Check that its shards hold documents of the wanted kinds."
                )

    @property
    def per_step(self) -> int:
        """Samples in one global step."""
        return sum(per_step for _, per_step in self.streams)

    def step(self, step: int) -> list[Sample]:
        """The samples of global step ``step`` (from 0), in global order: stream by stream."""
        assert step >= 0, step
        samples: list[Sample] = []
        for stream, (num_documents, per_step) in enumerate(self.streams):
            for draw in range(step * per_step, (step + 1) * per_step):
                epoch, place = divmod(draw, num_documents)
                document = int(permutation(self.seed, stream, epoch, num_documents)[place])
                samples.append(Sample(len(samples), stream, document, epoch))
        return samples


def rank_slice(samples: Sequence[Sample], rank: int, world_size: int) -> list[Sample]:
    """The share of one rank, in order: every ``world_size``-th sample, so that all ranks get as many of each stream.

    Streams lie one after the other in a step, and their documents differ in length: of contiguous shares the last rank's, pages
    alone, would be the one that all others wait for.
    """
    assert 0 <= rank < world_size, (rank, world_size)
    return list(samples[rank::world_size])


@functools.lru_cache(maxsize=8)
def permutation(seed: int, stream: int, epoch: int, num_documents: int) -> NDArray[np.int64]:
    """The order of one stream in one epoch.

    Built from the raw output of Philox, which NumPy keeps stable across versions, unlike ``Generator.permutation``.
    """
    key = int(digest("permutation", seed, stream, epoch), 16)
    order = np.argsort(np.random.Philox(key=key).random_raw(num_documents), kind="stable")
    order.flags.writeable = False
    return order
