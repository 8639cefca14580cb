"""Silhouettes of the object kinds on a unit square, drawn white on black."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

Point = tuple[float, float]


class _Pen:
    """Draws on a mask in coordinates from 0 to 1; ``ink=False`` cuts out."""

    def __init__(self, pixels: int) -> None:
        self.mask = Image.new("L", (pixels, pixels), 0)
        self._draw = ImageDraw.Draw(self.mask)
        self._scale = pixels - 1

    def polygon(self, points: Sequence[Point], ink: bool = True) -> None:
        self._draw.polygon([(x * self._scale, y * self._scale) for x, y in points], fill=255 * ink)

    def box(self, left: float, top: float, right: float, bottom: float, ink: bool = True) -> None:
        self._draw.rectangle([v * self._scale for v in (left, top, right, bottom)], fill=255 * ink)

    def oval(self, left: float, top: float, right: float, bottom: float, ink: bool = True) -> None:
        self._draw.ellipse([v * self._scale for v in (left, top, right, bottom)], fill=255 * ink)

    def dome(self, left: float, top: float, right: float, bottom: float) -> None:
        self._draw.pieslice([v * self._scale for v in (left, top, right, bottom)], 180, 360, fill=255)


def _circle(pen: _Pen) -> None:
    pen.oval(0.03, 0.03, 0.97, 0.97)


def _square(pen: _Pen) -> None:
    pen.box(0.08, 0.08, 0.92, 0.92)


def _triangle(pen: _Pen) -> None:
    pen.polygon([(0.5, 0.02), (1.0, 0.96), (0.0, 0.96)])


def _star(pen: _Pen) -> None:
    points = []
    for corner in range(10):
        radius = 0.52 if corner % 2 == 0 else 0.21
        angle = math.pi * (corner / 5 - 0.5)
        points.append((0.5 + radius * math.cos(angle), 0.53 + radius * math.sin(angle)))
    pen.polygon(points)


def _heart(pen: _Pen) -> None:
    pen.oval(0.0, 0.06, 0.54, 0.58)
    pen.oval(0.46, 0.06, 1.0, 0.58)
    pen.polygon([(0.03, 0.42), (0.97, 0.42), (0.5, 0.98)])


def _cross(pen: _Pen) -> None:
    pen.box(0.35, 0.02, 0.65, 0.98)
    pen.box(0.02, 0.35, 0.98, 0.65)


def _moon(pen: _Pen) -> None:
    pen.oval(0.06, 0.02, 0.98, 0.98)
    pen.oval(0.36, -0.08, 1.24, 0.86, ink=False)


def _apple(pen: _Pen) -> None:
    pen.oval(0.04, 0.28, 0.62, 0.98)
    pen.oval(0.38, 0.28, 0.96, 0.98)
    pen.polygon([(0.36, 0.28), (0.64, 0.28), (0.5, 0.42)], ink=False)
    pen.box(0.45, 0.1, 0.55, 0.42)
    pen.oval(0.54, 0.0, 0.94, 0.22)


def _tree(pen: _Pen) -> None:
    pen.box(0.42, 0.55, 0.58, 1.0)
    pen.oval(0.02, 0.26, 0.52, 0.7)
    pen.oval(0.48, 0.26, 0.98, 0.7)
    pen.oval(0.22, 0.0, 0.78, 0.5)


def _house(pen: _Pen) -> None:
    pen.polygon([(0.5, 0.0), (1.0, 0.46), (0.0, 0.46)])
    pen.box(0.13, 0.44, 0.87, 0.98)
    pen.box(0.4, 0.64, 0.6, 0.98, ink=False)


def _fish(pen: _Pen) -> None:
    pen.oval(0.0, 0.2, 0.74, 0.8)
    pen.polygon([(0.58, 0.5), (1.0, 0.14), (1.0, 0.86)])
    pen.oval(0.13, 0.36, 0.26, 0.49, ink=False)


def _boat(pen: _Pen) -> None:
    pen.polygon([(0.0, 0.7), (1.0, 0.7), (0.8, 0.98), (0.2, 0.98)])
    pen.polygon([(0.44, 0.0), (0.44, 0.62), (0.02, 0.62)])
    pen.polygon([(0.54, 0.1), (0.54, 0.62), (0.92, 0.62)])


def _cup(pen: _Pen) -> None:
    pen.oval(0.5, 0.24, 1.0, 0.76)
    pen.oval(0.64, 0.38, 0.86, 0.62, ink=False)
    pen.polygon([(0.02, 0.12), (0.72, 0.12), (0.64, 0.96), (0.1, 0.96)])


def _key(pen: _Pen) -> None:
    pen.oval(0.0, 0.26, 0.48, 0.74)
    pen.oval(0.15, 0.41, 0.33, 0.59, ink=False)
    pen.box(0.44, 0.43, 1.0, 0.57)
    pen.box(0.66, 0.5, 0.77, 0.8)
    pen.box(0.89, 0.5, 1.0, 0.8)


def _flower(pen: _Pen) -> None:
    for petal in range(5):
        angle = 2 * math.pi * (petal / 5 - 0.25)
        x, y = 0.5 + 0.3 * math.cos(angle), 0.5 + 0.3 * math.sin(angle)
        pen.oval(x - 0.2, y - 0.2, x + 0.2, y + 0.2)
    pen.oval(0.36, 0.36, 0.64, 0.64, ink=False)


def _mushroom(pen: _Pen) -> None:
    pen.dome(0.0, 0.02, 1.0, 1.12)
    pen.box(0.33, 0.5, 0.67, 1.0)


def _umbrella(pen: _Pen) -> None:
    pen.dome(0.0, 0.02, 1.0, 0.98)
    for left in (0.0, 0.333, 0.667):
        pen.oval(left, 0.42, left + 0.333, 0.62, ink=False)
    pen.box(0.46, 0.4, 0.54, 0.92)
    pen.box(0.22, 0.88, 0.54, 0.98)
    pen.box(0.22, 0.76, 0.31, 0.98)


def _car(pen: _Pen) -> None:
    pen.polygon([(0.2, 0.46), (0.32, 0.2), (0.7, 0.2), (0.84, 0.46)])
    pen.box(0.0, 0.44, 1.0, 0.72)
    pen.box(0.36, 0.28, 0.49, 0.44, ink=False)
    pen.box(0.55, 0.28, 0.68, 0.44, ink=False)
    pen.oval(0.1, 0.56, 0.4, 0.86)
    pen.oval(0.6, 0.56, 0.9, 0.86)


_ICONS: dict[str, Callable[[_Pen], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "moon": _moon,
    "apple": _apple,
    "tree": _tree,
    "house": _house,
    "fish": _fish,
    "boat": _boat,
    "cup": _cup,
    "key": _key,
    "flower": _flower,
    "mushroom": _mushroom,
    "umbrella": _umbrella,
    "car": _car,
}


def silhouette(kind: str, pixels: int) -> Image.Image:
    """The mask of a kind, mode L: 255 inside, 0 outside."""
    pen = _Pen(pixels)
    _ICONS[kind](pen)
    return pen.mask
