"""Attention within packed documents: four ways to one result.

    sdpa     scaled dot product attention under a dense block-diagonal causal mask: any device, any precision
    flex     FlexAttention under a mask of blocks: those without a pair to attend are skipped; forward only on a CPU
    varlen   FlashAttention over all documents of all rows laid end to end: half precision on a CUDA device alone
    buckets  documents of about one length as a batch, without a mask: what a CPU does best (:mod:`chatsearch.model.bucketed`)

sdpa works on all L x L pairs of a row, the others on about the sum of the documents' squared lengths.

They share one entry in transformers' registry and are told apart by what stands for the mask, so the module holds no
state: a pass with a cache, which hands over no documents, takes sdpa as ever.

Shapes: R rows of L positions, A heads (K of keys and values) of width d, P = R x L positions, N documents.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from chatsearch.errors import ConfigError
from chatsearch.model.bucketed import Buckets, bucketed_attention
from chatsearch.model.config import Attention

Kernel = Literal["sdpa", "flex", "varlen", "buckets"]

_NAME = "chatsearch_packed"
_HALF = (torch.bfloat16, torch.float16)
_LONGEST_STEP = 128
"""The bound on a document's length is rounded up to this, so that a compiled layer sees few different ones."""


def register() -> str:
    """Enter :func:`attend` in transformers' registry; returns the name it has there."""
    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    return _NAME


def choose(wanted: Attention, device: torch.device, dtype: torch.dtype) -> Kernel:
    """The kernel for a pass without a cache. ``auto`` is varlen wherever that runs, buckets on a CPU, else sdpa.

    Args:
        wanted: the setting.
        device: of the pass.
        dtype: that matrices are multiplied in.

    Raises:
        ConfigError: the kernel asked for does not run there.
    """
    runs_varlen = (
        device.type == "cuda"
        and dtype in _HALF
        # FlashAttention 2 is made for Ampere and later.
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )
    if wanted == "auto":
        return "varlen" if runs_varlen else "buckets" if device.type == "cpu" else "sdpa"
    if wanted == "varlen" and not runs_varlen:
        raise ConfigError(
            f"attention=varlen runs in bf16 on a CUDA device of compute capability 8.0 or later; this is {dtype} on {device}. "
            "Set attention to auto or sdpa, or train with use_gpu and precision=bf16."
        )
    if wanted == "flex" and device.type == "cpu" and torch.is_grad_enabled():
        raise ConfigError(
            "attention=flex has no gradient on a CPU. Set attention to auto or sdpa, or train with use_gpu."
        )
    return wanted


def pass_dtype(inputs: Tensor) -> torch.dtype:
    """What matrices are multiplied in: autocast's type where it is on, else that of the inputs."""
    kind = inputs.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype


