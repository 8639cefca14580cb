"""What the searcher makes of a batch where it has to find pictures, outside of a training step.

Shapes: I images, H hidden width, D numbers of f_CLS.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chatsearch.data.pack import Batch
from chatsearch.model.searcher import ChatSearcher
from chatsearch.train.features import FrozenFeatures


def image_states(
    searcher: ChatSearcher, batch: Batch, features: FrozenFeatures, *, mixed: bool
) -> tuple[Tensor, Tensor]:
    """h_I (I, H) and raw f_CLS (I, D) of every image of the batch, on the searcher's device; ``mixed`` as in training."""
    device = next(searcher.parameters()).device
    cls_ID, tokens_IKE = features.of(batch)
    row_I, col_I = torch.from_numpy(batch.image_row).to(device), torch.from_numpy(batch.image_col).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
        hidden_RLH = searcher(
            torch.from_numpy(batch.input_ids).to(device),
            torch.from_numpy(batch.position_ids).to(device),
            image_row_I=row_I,
            image_col_I=col_I,
            cls_ID=cls_ID,
            tokens_ITE=tokens_IKE,
        )
    return searcher.image_states(hidden_RLH, row_I, col_I), cls_ID
