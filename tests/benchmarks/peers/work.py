"""What every side does to a sample, and to a batch of them: the same functions, whoever loads it.

Shapes: B pictures of 3 x S x S.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from chatsearch.corpora.images import decode_rgb
from chatsearch.data.coin import Coin
from chatsearch.data.example import build_example
from chatsearch.data.pack import pack
from chatsearch.data.part import document_of
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.model.pixels import Preprocessing
from chatsearch.storage import Folder
from chatsearch.types import Document
from torch import Tensor
from torch.utils.data import default_collate

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PREPROCESSING = Preprocessing(224, "center", 224, "bicubic", MEAN, STD)
"""CLIP's: the shorter side to 224 pixels, bicubic, and the square in the middle."""
NUM_QUERIES = 32
MAX_LENGTH = 512


def pixels_of(data: bytes) -> Tensor:
    """uint8 (3, S, S) of an encoded picture."""
    return torch.from_numpy(PREPROCESSING(decode_rgb(data)))


class Sequences:
    """Documents to packed rows, as :class:`chatsearch.data.steps.StepBuilder` makes them."""

    def __init__(self, tokenizer: str) -> None:
        self._tokenizer = ChatTokenizer.load(Folder(tokenizer))

    def __call__(self, documents: Sequence[Document]) -> dict[str, Any]:
        """A batch as tensors, which cross to the main process in shared memory."""
        examples = [
            build_example(
                document,
                self._tokenizer,
                NUM_QUERIES,
                max_length=MAX_LENGTH,
                answer_only=False,
                coin=Coin(0, document.document_id, 0),
            )
            for document in documents
        ]
        batch = pack(examples, range(len(examples)), length=MAX_LENGTH, pad_id=self._tokenizer.pad_id)
        arrays = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
        return {name: torch.from_numpy(array) for name, array in arrays.items() if hasattr(array, "dtype")} | {
            "image_hashes": batch.image_hashes
        }

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Samples of a ``document`` and its ``pixels`` as one batch; pictures are stacked where the main process reads them."""
        batch = self([sample["document"] for sample in samples])
        if "pixels" in samples[0]:
            batch["pixels"] = default_collate([sample["pixels"] for sample in samples])
        return batch


def document_from(text: bytes | str) -> Document:
    """A document of the JSON that the conversions write."""
    return document_of(json.loads(text))


class Step:
    """Takes batches in: pictures are copied to a buffer of the step's, as a copy to a device would."""

    def __init__(self, batch_size: int) -> None:
        self._held_B3SS = torch.empty(batch_size, 3, PREPROCESSING.size, PREPROCESSING.size, dtype=torch.uint8)

    def take(self, pixels_B3SS: Tensor) -> None:
        """Copy one batch."""
        self._held_B3SS[: len(pixels_B3SS)].copy_(pixels_B3SS)
