"""Backgrounds of the scenes world, each in a few variants that differ only in what no text speaks of."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
NUM_VARIANTS = 8


def _gradient(size: int, top: Rgb, bottom: Rgb) -> Image.Image:
    column = Image.new("RGB", (1, size))
    for y in range(size):
        share = y / (size - 1)
        red, green, blue = (round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
        column.putpixel((0, y), (red, green, blue))
    return column.resize((size, size))


def _plain(size: int, rng: random.Random) -> Image.Image:
    level = rng.randint(150, 175)
    return Image.new("RGB", (size, size), (level, level, level))


def _sky(size: int, rng: random.Random) -> Image.Image:
    image = _gradient(size, (95, 170, 245), (185, 220, 250))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, unit = rng.uniform(0, size * 0.8), rng.uniform(0, size * 0.8), size / 16
        for step in range(3):
            left = x + step * unit * 1.3
            draw.ellipse([left, y - (step == 1) * unit * 0.6, left + unit * 2.2, y + unit * 1.6], fill=(240, 245, 252))
    return image


def _sea(size: int, rng: random.Random) -> Image.Image:
    image = _gradient(size, (10, 95, 140), (5, 60, 110))
    draw = ImageDraw.Draw(image)
    step, shift = size / 8, rng.uniform(0, size / 8)
    for row in range(9):
        y = row * step
        for column in range(-1, 9):
            x = column * step + shift + (row % 2) * step / 2
            draw.arc([x, y, x + step, y + step * 0.8], 0, 180, fill=(80, 175, 205), width=max(1, size // 64))
    return image


def _field(size: int, rng: random.Random) -> Image.Image:
    image = _gradient(size, (150, 205, 95), (105, 170, 60))
    draw = ImageDraw.Draw(image)
    for _ in range(45):
        x, y = rng.uniform(0, size), rng.uniform(0, size)
        draw.line(
            [x, y, x + rng.uniform(-1, 1) * size / 40, y - size / 18], fill=(75, 130, 45), width=max(1, size // 64)
        )
    return image


def _night(size: int, rng: random.Random) -> Image.Image:
    image = _gradient(size, (12, 14, 45), (35, 35, 80))
    draw = ImageDraw.Draw(image)
    dot = size / 64
    for _ in range(28):
        x, y = rng.uniform(0, size), rng.uniform(0, size)
        draw.rectangle([x, y, x + dot * 0.5, y + dot * 0.5], fill=(235, 235, 190))
    return image


def _room(size: int, rng: random.Random) -> Image.Image:
    image = Image.new("RGB", (size, size), (240, 222, 190))
    draw = ImageDraw.Draw(image)
    floor = size * rng.uniform(0.64, 0.72)
    for x in range(-size // 16, size, max(2, size // 8)):
        draw.line([x, 0, x, floor], fill=(228, 205, 168), width=max(1, size // 32))
    draw.rectangle([0, floor, size, size], fill=(165, 110, 70))
    draw.rectangle([0, floor - size / 32, size, floor], fill=(250, 245, 235))
    return image


def _checkers(size: int, rng: random.Random) -> Image.Image:
    image = Image.new("RGB", (size, size), (215, 215, 215))
    draw = ImageDraw.Draw(image)
    step, odd = size / 8, rng.randint(0, 1)
    for row in range(8):
        for column in range(8):
            if (row + column) % 2 == odd:
                draw.rectangle(
                    [column * step, row * step, column * step + step, row * step + step], fill=(105, 105, 110)
                )
    return image


def _desert(size: int, rng: random.Random) -> Image.Image:
    image = Image.new("RGB", (size, size), (245, 225, 165))
    draw = ImageDraw.Draw(image)
    for step, colour in enumerate([(232, 200, 130), (222, 182, 108), (208, 163, 90)]):
        x, y = rng.uniform(-0.5, 0.5) * size, size * (0.25 + 0.25 * step)
        draw.ellipse([x - size * 0.5, y, x + size * 1.5, y + size], fill=colour)
    return image


def _snow(size: int, rng: random.Random) -> Image.Image:
    image = _gradient(size, (205, 215, 232), (232, 238, 248))
    draw = ImageDraw.Draw(image)
    unit = size / 64
    for _ in range(32):
        x, y = rng.uniform(0, size), rng.uniform(0, size)
        draw.ellipse([x, y, x + unit * 1.6, y + unit * 1.6], fill=(255, 255, 255))
    return image


def _wall(size: int, rng: random.Random) -> Image.Image:
    image = Image.new("RGB", (size, size), (205, 190, 180))
    draw = ImageDraw.Draw(image)
    height, width, gap = size / 8, size / 4, size / 64
    shift = rng.uniform(0, width)
    for row in range(8):
        for column in range(-1, 5):
            x = column * width + shift * 0.5 + (row % 2) * width / 2
            shade = rng.randint(-10, 10)
            box = [x, row * height, x + width - gap - 1, row * height + height - gap - 1]
            draw.rectangle(box, fill=(165 + shade, 85 + shade, 70 + shade))
    return image


def _sunset(size: int, rng: random.Random) -> Image.Image:
    image = _gradient(size, (110, 55, 125), (255, 165, 75))
    draw = ImageDraw.Draw(image)
    x, radius = rng.uniform(0.2, 0.8) * size, size * 0.16
    draw.ellipse([x - radius, size - radius, x + radius, size + radius], fill=(255, 225, 130))
    return image


def _forest(size: int, rng: random.Random) -> Image.Image:
    image = _gradient(size, (40, 80, 55), (22, 48, 30))
    draw = ImageDraw.Draw(image)
    for step in range(7):
        x = (step + rng.uniform(-0.3, 0.3)) * size / 6
        draw.line([x, 0, x, size], fill=(62, 48, 34), width=max(2, size // 22))
    return image


_PAINTERS: dict[str, Callable[[int, random.Random], Image.Image]] = {
    "plain": _plain,
    "sky": _sky,
    "sea": _sea,
    "field": _field,
    "night": _night,
    "room": _room,
    "checkers": _checkers,
    "desert": _desert,
    "snow": _snow,
    "wall": _wall,
    "sunset": _sunset,
    "forest": _forest,
}


@functools.lru_cache(maxsize=256)
def background(name: str, variant: int, size: int) -> Image.Image:
    """A background, ``size`` pixels a side. Shared: copy it before drawing on it."""
    return _PAINTERS[name](size, random.Random(f"{name}/{variant}"))
