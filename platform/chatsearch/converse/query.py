"""Query embeddings of many contexts at once, with ``[IMG]`` forced: what recall is measured with.

Shapes: B contexts in a batch, L positions of the longest, H hidden width, I pictures of the batch, d retrieval width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from chatsearch.converse.pictures import PictureFeatures
from chatsearch.data.example import Example, query_example
from chatsearch.types import Segment

if TYPE_CHECKING:
    from chatsearch.model.bundle import ModelBundle


class FeatureSource(Protocol):
    """Features of pictures by content hash, such as a :class:`chatsearch.converse.pictures.PictureEncoder`."""

    def encode(self, hashes: Sequence[str], /) -> PictureFeatures:
        """Features of these pictures, in this order."""


def encode_queries(
    bundle: ModelBundle,
    contexts: Sequence[Sequence[Segment]],
    features: FeatureSource,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
) -> NDArray[np.float32]:
    """Unit query embeddings (number of contexts, d), in the order of the contexts.

    Args:
        bundle: the model and its tokenizer.
        contexts: segments of each context; dialogues end in a user turn, captions are role-less.
        features: gives the features of the contexts' pictures.
        batch_size: contexts in one forward pass.
        max_length: positions of a context; the oldest rounds of longer ones are dropped. By default what the model takes.

    Raises:
        InputError: a context is empty, or its last round alone is too long.
    """
    limit = max_length or bundle.config.language.max_positions
    examples = [
        query_example(context, bundle.tokenizer, bundle.config.num_queries, max_length=limit, name=f"context {number}")
        for number, context in enumerate(contexts)
    ]
    embeddings = np.empty((len(examples), bundle.config.retrieval_dim), np.float32)
    for rows in _batches(examples, batch_size):
        embeddings[rows] = _encode_batch(bundle, [examples[row] for row in rows], features)
    return embeddings


def _batches(examples: Sequence[Example], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, so that little is spent on padding."""
    by_length = sorted(range(len(examples)), key=lambda row: len(examples[row]))
    for start in range(0, len(by_length), batch_size):
        yield by_length[start : start + batch_size]


@torch.inference_mode()
def _encode_batch(bundle: ModelBundle, examples: Sequence[Example], features: FeatureSource) -> NDArray[np.float32]:
    searcher = bundle.searcher.eval()
    device = searcher.query_head.weight.device
    lengths_B = torch.tensor([len(example) for example in examples], device=device)
    num_positions = int(lengths_B.max())
    # Padding stands behind each context: the causal mask keeps the context from seeing it.
    ids_BL = torch.full((len(examples), num_positions), bundle.tokenizer.pad_id, device=device)
    for row, example in enumerate(examples):
        ids_BL[row, : len(example)] = torch.from_numpy(example.input_ids).long()
    hashes = [content_hash for example in examples for content_hash in example.image_hashes]
    if hashes:
        pictures = features.encode(hashes)
        rows_I = torch.tensor(
            [row for row, example in enumerate(examples) for _ in example.image_hashes], device=device
        )
        columns_I = torch.tensor(np.concatenate([e.image_positions for e in examples]), dtype=torch.long, device=device)
        cls_ID, tokens_ITE = pictures.cls_ID.to(device), pictures.tokens_ITE.to(device)
        embeddings_BLH = searcher.input_embeddings(ids_BL, rows_I, columns_I, cls_ID, tokens_ITE)
    else:
        embeddings_BLH = searcher.language.embed(ids_BL)
    positions_BL = torch.arange(num_positions, device=device).expand(len(examples), -1)
    hidden_BLH = searcher.language(embeddings_BLH, positions_BL)
    state_BH = hidden_BLH[torch.arange(len(examples), device=device), lengths_B - 1]
    return searcher.query_embedding(state_BH).cpu().numpy()