def document_inputs(kernel: Kernel, position_ids_RL: Tensor) -> dict[str, Any]:
    """What a decoder is to be called with, so that no document sees another.

    Args:
        kernel: how attention is computed.
        position_ids_RL: restart where a document begins.
    """
    if kernel == "sdpa":
        return {"attention_mask": None}  # transformers reads the documents off the positions
    starts_RL = document_starts(position_ids_RL)
    if kernel == "flex":
        return {"attention_mask": _block_mask(starts_RL.cumsum(1))}
    starts_N = starts_RL.flatten().nonzero().flatten()
    bounds_N1 = torch.cat([starts_N, starts_N.new_tensor([starts_RL.numel()])])
    if kernel == "buckets":
        return {"attention_mask": bounds_N1[None, None, None], "buckets": Buckets.of(bounds_N1)}
    longest = int(bounds_N1.diff().max())
    return {
        # Four dimensions: transformers takes such a mask for ready and hands it on as it is.
        "attention_mask": bounds_N1.to(torch.int32)[None, None, None],
        "max_length_q": -(-longest // _LONGEST_STEP) * _LONGEST_STEP,
    }


def document_starts(position_ids_RL: Tensor) -> Tensor:
    """Where documents begin, (R, L) bool: where a position does not follow the one before it.

    Zeros at the end of a row are padding and make one document, not one each: of a padded batch they are most.
    """
    is_last_run_RL = position_ids_RL.flip(1).cummax(1).values.flip(1) == 0
    follows_RL = position_ids_RL[:, 1:] == position_ids_RL[:, :-1] + 1
    starts_RL = torch.ones_like(position_ids_RL, dtype=torch.bool)
    starts_RL[:, 1:] = ~(follows_RL | is_last_run_RL[:, :-1])
    return starts_RL


def attend(
    module: nn.Module,
    query_RALd: Tensor,
    key_RKLd: Tensor,
    value_RKLd: Tensor,
    attention_mask: Tensor | BlockMask | None,
    *,
    scaling: float,
    max_length_q: int | None = None,
    buckets: Buckets | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: (R, L, A, d), and no weights."""
    if isinstance(attention_mask, BlockMask):
        return _flex(query_RALd, key_RKLd, value_RKLd, attention_mask, scaling), None
    if buckets is not None:
        # Rotary embeddings come back in fp32 under autocast.
        query_PAd, key_PKd, value_PKd = (
            x.to(value_RKLd.dtype).transpose(1, 2).flatten(0, 1) for x in (query_RALd, key_RKLd, value_RKLd)
        )
        out_PAd = bucketed_attention(query_PAd, key_PKd, value_PKd, buckets, scaling=scaling)
        return out_PAd.unflatten(0, (len(query_RALd), -1)), None
    if max_length_q is not None:
        assert attention_mask is not None
        bounds_N1 = attention_mask.flatten()
        return _varlen(query_RALd, key_RKLd, value_RKLd, bounds_N1, longest=max_length_q, scaling=scaling), None
    return sdpa_attention_forward(module, query_RALd, key_RKLd, value_RKLd, attention_mask, scaling=scaling, **kwargs)


def _varlen(
    query_RALd: Tensor, key_RKLd: Tensor, value_RKLd: Tensor, bounds_N1: Tensor, *, longest: int, scaling: float
) -> Tensor:
    def flat(x_RALd: Tensor) -> Tensor:
        # Rotary embeddings come back in fp32 under autocast, which does not know this kernel.
        return x_RALd.to(value_RKLd.dtype).transpose(1, 2).flatten(0, 1)

    out_PAd = varlen_attn(
        flat(query_RALd),
        flat(key_RKLd),
        flat(value_RKLd),
        bounds_N1,
        bounds_N1,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query_RALd.shape[1] != key_RKLd.shape[1],
    )
    assert isinstance(out_PAd, Tensor)
    return out_PAd.unflatten(0, (len(query_RALd), -1))


def _flex(query_RALd: Tensor, key_RKLd: Tensor, value_RKLd: Tensor, mask: BlockMask, scaling: float) -> Tensor:
    dtype = value_RKLd.dtype
    out_RALd = _flex_kernel(query_RALd.device.type)(
        query_RALd.to(dtype),
        key_RKLd.to(dtype),
        value_RKLd,
        block_mask=mask,
        scale=scaling,
        enable_gqa=query_RALd.shape[1] != key_RKLd.shape[1],
    )
    return out_RALd.transpose(1, 2).contiguous()


def _flex_kernel(device_type: str) -> Callable[..., Tensor]:
    """On a GPU it is fast compiled alone; inside of a compiled layer it is compiled with it."""
    if device_type == "cpu" or torch.compiler.is_compiling():
        return flex_attention
    return _compiled_flex()


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    return torch.compile(flex_attention)


def _block_mask(documents_RL: Tensor) -> BlockMask:
    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (documents_RL[row, query] == documents_RL[row, key]) & (query >= key)

    num_rows, length = documents_RL.shape
    return create_block_mask(sees, num_rows, None, length, length, device=documents_RL.device)
