"""How many pictures a core embeds in a second: a bundle's own vision encoder on synthetic pictures, decoding included."""

from __future__ import annotations

import io
import time

import numpy as np
from PIL import Image

from chatsearch.corpora.images import decode_rgb

_NUM_PICTURES = 16
_PIXELS = 512


def images_per_core_second(model: str) -> float:
    """Pictures a second with one thread.

    Raises:
        ArtefactError: if there is no finished bundle or weights at ``model``.
    """
    import torch

    from chatsearch.model.frozen_encoder import load_vision

    encoder = load_vision(model)
    pictures = [_jpeg(seed) for seed in range(_NUM_PICTURES)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            pixels = torch.stack([encoder.preprocess(decode_rgb(picture)) for picture in pictures])
            with torch.inference_mode():
                encoder(pixels)
            times.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return _NUM_PICTURES / min(times)


def _jpeg(seed: int) -> bytes:
    """Noise at a coarse scale: about as many bytes as a photograph of this size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (_PIXELS // 8, _PIXELS // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((_PIXELS, _PIXELS), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
