"""LoRA (arXiv 2106.09685): a language model that keeps its weights and learns W + (alpha / r) B A beside each matrix W.

Adapters exist while a stage trains. They are merged into plain matrices before anything is exported, so a bundle, an index
or a server knows nothing of them.

Shapes: r rank, (O, I) of the matrix adapted.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatsearch.model.config import LoraConfig
from chatsearch.model.searcher import ChatSearcher

Linear = TypeVar("Linear", bound=nn.Linear)


class AdaptedLinear(nn.Linear):
    """A matrix with an adapter. The matrix is that of the layer it stands for, under the same name, and frozen."""

    def __init__(self, base: nn.Linear, lora: LoraConfig, generator: torch.Generator) -> None:
        assert base.bias is None, "the decoder's matrices have no bias"
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight = base.weight.requires_grad_(False)
        self.scale: float = lora.alpha / lora.rank
        down_rI = torch.empty(lora.rank, base.in_features, device="cpu")  # the same numbers wherever the model lies
        bound = 1 / math.sqrt(base.in_features)
        down_rI.uniform_(-bound, bound, generator=generator)
        # B = 0: before its first update an adapter changes nothing.
        self.lora_down_rI: nn.Parameter = nn.Parameter(down_rI.to(self.weight))
        self.lora_up_Or: nn.Parameter = nn.Parameter(self.weight.new_zeros(base.out_features, lora.rank))

    def forward(self, input: Tensor) -> Tensor:
        """W x + (alpha / r) B A x."""
        low = F.linear(input, self.lora_down_rI)
        return F.linear(input, self.weight) + self.scale * F.linear(low, self.lora_up_Or)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain matrix that does the same."""
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(self.weight + self.scale * (self.lora_up_Or @ self.lora_down_rI))
        return plain


def add_adapters(searcher: ChatSearcher, lora: LoraConfig, *, seed: int) -> None:
    """Freeze the words and the decoder, and put an adapter beside every matrix that ``lora`` names. A rank of 0 does nothing.

    The rows of the control tokens and all parts outside of the language model learn as ever.
    """
    if not lora.rank:
        return
    language = searcher.language
    language.decoder.requires_grad_(False)
    language.head_VH.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parent, name, linear in _linears(language.decoder, nn.Linear):
        if name in lora.projections:
            setattr(parent, name, AdaptedLinear(linear, lora, generator))


def merge_adapters(searcher: ChatSearcher) -> None:
    """Make every adapter part of its matrix; all tensors then have the names and shapes of a searcher without any."""
    for parent, name, linear in _linears(searcher.language.decoder, AdaptedLinear):
        setattr(parent, name, linear.merged())


def _linears(root: nn.Module, kind: type[Linear]) -> list[tuple[nn.Module, str, Linear]]:
    """Every layer of exactly a kind with the module it is an attribute of, in the order of the model."""
    children = ((parent, name, child) for parent in root.modules() for name, child in parent.named_children())
    return [(parent, name, child) for parent, name, child in children if type(child) is kind]
