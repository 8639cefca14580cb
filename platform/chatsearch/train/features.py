"""The frozen features of a batch's images: read from a feature store, or computed by the encoder in the worker.

Shapes: I images, D numbers of f_CLS, K tokens of width E.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from chatsearch.data.pack import Batch
from chatsearch.errors import ConfigError
from chatsearch.index.features import FeatureStore
from chatsearch.model.vision import VisionEncoder


class FrozenFeatures(Protocol):
    """Where the features of images come from."""

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """f_CLS (I, D) in float32 and tokens (I, K, E), without gradients."""
        ...


class StoredFeatures:
    """Rows of a feature store, found by content hash."""

    def __init__(self, store: FeatureStore, device: torch.device) -> None:
        """Raises ConfigError if the store was made without tokens."""
        tokens_NKE = store.tokens_NTE
        if tokens_NKE is None:
            raise ConfigError(f"{store.uri} holds no tokens, which training reads. Embed again with --set tokens=true.")
        self._store, self._tokens_NKE, self._device = store, tokens_NKE, device

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`FrozenFeatures`. Raises MissingInputError for an image that the store does not hold."""
        rows_I = np.array([self._store.row_of(name) for name in batch.image_hashes], dtype=np.int64)
        cls_ID = torch.from_numpy(self._store.matrix_ND[rows_I])
        tokens_IKE = torch.from_numpy(self._tokens_NKE[rows_I])
        return cls_ID.to(self._device), tokens_IKE.to(self._device)


class OnlineFeatures:
    """The frozen encoder on the pictures themselves."""

    def __init__(self, vision: VisionEncoder, device: torch.device, *, pictures_per_pass: int = 64) -> None:
        self._vision, self._device, self._size = vision.to(device), device, pictures_per_pass

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`FrozenFeatures`."""
        if batch.pixels is None:
            assert not batch.num_images, "batches for an online encoder carry pixels"
            config = self._vision.config
            tokens_IKE = torch.zeros(0, config.num_tokens, config.token_dim, device=self._device)
            return torch.zeros(0, config.feature_dim, device=self._device), tokens_IKE
        parts = [self._vision(part.to(self._device)) for part in torch.from_numpy(batch.pixels).split(self._size)]
        return torch.cat([part.cls_BD for part in parts]), torch.cat([part.tokens_BTE for part in parts])
