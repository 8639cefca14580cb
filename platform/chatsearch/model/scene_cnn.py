"""A small convolutional network for the synthetic scenes, and the heads it is trained with.

Shapes: B pictures, C channels, 6 x 6 tokens, D numbers of f_CLS.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from chatsearch.model.config import SceneCnnConfig
from chatsearch.model.vision import VisionFeatures

NUM_CELLS = 9
"""Scenes place their objects in a 3 x 3 grid."""


def _convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class _Residual(nn.Module):
    """Two 3 x 3 convolutions around a half-width middle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(width, width // 2, 3, padding=1),
            nn.Conv2d(width // 2, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.relu(x_BCHW + self.body(x_BCHW))


class SceneCnn(nn.Module):
    """64 x 64 pixels to a 6 x 6 grid of tokens and an f_CLS that keeps the cells apart.

    f_CLS is cells first (3 x 3, each seen through one small projection), then the mean of the picture, under
    one layer norm: a linear map can read every cell from it, which M_Q, being linear, must be able to do.
    """

    def __init__(self, config: SceneCnnConfig) -> None:
        super().__init__()
        width = config.width
        # Most of the work at 16 x 16: the objects are 10 to 20 pixels wide, and a coarser grid loses their outline.
        narrow = 3 * width // 8
        self.stem = nn.Sequential(
            _convolution(3, width // 8, 3, stride=2, padding=1),
            _convolution(width // 8, narrow, 3, stride=2, padding=1),
            _convolution(narrow, narrow, 3, padding=1),
            _convolution(narrow, width, 4, stride=2, padding=1),
        )
        self.blocks = nn.Sequential(*(_Residual(width) for _ in range(config.num_blocks)))
        # Without padding: 8 x 8 becomes 6 x 6, two by two to a cell of the scenes.
        self.tokens = _convolution(width, width, 3)
        self.cells = nn.Conv2d(width, config.cell_dim, 2, stride=2)
        self.whole = nn.Linear(width, config.global_dim)
        self.norm = nn.LayerNorm(config.feature_dim)

    def forward(self, pixels_B3HW: Tensor) -> VisionFeatures:
        """Features of scaled pixels."""
        x_B3HW = pixels_B3HW.contiguous(memory_format=torch.channels_last)
        grid_BC66 = self.tokens(self.blocks(self.stem(x_B3HW)))
        cells_Bk = self.cells(grid_BC66).flatten(2).transpose(1, 2).flatten(1)
        whole_Bg = self.whole(grid_BC66.mean(dim=(2, 3)))
        cls_BD = self.norm(torch.cat([cells_Bk, whole_Bg], dim=1))
        return VisionFeatures(cls_BD, grid_BC66.flatten(2).transpose(1, 2))


class SceneHeads(nn.Module):
    """Linear read-outs of the ground truth from f_CLS alone, used only while the encoder is trained.

    They see nothing but f_CLS, so what they can tell is what f_CLS carries. One read-out serves all nine cells, each
    on its own part of f_CLS: every object teaches all places. They are in no bundle.
    """

    def __init__(self, config: SceneCnnConfig, cell_attributes: Mapping[str, int], num_backgrounds: int) -> None:
        """Args: the encoder, and attributes of an object by name with their number of values, e.g. ``{"kind": 12}``."""
        super().__init__()
        self._cell_dim = config.cell_dim
        self.presence = nn.Linear(config.cell_dim, 1)
        self.attributes = nn.ModuleDict(
            {name: nn.Linear(config.cell_dim, count) for name, count in cell_attributes.items()}
        )
        self.background = nn.Linear(config.feature_dim, num_backgrounds)

    def forward(self, cls_BD: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Logits of presence (B, 9), of each attribute (B, 9, values) and of the background (B, backgrounds)."""
        cells_B9k = cls_BD[:, : NUM_CELLS * self._cell_dim].unflatten(1, (NUM_CELLS, self._cell_dim))
        attributes = {name: head(cells_B9k) for name, head in self.attributes.items()}
        return self.presence(cells_B9k).squeeze(2), attributes, self.background(cls_BD)
