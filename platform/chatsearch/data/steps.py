"""What a worker trains on in one global step: plain Python, a pure function of (configuration, step, rank).

:mod:`chatsearch.data.stream` runs this ahead of time on Ray Data; a test or a run without a cluster calls it directly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chatsearch.corpora.images import decode_rgb
from chatsearch.data.coin import Coin
from chatsearch.data.config import StreamConfig
from chatsearch.data.example import Example, build_example
from chatsearch.data.leaks import leaks
from chatsearch.data.pack import Batch, pack
from chatsearch.data.plan import Sample, StepPlan, permutation, rank_slice
from chatsearch.data.shards import DocumentShards
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import BadImageError, InputError, MissingInputError
from chatsearch.patience import Patience
from chatsearch.storage import is_remote

logger = logging.getLogger(__name__)

Preprocess = Callable[[Image.Image], NDArray[Any]]
"""From an RGB picture to an array of fixed shape, e.g. uint8 (3, H, W). Picklable."""


def taken(shards: DocumentShards, stream: StreamConfig) -> NDArray[np.int64]:
    """Indices of the documents that a stream takes, ascending.

    Which ones of a kind are left out depends on their number alone, so that every run of any seed sees the same data.
    """
    chosen = shards.select(stream.kinds)
    for kind in sorted(stream.fractions):
        held = shards.select([kind])
        left_out = permutation(0, 0, 0, len(held))[stream.num_taken(kind, len(held)) :]
        chosen = np.setdiff1d(chosen, held[left_out], assume_unique=True)
    return chosen


@dataclass(frozen=True)
class StepBuilder:
    """Builds the batches of any step for any worker. Picklable: shards are opened where it is used.

    Args:
        streams: documents and how many of each go into a global step.
        tokenizer: gives the ids.
        num_queries: N, perceiver outputs in an image block.
        max_length: positions of a packed row, and the most that one document may take.
        answer_only: loss on answers alone (stage 2) instead of on everything (stage 1).
        seed: of the order, and of the draws within documents.
        num_micro_batches: a worker's share of a step comes in so many batches (gradient accumulation).
        num_rows: rows of each batch; None takes as many as needed.
        split: the only split that may be in the shards; None allows all.
        held_out: document shards; training documents that show one of their pictures are left out.
        preprocess: also deliver pictures, for an encoder that runs online; None delivers content hashes only.
        store_patience_s: how long an object store that does not answer is asked again.
        say: takes what people should know of it, wherever the batches are built.
    """

    streams: tuple[StreamConfig, ...]
    tokenizer: ChatTokenizer
    num_queries: int
    max_length: int
    answer_only: bool = False
    seed: int = 0
    num_micro_batches: int = 1
    num_rows: int | None = None
    split: str | None = "train"
    held_out: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    store_patience_s: float = 0.0
    say: Callable[[str], None] = logger.warning

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("sources", "plan")}

    @cached_property
    def sources(self) -> list[tuple[DocumentShards, NDArray[np.int64]]]:
        """Shards of each stream and the indices of the documents it takes.

        Raises:
            InputError: shards hold documents of another split, or everything in them is held out.
            ArtefactError: shards are not there, not finished or damaged.
        """
        sources = []
        for stream in self.streams:
            shards = DocumentShards.open(stream.shards)
            if self.split is not None:
                shards.require_split(self.split)
            indices = taken(shards, stream)
            found = leaks(shards, indices, self.held_out)
            kept = np.setdiff1d(indices, np.concatenate([indices[:0], *(leak.documents_L for leak in found)]))
            if len(indices) and not len(kept):
                raise InputError(
                    f"All {len(indices)} documents that training would take of {stream.shards} show pictures of "
                    f"{', '.join(self.held_out)}. Name other held_out shards, or train on other documents."
                )
            sources.append((shards, kept))
        return sources

    @cached_property
    def plan(self) -> StepPlan:
        """The order of all samples.

        Raises:
            ConfigError: a stream holds no document of its kinds.
        """
        sizes = zip(self.sources, self.streams, strict=True)
        return StepPlan(self.seed, tuple((len(indices), stream.per_step) for (_, indices), stream in sizes))

    def build(self, step: int, rank: int, world_size: int) -> list[Batch]:
        """The ``num_micro_batches`` batches of one worker in global step ``step``.

        A document that gives no example, or one of whose pictures cannot be decoded, is left out and named in
        ``Batch.rejected``.

        Raises:
            ConfigError: ``num_rows`` rows cannot hold the sequences.
            MissingInputError: a picture is not in its shards.
            UnreachableStoreError: the shards' store has gone away and not come back.
        """

        def share() -> list[Batch]:
            samples = rank_slice(self.plan.step(step), rank, world_size)
            return [self._batch(rank_slice(samples, n, self.num_micro_batches)) for n in range(self.num_micro_batches)]

        uris = [*(stream.shards for stream in self.streams), *self.held_out]
        return Patience(next(filter(is_remote, uris), ""), self.store_patience_s, self.say).insist(share)

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        examples: dict[int, Example] = {}
        rejected: dict[int, str] = {}
        for sample in samples:
            shards, indices = self.sources[sample.stream]
            document = shards.document(int(indices[sample.document]))
            try:
                examples[sample.ordinal] = build_example(
                    document,
                    self.tokenizer,
                    self.num_queries,
                    max_length=self.max_length,
                    answer_only=self.answer_only,
                    coin=Coin(self.seed, document.document_id, sample.epoch),
                    caption_first=self.streams[sample.stream].caption_first,
                    word_dropout=self.streams[sample.stream].word_dropout,
                    end_at_image=self.streams[sample.stream].end_at_image,
                )
            except InputError as error:
                rejected[sample.ordinal] = str(error)
        pictures: dict[str, NDArray[Any]] = {}
        if self.preprocess is not None:
            for ordinal, example in list(examples.items()):
                try:
                    pictures |= {name: self._pixels(name) for name in example.image_hashes if name not in pictures}
                except BadImageError as error:
                    rejected[ordinal] = f"Document {example.document_id!r}: {error}"
                    del examples[ordinal]
        batch = pack(
            list(examples.values()),
            list(examples),
            length=self.max_length,
            pad_id=self.tokenizer.pad_id,
            num_rows=self.num_rows,
            rejected=[reason for _, reason in sorted(rejected.items())],
        )
        if self.preprocess is None or not batch.num_images:
            return batch
        return replace(batch, pixels=np.stack([pictures[name] for name in batch.image_hashes]))

    def _pixels(self, content_hash: str) -> NDArray[Any]:
        assert self.preprocess is not None
        return self.preprocess(decode_rgb(self._picture(content_hash)))

    def _picture(self, content_hash: str) -> bytes:
        for shards, _ in self.sources:
            if content_hash in shards.images:
                return shards.images.get(content_hash)
        uris = ", ".join(stream.shards for stream in self.streams)
        raise MissingInputError(f"No picture {content_hash!r} in {uris}. Prepare the shards again.")
