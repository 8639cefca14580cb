"""From a decoded picture to the numbers an encoder reads, with Pillow alone.

The same picture gives the same bytes wherever it is prepared: in the gallery job, in training and in a
request. What was done is written down in a string that travels with features and models. Nothing here
imports torch: processes that only prepare pictures start without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resize, crop and scale."""

    size: int
    """Side of the square, in pixels."""
    crop: Literal["whole", "center"]
    """``whole`` squeezes the picture into the square; ``center`` cuts the square out of the middle."""
    resized: int
    """Length of the short side before a centre crop, in pixels."""
    resample: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    """Subtracted from values between 0 and 1, in the order red, green, blue."""
    std: tuple[float, float, float]
    """What they are divided by."""

    @property
    def id(self) -> str:
        """Everything above in one line."""
        numbers = ",".join(f"{value:g}" for value in (*self.mean, *self.std))
        return f"pillow-rgb|{self.crop}|{self.resized}>{self.size}|{self.resample}|{numbers}"

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """uint8 pixels (3, size, size): a quarter of the bytes of floats, scaled only inside the encoder.

        The picture has passed :func:`chatsearch.corpora.images.decode_rgb`, whose limit on its sides' ratio also bounds
        the memory of the resize before a centre crop.
        """
        image = image if image.mode == "RGB" else image.convert("RGB")
        width, height = image.size
        if self.crop == "whole":
            target = (self.size, self.size)
        else:
            short = min(width, height)
            target = (max(self.size, width * self.resized // short), max(self.size, height * self.resized // short))
        if (width, height) != target:
            image = image.resize(target, FILTERS[self.resample])
        if self.crop == "center":
            left, top = (target[0] - self.size) // 2, (target[1] - self.size) // 2
            image = image.crop((left, top, left + self.size, top + self.size))
        return np.asarray(image).transpose(2, 0, 1).copy()

    def scale(self, pixels_B3HW: Tensor) -> Tensor:
        """Float pixels around zero from uint8 ones."""
        unit_B3HW = pixels_B3HW.float() / 255.0
        mean_311, std_311 = (unit_B3HW.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (unit_B3HW - mean_311) / std_311
