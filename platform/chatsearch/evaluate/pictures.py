"""Raw features f_CLS of pictures: looked up where they are stored, computed where they are not.

Shape suffixes: N pictures, D width of f_CLS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from chatsearch.corpora.images import decode_rgb
from chatsearch.errors import FingerprintMismatchError
from chatsearch.index.features import FeatureStore
from chatsearch.index.vectors import Float32
from chatsearch.model.vision import VisionEncoder
from chatsearch.progress import progress


class PictureFeatures:
    """f_CLS by content hash. Each picture is encoded at most once."""

    def __init__(
        self,
        vision: VisionEncoder,
        read: Callable[[str], bytes],
        stores: Sequence[FeatureStore] = (),
        *,
        encoder_fingerprint: str,
        batch_size: int = 32,
    ) -> None:
        """Take features from ``stores`` where they are there, else encode what ``read`` gives for a content hash.

        Raises:
            FingerprintMismatchError: a store was made with another encoder.
        """
        for store in stores:
            if store.encoder_fingerprint != encoder_fingerprint:
                raise FingerprintMismatchError(
                    f"Features {store.uri} were made with encoder {store.encoder_fingerprint}, the model has {encoder_fingerprint}. "
                    "Leave them out, or embed the pictures with this model."
                )
        self._vision = vision
        self._read = read
        self._stores = list(stores)
        self._batch_size = batch_size
        self._known: dict[str, Float32] = {}

    def matrix(self, hashes: Sequence[str], *, what: str = "encode pictures") -> Float32:
        """f_CLS of these pictures, (N, D), in their order."""
        missing = [h for h in dict.fromkeys(hashes) if h not in self._known and not self._look_up(h)]
        if missing:
            self._encode(missing, what)
        if not hashes:
            return np.empty((0, self._vision.config.feature_dim), np.float32)
        return np.stack([self._known[h] for h in hashes])

    def _look_up(self, content_hash: str) -> bool:
        for store in self._stores:
            if content_hash in store:
                self._known[content_hash] = store.get(content_hash)
                return True
        return False

    def _encode(self, hashes: list[str], what: str) -> None:
        def pixels(content_hash: str) -> torch.Tensor:
            return self._vision.preprocess(decode_rgb(self._read(content_hash)))

        device = next(self._vision.parameters()).device
        with ThreadPoolExecutor(2) as pool, progress(what, len(hashes), "pictures") as advance:
            for start in range(0, len(hashes), self._batch_size):
                batch = hashes[start : start + self._batch_size]
                pixels_B3HW = torch.stack(list(pool.map(pixels, batch))).to(device)
                cls_BD = self._vision(pixels_B3HW).cls_BD.cpu().numpy()
                self._known.update(zip(batch, cls_BD, strict=True))
                advance(len(batch))
