"""What the searcher makes of a batch where it has to find pictures, outside of a training step.

Shapes: I images, H hidden width, D numbers of f_CLS.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chatsearch.data.pack import Batch
from chatsearch.model.autocast import mixed_precision
from chatsearch.model.searcher import ChatSearcher
from chatsearch.train.features import FrozenFeatures
from chatsearch.train.step import MicroBatch


def image_states(
    searcher: ChatSearcher, batch: Batch, features: FrozenFeatures, *, mixed: bool
) -> tuple[Tensor, Tensor]:
    """h_I (I, H) and raw f_CLS (I, D) of every image of the batch, on the searcher's device; ``mixed`` as in training."""
    cls_ID, tokens_IKE = features.of(batch)
    micro_batch = MicroBatch.of(batch, torch.zeros(0, dtype=torch.int64), cls_ID, tokens_IKE)
    with mixed_precision(cls_ID.device, enabled=mixed):
        hidden_RLH = micro_batch.hidden_states(searcher)
    return searcher.image_states(hidden_RLH, micro_batch.image_row_I, micro_batch.image_col_I), cls_ID
