"""One set of documents as micro-batches: packed, padded as they come, grouped by length, and grouped under a budget of slots.

    packed      into as few rows of ``LENGTH`` as training finds, 8 rows a micro-batch
    padded      in random order, 8 documents a micro-batch, each padded to its longest
    grouped     transformers' ``group_by_length``: sorted within 50 micro-batches of random documents, then as ``padded``
    budgeted    fairseq's ``--max-tokens``: sorted as ``grouped``, as many documents as fill the slots of a packed micro-batch

No micro-batch takes more slots than a packed one: 8 x 512.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from chatsearch.data.example import Example
from chatsearch.data.pack import Batch, pack

from tests.gpu.steps import one_a_row
from tests.gpu.synthetic_documents import row_groups

LENGTH, ROWS = 512, 8
SLOTS = LENGTH * ROWS
MEGA_BATCHES = 50


def packed(examples: Sequence[Example]) -> list[Batch]:
    rows = row_groups(examples, LENGTH, 1)
    groups = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
    return [_packed([example for row in group for example in row]) for group in groups]


def padded(examples: Sequence[Example]) -> list[Batch]:
    return [one_a_row(part, 0) for part in _runs(examples, ROWS)]


def grouped(examples: Sequence[Example]) -> list[Batch]:
    return [one_a_row(part, 0) for mega in _sorted_runs(examples) for part in _runs(mega, ROWS)]


def budgeted(examples: Sequence[Example]) -> list[Batch]:
    batches = []
    for mega in _sorted_runs(examples):
        part: list[Example] = []
        for example in mega:  # the longest comes first
            if part and (len(part) + 1) * len(part[0]) > SLOTS:
                batches.append(one_a_row(part, 0))
                part = []
            part.append(example)
        batches.append(one_a_row(part, 0))
    return batches


LAYOUTS: dict[str, Callable[[Sequence[Example]], list[Batch]]] = {
    "packed": packed,
    "padded": padded,
    "grouped": grouped,
    "budgeted": budgeted,
}


def slot_fill(batches: Sequence[Batch]) -> float:
    """Share of slots that hold a document's position."""
    return sum(useful(batch) for batch in batches) / sum(batch.labels.size for batch in batches)


def useful(batch: Batch) -> int:
    """Positions of documents."""
    return int((batch.document_ids >= 0).sum())


def shuffled(examples: Sequence[Example]) -> list[Example]:
    """In random order."""
    return random.Random(0).sample(list(examples), len(examples))


def _packed(examples: Sequence[Example]) -> Batch:
    return pack(examples, range(len(examples)), length=LENGTH, pad_id=0)


def _runs(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    return (examples[start : start + size] for start in range(0, len(examples), size))


def _sorted_runs(examples: Sequence[Example]) -> Iterator[list[Example]]:
    return (sorted(mega, key=len, reverse=True) for mega in _runs(examples, ROWS * MEGA_BATCHES))
