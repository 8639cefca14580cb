"""Mixed precision: fp32 weights whose matrices are multiplied in bf16."""

from __future__ import annotations

import torch


def is_bf16_fast(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bf16 no slower than in fp32.

    A CPU does with AMX or AVX-512 BF16. On others PyTorch takes a loop that is an order of magnitude slower than their fp32.
    """
    if device.type != "cpu":
        return True
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def mixed_precision(device: torch.device, *, enabled: bool) -> torch.autocast:
    """Autocast to bf16 where that is fast; elsewhere a context that changes nothing, so that all is computed in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and is_bf16_fast(device))
