"""The size at which pictures enter the language model before the first step.

Fresh projectors can write vectors into the token stream that are many times a word's: the first layers then see hardly
anything but them, and the optimizer's even steps change them slowly. A pass over one batch tells how large they are.

Shapes: I images of a batch, S = N + 1 slots of an image block, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from chatsearch.data.pack import Batch
from chatsearch.model.searcher import ChatSearcher
from chatsearch.train.features import FrozenFeatures


@torch.inference_mode()
def scale_image_inputs(searcher: ChatSearcher, batches: Iterable[Batch], features: FrozenFeatures) -> None:
    """Scale W_c and W_q so that what they give for all workers' batches has the root mean square of the words' vectors.

    All ranks call it. Batches without a picture change nothing.
    """
    searcher.eval()
    device = next(searcher.parameters()).device
    squares_2, counts_2 = (torch.zeros(2, dtype=torch.float64, device=device) for _ in range(2))
    for batch in batches:
        block_ISH = searcher.image_inputs(*features.of(batch)).double()
        for number, slots_ISH in enumerate((block_ISH[:, :1], block_ISH[:, 1:])):
            squares_2[number] += slots_ISH.square().sum()
            counts_2[number] += slots_ISH.numel()
    dist.all_reduce(squares_2)
    dist.all_reduce(counts_2)
    searcher.train()
    if not counts_2.all():
        return
    wanted = searcher.language.decoder.embed_tokens.weight.double().square().mean().sqrt()
    factors_2 = wanted / (squares_2 / counts_2).sqrt()
    for layer, factor in zip((searcher.input_cls, searcher.input_queries), factors_2, strict=True):
        _scale(layer, factor)


def _scale(layer: nn.Linear, factor: torch.Tensor) -> None:
    for parameter in layer.parameters():
        parameter.mul_(factor.to(parameter.dtype))
