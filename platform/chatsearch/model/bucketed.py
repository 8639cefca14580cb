"""Attention of packed documents without a mask: documents of about one length are laid side by side as a batch.

A dense mask makes every position of a row meet every other one. Here a document meets itself and what rounds its length up to the
width of its bucket: on a CPU, whose kernels know no variable lengths, that is most of the way to the sum of squared lengths.

A document repeats its last position up to the width. Causal attention keeps what is repeated from all that stands before it, and
its own results are dropped. Widths depend on the document's own length alone, so neighbours do not change a document's rounding.

Shapes: P positions of all rows, M places in the buckets, N documents of a bucket of width W, A heads (K of keys and values) of width d.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_FINE = 16
"""Widths up to 64 are multiples of this; beyond, four to each power of two."""


@dataclass(frozen=True)
class Buckets:
    """Where each position of a pass stands in the buckets, and back."""

    position_M: Tensor
    """Position that stands in each place."""
    kept_M: Tensor
    """Whether the place is its position's own; the others repeat the last position of their document."""
    place_P: Tensor
    """Own place of each position."""
    shapes: tuple[tuple[int, int], ...]
    """Documents and width of each bucket."""

    @classmethod
    def of(cls, bounds_N1: Tensor) -> Buckets:
        """Buckets of the documents between successive bounds, laid end to end."""
        lengths_N = bounds_N1.diff()
        widths_N = torch.tensor([_width(length) for length in lengths_N.tolist()], device=bounds_N1.device)
        positions, kept, shapes = [], [], []
        for width in sorted(set(widths_N.tolist())):
            chosen_N = (widths_N == width).nonzero().flatten()
            step_W = torch.arange(width, device=bounds_N1.device)
            length_N1 = lengths_N[chosen_N][:, None]
            positions.append((bounds_N1[chosen_N][:, None] + torch.minimum(step_W, length_N1 - 1)).flatten())
            kept.append((step_W < length_N1).flatten())
            shapes.append((len(chosen_N), width))
        position_M, kept_M = torch.cat(positions), torch.cat(kept)
        place_P = torch.empty(int(bounds_N1[-1]), dtype=torch.int64, device=bounds_N1.device)
        place_P[position_M[kept_M]] = kept_M.nonzero().flatten()
        return cls(position_M, kept_M, place_P, tuple(shapes))


def _width(length: int) -> int:
    step = _FINE if length <= 4 * _FINE else 1 << (length - 1).bit_length() - 3
    return -(-length // step) * step


def bucketed_attention(
    query_PAd: Tensor, key_PKd: Tensor, value_PKd: Tensor, buckets: Buckets, *, scaling: float
) -> Tensor:
    """Causal attention of each document by itself, (P, A, d)."""
    placed = [_Place.apply(x, buckets.position_M, buckets.place_P) for x in (query_PAd, key_PKd, value_PKd)]
    ends = list(accumulate((documents * width for documents, width in buckets.shapes), initial=0))
    out = []
    for (start, end), shape in zip(pairwise(ends), buckets.shapes, strict=True):
        query, key, value = (x[start:end].unflatten(0, shape).transpose(1, 2) for x in placed)
        grouped = query_PAd.shape[1] != key_PKd.shape[1]
        found = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
        out.append(found.transpose(1, 2).flatten(0, 1))
    result: Tensor = _TakeBack.apply(torch.cat(out), buckets.position_M, buckets.kept_M, buckets.place_P)
    return result


class _Place(torch.autograd.Function):
    """Positions to places. What repeated positions pass back is zero, so the gradient is gathered, too, not scattered."""

    @staticmethod
    def forward(ctx: Any, x_Pad: Tensor, position_M: Tensor, place_P: Tensor) -> Tensor:
        ctx.save_for_backward(place_P)
        return x_Pad.index_select(0, position_M)

    @staticmethod
    def backward(ctx: Any, grad_Mad: Tensor) -> tuple[Tensor, None, None]:
        (place_P,) = ctx.saved_tensors
        return grad_Mad.index_select(0, place_P), None, None


class _TakeBack(torch.autograd.Function):
    """Own places back to positions; nothing flows into the places that repeat one."""

    @staticmethod
    def forward(ctx: Any, x_Mad: Tensor, position_M: Tensor, kept_M: Tensor, place_P: Tensor) -> Tensor:
        ctx.save_for_backward(position_M, kept_M)
        return x_Mad.index_select(0, place_P)

    @staticmethod
    def backward(ctx: Any, grad_Pad: Tensor) -> tuple[Tensor, None, None, None]:
        position_M, kept_M = ctx.saved_tensors
        return grad_Pad.index_select(0, position_M) * kept_M[:, None, None], None, None, None
