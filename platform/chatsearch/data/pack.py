"""Sequences packed into rows: whole documents only, each with its own positions and id.

Shape letters: R rows, L positions of a row, I images in the batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatsearch.data.example import IGNORED, Example
from chatsearch.errors import ConfigError, InputError

PADDING = -1
"""Document id of positions that belong to no document."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch as plain arrays. Image arrays run in the order (sample, position)."""

    input_ids: NDArray[np.int64]
    """(R, L)"""
    labels: NDArray[np.int64]
    """(R, L), shifted: the id wanted after each position, -100 for none."""
    position_ids: NDArray[np.int64]
    """(R, L), restarting at 0 in each document."""
    document_ids: NDArray[np.int64]
    """(R, L), the number of the document within its row, -1 on padding. Attention stays within equal ids."""
    image_row: NDArray[np.int64]
    """(I,)"""
    image_col: NDArray[np.int64]
    """(I,), the ``<CLS>`` slot; ``[IMG]`` is one to the left. Where the image is not read, its sequence ends there."""
    image_target: NDArray[np.bool_]
    """(I,), whether the image is to be retrieved."""
    image_first: NDArray[np.bool_]
    """(I,), whether nothing but bos stands before it."""
    image_read: NDArray[np.bool_]
    """(I,), whether its slots are there to be filled."""
    image_sample: NDArray[np.int64]
    """(I,), ordinal of the sample in the global step: with the order here, the order of entering the queue."""
    image_hashes: tuple[str, ...]
    """(I,), content hashes."""
    rejected: tuple[str, ...] = ()
    """Reasons of documents of this slice that gave no example, each naming its document."""
    pixels: NDArray[Any] | None = None
    """(I, ...), preprocessed pictures when the encoder runs online."""

    @property
    def num_images(self) -> int:
        """I."""
        return len(self.image_hashes)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The fields as arrays alone (hashes as ``S64``, reasons as UTF-8 JSON), without pickled objects."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays["image_hashes"] = np.array([h.encode() for h in self.image_hashes], dtype="S64")
        arrays["rejected"] = np.frombuffer(json.dumps(self.rejected).encode(), dtype=np.uint8)
        if self.pixels is None:
            del arrays["pixels"]
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Batch:
        """The inverse of :meth:`to_arrays`."""
        plain: dict[str, Any] = dict(arrays)
        plain["image_hashes"] = tuple(h.decode() for h in arrays["image_hashes"].tolist())
        plain["rejected"] = tuple(json.loads(arrays["rejected"].tobytes()))
        return cls(**plain)


def pack(
    examples: Sequence[Example],
    ordinals: Sequence[int],
    *,
    length: int,
    pad_id: int,
    num_rows: int | None = None,
    rejected: Sequence[str] = (),
) -> Batch:
    """Whole sequences into as few rows as :func:`fill_rows` finds.

    Args:
        examples: sequences of at most ``length`` positions, in sample order.
        ordinals: their places in the global step.
        length: L, positions of a row.
        pad_id: id held by padding.
        num_rows: R; None takes as many rows as are needed, and at least one.
        rejected: reasons of documents that gave no example, passed through.

    Raises:
        InputError: a sequence is longer than a row.
        ConfigError: more rows are needed than ``num_rows``.
    """
    assert len(examples) == len(ordinals)
    for example in examples:
        if len(example) > length:
            raise InputError(
                f"Document {example.document_id!r} takes {len(example)} positions, a row holds {length}. Lower max_length or raise "
                "the row."
            )
    rows = fill_rows([len(example) for example in examples], length)
    needed = max(len(rows), 1)
    if num_rows is not None and needed > num_rows:
        raise ConfigError(
            f"{len(examples)} sequences need {needed} rows of {length} positions, num_rows is {num_rows}. Raise num_rows, lower "
            "the samples per step, or leave num_rows unset."
        )
    shape = (num_rows or needed, length)
    input_ids_RL = np.full(shape, pad_id, dtype=np.int64)
    labels_RL = np.full(shape, IGNORED, dtype=np.int64)
    position_ids_RL = np.zeros(shape, dtype=np.int64)
    document_ids_RL = np.full(shape, PADDING, dtype=np.int64)
    places = np.zeros((len(examples), 2), dtype=np.int64)  # row and first position
    for row, numbers in enumerate(rows):
        start = 0
        for document, number in enumerate(numbers):
            example = examples[number]
            span = slice(start, start + len(example))
            input_ids_RL[row, span] = example.input_ids
            labels_RL[row, span] = example.labels
            position_ids_RL[row, span] = np.arange(len(example))
            document_ids_RL[row, span] = document
            places[number] = row, start
            start += len(example)
    counts = [len(e.image_hashes) for e in examples]
    rows_I, starts_I = np.repeat(places, counts, axis=0).T
    return Batch(
        input_ids=input_ids_RL,
        labels=labels_RL,
        position_ids=position_ids_RL,
        document_ids=document_ids_RL,
        image_row=rows_I.copy(),
        image_col=starts_I + _joined([e.image_positions for e in examples], np.int64),
        image_target=_joined([e.image_is_target for e in examples], np.bool_),
        image_first=_joined([e.image_is_first for e in examples], np.bool_),
        image_read=_joined([e.image_is_read for e in examples], np.bool_),
        image_sample=np.repeat(np.array(ordinals, dtype=np.int64), counts),
        image_hashes=tuple(h for e in examples for h in e.image_hashes),
        rejected=tuple(rejected),
    )


def fill_rows(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Rows of at most ``length`` positions, as the numbers of the sequences in them.

    Minimum bin slack with the longest fixed (Fleszar and Hindi 2002): each row is opened by the longest sequence left and takes
    of the others those that fill it best, longer ones first. First-fit leaves gaps that are shorter than any sequence.
    """
    left = sorted(range(len(sizes)), key=lambda number: -sizes[number])
    rows: list[list[int]] = []
    while left:
        first, *left = left
        room = length - sizes[first]
        # Bit s of reachable[n]: some of the first n sequences left take s positions together.
        reachable, within = [1], (1 << room + 1) - 1
        for number in left:
            reachable.append((reachable[-1] | reachable[-1] << sizes[number]) & within)
        taken, filled = set(), reachable[-1].bit_length() - 1
        for n in range(len(left), 0, -1):
            if not reachable[n - 1] >> filled & 1:
                taken.add(left[n - 1])
                filled -= sizes[left[n - 1]]
        rows.append([first, *(number for number in left if number in taken)])
        left = [number for number in left if number not in taken]
    return rows


def _joined(parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.asarray(p, dtype=dtype) for p in parts]) if parts else np.zeros(0, dtype=dtype)
