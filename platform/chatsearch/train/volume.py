"""How much a global step holds: looked up in the shards where they are there, else assumed; and the most it can be.

Light: reads documents and the tokenizer, loads no weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from chatsearch.data.coin import Coin
from chatsearch.data.config import StreamConfig
from chatsearch.errors import ChatSearchError, InputError
from chatsearch.manifest import read_manifest
from chatsearch.storage import Folder
from chatsearch.train.config import TrainConfig
from chatsearch.types import Kind

if TYPE_CHECKING:
    from chatsearch.data.shards import DocumentShards
    from chatsearch.data.tokenizer import ChatTokenizer

_LOOKED_AT = 32
"""Documents of a kind that are looked at."""


@dataclass(frozen=True, slots=True)
class Volume:
    """What all workers together read in one step."""

    documents: float = 0.0
    images: float = 0.0
    positions: float = 0.0
    """Tokens with the slots of image blocks, without padding."""
    labels: float = 0.0
    """Positions after which a word is wanted: those that M_t is applied to."""
    pairs: float = 0.0
    """Sum over documents of their length squared: what attention works on."""

    def __add__(self, other: Volume) -> Volume:
        return Volume(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def times(self, factor: float) -> Volume:
        """The same so many times over."""
        return Volume(*(getattr(self, name) * factor for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class StreamVolume:
    """A stream's share of the step."""

    volume: Volume
    origin: str
    """Where the lengths come from, for people."""
    num_documents: int | None = None
    """Documents the stream holds; None where it is not there yet."""


def most(config: TrainConfig) -> Volume:
    """The most that a step can hold: documents that fill their rows, with as many images as fit."""
    return _sum(_most(config, stream).times(stream.per_step) for stream in config.streams)


def expected(config: TrainConfig) -> tuple[StreamVolume, ...]:
    """What a step of each stream holds on average."""
    tokenizer = _tokenizer(config.weights)
    return tuple(_expected(config, stream, tokenizer) for stream in config.streams)


def total(streams: Sequence[StreamVolume]) -> Volume:
    """The whole step."""
    return _sum(stream.volume for stream in streams)


def _sum(volumes: Iterable[Volume]) -> Volume:
    return sum(volumes, Volume())


def _most(config: TrainConfig, stream: StreamConfig) -> Volume:
    length = config.max_length
    images = 1 if stream.kinds == (Kind.CAPTION,) else length // config.model.block_length
    return Volume(1, images, length, length, length**2)


def _expected(config: TrainConfig, stream: StreamConfig, tokenizer: ChatTokenizer | None) -> StreamVolume:
    found = _looked_up(config, stream, tokenizer) if tokenizer is not None and stream.shards else None
    return found or _assumed(config, stream)


def _assumed(config: TrainConfig, stream: StreamConfig) -> StreamVolume:
    plan, block = config.plan, config.model.block_length
    if stream.kinds == (Kind.CAPTION,):
        images, length = 1, block + plan.caption_tokens + 2  # with bos and eos
        origin = f"assumed: 1 image and {plan.caption_tokens} tokens of text (plan.caption_tokens)"
    elif config.answer_only:
        images, length = 1, block + plan.dialogue_tokens
        origin = f"assumed: 1 image and {plan.dialogue_tokens} tokens of text (plan.dialogue_tokens)"
    else:
        images, length = min(plan.document_images, config.max_length // block), config.max_length
        origin = f"assumed: {images} images (plan.document_images), max_length filled"
    length = min(length, config.max_length)
    labels = length - images * (config.model.num_queries + 1)
    return StreamVolume(Volume(1, images, length, labels, length**2).times(stream.per_step), origin)


def _looked_up(config: TrainConfig, stream: StreamConfig, tokenizer: ChatTokenizer) -> StreamVolume | None:
    """The mean over a few documents of each kind, as they would be trained on; None where there is nothing finished."""
    from chatsearch.data.shards import DocumentShards

    try:
        shards = DocumentShards.open(stream.shards)
        held = {kind: num for name, num in shards.kinds.items() if (kind := Kind(name)) in (stream.kinds or Kind)}
        held = {kind: stream.num_taken(kind, num) for kind, num in held.items()}
        means = {kind: _mean(config, stream, kind, shards, tokenizer) for kind in held}
    except ChatSearchError:
        return None
    num_documents = sum(held.values())
    if not num_documents:
        return None
    volume = _sum(means[kind].times(stream.per_step * num / num_documents) for kind, num in held.items())
    origin = f"looked up in the shards: up to {_LOOKED_AT} documents of each kind, of {num_documents:,}"
    return StreamVolume(volume, origin, num_documents)


def _mean(
    config: TrainConfig, stream: StreamConfig, kind: Kind, shards: DocumentShards, tokenizer: ChatTokenizer
) -> Volume:
    """The first documents of a kind, on average. Documents that training leaves out count as empty."""
    from chatsearch.data.example import IGNORED, build_example

    found, seen = Volume(), 0
    for document in islice(shards.documents((kind,)), _LOOKED_AT):
        seen += 1
        with contextlib.suppress(InputError):
            example = build_example(
                document,
                tokenizer,
                config.model.num_queries,
                max_length=config.max_length,
                answer_only=config.answer_only,
                coin=Coin(config.seed, document.document_id, 0),
                caption_first=stream.caption_first,
                word_dropout=stream.word_dropout,
                end_at_image=stream.end_at_image,
            )
            labels = int((example.labels != IGNORED).sum())
            found += Volume(0, len(example.image_hashes), len(example), labels, len(example) ** 2)
    return replace(found.times(1 / max(seen, 1)), documents=1)


def _tokenizer(weights: str) -> ChatTokenizer | None:
    """That of the weights the run starts from; None where they are not finished, which the job itself says."""
    from chatsearch.data.tokenizer import ChatTokenizer

    with contextlib.suppress(ChatSearchError):
        if weights and read_manifest(weights) is not None:
            return ChatTokenizer.load(Folder(weights))
    return None
