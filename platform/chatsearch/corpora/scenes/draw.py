"""From a scene to its picture. The same scene and size give the same pixels, always."""

from __future__ import annotations

import functools
import io
import random
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from chatsearch.corpora.scenes.backgrounds import NUM_VARIANTS, background
from chatsearch.corpora.scenes.icons import silhouette
from chatsearch.corpora.scenes.vocabulary import GRID, RGB
from chatsearch.corpora.scenes.world import Scene, random_scene

_OVERSAMPLE = 6
_SHARE = {"small": 0.165, "medium": 0.235, "large": 0.3}
"""Side of an object as a share of the picture's side."""
_PAPER = (255, 255, 255)
_DARK = (45, 45, 50)
_GRAY = (150, 155, 165)
"""Second colour of white objects: with black or white stripes, white and black ones would look alike."""


def _pattern(texture: str, pixels: int, unit: float) -> Image.Image:
    """Mask of a texture: 255 where the body colour goes, 0 where the second colour goes. ``unit`` = one picture pixel."""
    mask = Image.new("L", (pixels, pixels), 255)
    draw = ImageDraw.Draw(mask)
    if texture == "striped":
        period = 4 * unit
        for step in range(int(pixels / period) + 2):
            draw.rectangle([0, step * period + 2.2 * unit, pixels, step * period + 3.7 * unit], fill=0)
    if texture == "dotted":
        period = 3.6 * unit
        for row in range(int(pixels / period) + 2):
            for column in range(int(pixels / period) + 2):
                x, y = (column + 0.5 * (row % 2)) * period, row * period
                draw.ellipse([x, y, x + 1.9 * unit, y + 1.9 * unit], fill=0)
    return mask


def _coverage(mask: Image.Image) -> np.ndarray:
    side = mask.width // _OVERSAMPLE
    return np.asarray(mask.resize((side, side), Image.Resampling.BOX), dtype=np.float32)[..., None] / 255


@functools.lru_cache(maxsize=1024)
def _masks(kind: str, texture: str, size: str, picture: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of each pixel (h x w x 1) under body colour, under the whole object, and under object and rim."""
    unit = _OVERSAMPLE * picture / 64
    inner = round(_SHARE[size] * picture) * _OVERSAMPLE
    shape = Image.new("L", (inner + 2 * _OVERSAMPLE, inner + 2 * _OVERSAMPLE), 0)
    shape.paste(silhouette(kind, inner), (_OVERSAMPLE, _OVERSAMPLE))
    halo = shape.filter(ImageFilter.MaxFilter(2 * round(0.45 * unit) + 1))
    if texture == "outlined":
        ink = ImageChops.subtract(shape, shape.filter(ImageFilter.MinFilter(2 * round(1.3 * unit) + 1)))
    else:
        ink = ImageChops.multiply(shape, _pattern(texture, shape.width, unit))
    return _coverage(ink), _coverage(shape), _coverage(halo)


@functools.lru_cache(maxsize=8192)
def _sprite(kind: str, colour: str, texture: str, size: str, picture: int) -> Image.Image:
    """One object with transparent surroundings and a thin rim that keeps it visible on any background."""
    ink, shape, halo = _masks(kind, texture, size, picture)
    second = _GRAY if colour == "white" else _PAPER
    rim = _DARK if colour in ("white", "yellow") or texture == "outlined" else _PAPER
    body, other, edge = (np.array(rgb, dtype=np.float32) for rgb in (RGB[colour], second, rim))
    # Weighted means of what a pixel covers: hidden colours must not bleed in through the transparency.
    mixed = (ink * body + (shape - ink) * other + (halo - shape) * edge) / np.maximum(halo, 1 / 255)
    return Image.fromarray(np.concatenate([mixed, halo * 255], axis=2).round().clip(0, 255).astype(np.uint8), "RGBA")


def _offset(scene: Scene, cell: int, side: int, picture: int) -> tuple[int, int]:
    """Upper left corner of an object: middle of its cell plus a jitter that depends on nuisance and cell only."""
    noise = zlib.crc32(f"{scene.nuisance}/{cell}".encode())
    pitch = picture / GRID
    reach = max(1.0, min((pitch - side) / 2, pitch * 0.12))
    centre_x = (cell % GRID + 0.5) * pitch + ((noise & 0xFF) / 127.5 - 1) * reach
    centre_y = (cell // GRID + 0.5) * pitch + ((noise >> 8 & 0xFF) / 127.5 - 1) * reach
    corner = [min(max(round(c - side / 2), 0), picture - side) for c in (centre_x, centre_y)]
    return corner[0], corner[1]


def draw(scene: Scene, picture: int = 64) -> Image.Image:
    """The picture of a scene in RGB, ``picture`` pixels a side."""
    variant = zlib.crc32(scene.nuisance.encode()) % NUM_VARIANTS
    image = background(scene.background, variant, picture).copy()
    for group in scene.groups:
        sprite = _sprite(group.kind, group.colour, group.texture, group.size, picture)
        for cell in group.cells:
            image.paste(sprite, _offset(scene, cell, sprite.width, picture), sprite)
    return image


def encode(scene: Scene, picture: int = 64) -> bytes:
    """The picture of a scene as PNG."""
    buffer = io.BytesIO()
    draw(scene, picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def training_pictures(
    seed: int, count: int, size: int = 64, split: str = "train"
) -> Iterator[tuple[np.ndarray, Scene]]:
    """Pictures (uint8, size x size x 3) with their ground truth, for training and testing vision encoders."""
    for index in range(count):
        key = f"pictures/{seed}/{split}/{index}"
        scene = random_scene(random.Random(key), split, key)
        yield np.asarray(draw(scene, size)), scene
