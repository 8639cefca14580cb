"""The closed-form start of the retrieval heads, shared among the workers before the first step.

Shapes: I images of a batch, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist

from chatsearch.data.pack import Batch
from chatsearch.model.config import HeadsConfig
from chatsearch.model.head_fit import HeadMoments, fit_heads
from chatsearch.model.searcher import ChatSearcher
from chatsearch.train.features import FrozenFeatures
from chatsearch.train.image_states import image_states


@torch.inference_mode()
def start_heads(
    searcher: ChatSearcher, batches: Iterable[Batch], features: FrozenFeatures, config: HeadsConfig, *, mixed: bool
) -> None:
    """Set both heads from what the untrained searcher makes of all workers' batches. All ranks call it.

    Raises:
        ConfigError: the batches ask for too few pictures.
    """
    device = next(searcher.parameters()).device
    searcher.eval()
    moments = HeadMoments.zero(
        searcher.config.language.hidden_size, searcher.config.vision.feature_dim, torch.device("cpu")
    )
    for batch in batches:
        asked_I = torch.from_numpy(batch.image_target & ~batch.image_first)
        if not asked_I.any():
            continue
        states_IH, cls_ID = image_states(searcher, batch, features, mixed=mixed)
        moments.add(states_IH[asked_I.to(device)].cpu(), cls_ID[asked_I.to(device)].cpu())
    for total in moments:
        total_on_device = total.to(device)
        dist.all_reduce(total_on_device)
        total.copy_(total_on_device)
    heads = fit_heads(moments, searcher.config.retrieval_dim, penalty=config.penalty, whitening=config.whitening)
    searcher.query_head.weight.copy_(heads.query_dH)
    searcher.gallery_head.weight.copy_(heads.gallery_dD)
    searcher.train()
