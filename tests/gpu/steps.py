"""Documents as the micro-batches of a step: packed into rows, or padded one a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from chatsearch.data.example import IGNORED, Example
from chatsearch.data.pack import Batch, pack
from chatsearch.train.volume import Volume


@dataclass(frozen=True)
class Size:
    """How much is run."""

    rows: int
    length: int
    max_length: int
    num_documents: int
    num_steps: int


@dataclass(frozen=True)
class Step:
    """One global step: its micro-batches on the host, and what is in it."""

    batches: tuple[Batch, ...]
    volume: Volume
    slots: int


def packed_step(examples: Sequence[Example], size: Size) -> Step:
    """One micro-batch of full rows."""
    batch = pack(examples, range(len(examples)), length=size.length, pad_id=0, num_rows=size.rows)
    return Step((batch,), volume_of(examples), batch.labels.size)


def padded_step(examples: Sequence[Example], size: Size) -> Step:
    """The same documents one a row, in micro-batches of no more slots than the packed one has."""
    num_rows = size.rows * size.length // size.max_length
    batches = []
    for start in range(0, len(examples), num_rows):
        part = examples[start : start + num_rows]
        batches.append(one_a_row(part, start))
    return Step(tuple(batches), volume_of(examples), sum(batch.labels.size for batch in batches))


def one_a_row(examples: Sequence[Example], start: int) -> Batch:
    """Padded to the longest. Positions run on through the padding: causality hides it, and no mask is needed."""
    length = max(map(len, examples))
    rows = [pack([example], [start + row], length=length, pad_id=0) for row, example in enumerate(examples)]

    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(row, name) for row in rows])

    return Batch(
        input_ids=join("input_ids"),
        labels=join("labels"),
        position_ids=np.tile(np.arange(length), (len(rows), 1)),
        document_ids=join("document_ids"),
        image_row=np.repeat(np.arange(len(rows)), [row.num_images for row in rows]),
        image_col=join("image_col"),
        image_target=join("image_target"),
        image_first=join("image_first"),
        image_read=join("image_read"),
        image_sample=join("image_sample"),
        image_hashes=tuple(name for row in rows for name in row.image_hashes),
    )


def volume_of(examples: Sequence[Example]) -> Volume:
    """What a step of these documents holds."""
    lengths = [len(example) for example in examples]
    return Volume(
        documents=len(examples),
        images=sum(len(example.image_hashes) for example in examples),
        positions=sum(lengths),
        labels=sum(int((example.labels != IGNORED).sum()) for example in examples),
        pairs=sum(length**2 for length in lengths),
    )
