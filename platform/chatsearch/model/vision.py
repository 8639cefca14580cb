"""The frozen vision encoder: three kinds, one contract.

Shapes: B pictures, T tokens of width E, D numbers of f_CLS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor, nn

from chatsearch.config import digest
from chatsearch.errors import CorruptArtefactError
from chatsearch.model.config import ClipConfig, EfficientNetLite0Config, SceneCnnConfig, VisionConfig
from chatsearch.model.pixels import Preprocessing
from chatsearch.model.tensors import tensors_digest

HALF = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class VisionFeatures(NamedTuple):
    """What an encoder sees in pictures."""

    cls_BD: Tensor
    """f_CLS, the global feature: queue, gallery and W_c read it."""
    tokens_BTE: Tensor
    """f, the local features: the perceiver reads them."""


def build_network(config: VisionConfig) -> nn.Module:
    """The bare, trainable network of a kind, with random weights: scaled pixels in, :class:`VisionFeatures` out."""
    match config:
        case SceneCnnConfig():
            from chatsearch.model.scene_cnn import SceneCnn

            return SceneCnn(config)
        case EfficientNetLite0Config():
            from chatsearch.model.efficientnet import EfficientNetLite0

            return EfficientNetLite0()
        case ClipConfig():
            from chatsearch.model.clip import ClipVision

            return ClipVision(config)


def preprocessing_of(config: VisionConfig) -> Preprocessing:
    """How pictures are prepared for a kind of encoder."""
    size = config.image_size
    match config:
        case SceneCnnConfig():
            return Preprocessing(size, "whole", size, "bilinear", HALF, HALF)
        case EfficientNetLite0Config():
            # The published weights were trained on (value - 127) / 128 over 0 .. 255, 224 pixels cut from a 256-pixel side.
            mean, std = (127 / 255,) * 3, (128 / 255,) * 3
            return Preprocessing(
                size, config.crop, size * 8 // 7 if config.crop == "center" else size, "bicubic", mean, std
            )
        case ClipConfig():
            return Preprocessing(size, "center", size, "bicubic", CLIP_MEAN, CLIP_STD)


class VisionEncoder(nn.Module):
    """A network that is frozen for good: always in evaluation mode, never with gradients."""

    def __init__(self, config: VisionConfig, network: nn.Module | None = None) -> None:
        """Freeze ``network``, or one with random weights."""
        super().__init__()
        self.config = config
        self.preprocessing = preprocessing_of(config)
        self.network = (network or build_network(config)).requires_grad_(False)
        self.eval()

    @classmethod
    def from_weights(cls, config: VisionConfig, weights: Mapping[str, Tensor]) -> VisionEncoder:
        """Build from the network's tensors.

        Raises:
            CorruptArtefactError: a tensor is missing, left over or of another shape.
        """
        encoder = cls(config)
        try:
            encoder.network.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise CorruptArtefactError(
                f"These weights do not fit a {config.kind} encoder: {' '.join(str(error).split())[:400]}. "
                "Use weights made with this configuration."
            ) from error
        return encoder

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the model around it does."""
        return super().train(False)

    def preprocess(self, image: Image.Image) -> Tensor:
        """uint8 pixels (3, H, W) of a picture."""
        return torch.from_numpy(self.preprocessing(image))

    @torch.no_grad()
    def forward(self, pixels_B3HW: Tensor) -> VisionFeatures:
        """Features, in float32, of uint8 pixels as :meth:`preprocess` makes them."""
        cls_BD, tokens_BTE = self.network(self.preprocessing.scale(pixels_B3HW))
        return VisionFeatures(cls_BD.float(), tokens_BTE.float())

    @property
    def preprocessing_id(self) -> str:
        """What is done to a picture before the network sees it."""
        return self.preprocessing.id

    @property
    def fingerprint(self) -> str:
        """Hash of configuration, preprocessing and every weight: two encoders with one fingerprint see alike.

        Computed at each call, about a second a gigabyte.
        """
        weights = tensors_digest(self.network.state_dict())
        return digest("vision-encoder", self.config.content(), self.preprocessing_id, weights)
