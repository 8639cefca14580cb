"""The fixed words of the scenes world. The order is part of the format: classifiers are trained on these indices."""

from __future__ import annotations

WORLD_VERSION = 4
"""Raised with any change to pictures or texts; part of the corpus fingerprint."""

KINDS = (
    "circle", "square", "triangle", "star", "heart", "cross", "moon", "apple", "tree",
    "house", "fish", "boat", "cup", "key", "flower", "mushroom", "umbrella", "car",
)  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEXTURES = ("solid", "striped", "dotted", "outlined")
SIZES = ("small", "medium", "large")
BACKGROUNDS = (
    "plain", "sky", "sea", "field", "night", "room",
    "checkers", "desert", "snow", "wall", "sunset", "forest",
)  # fmt: skip
PLACES = (
    "top left", "top middle", "top right", "middle left", "center", "middle right",
    "bottom left", "bottom middle", "bottom right",
)  # fmt: skip
"""Cells of the 3 x 3 grid in reading order; a cell holds at most one object."""

GRID = 3
NUM_CELLS = GRID * GRID
MIN_OBJECTS, MAX_OBJECTS = 2, 5
"""Objects in one picture."""
MAX_COUNT = 3
"""Objects of one group: equal in kind, colour, texture and size."""

RGB = {
    "red": (220, 30, 35),
    "orange": (250, 135, 15),
    "yellow": (250, 225, 40),
    "green": (30, 150, 50),
    "blue": (35, 75, 215),
    "purple": (125, 45, 165),
    "pink": (250, 130, 185),
    "brown": (120, 70, 30),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
}
"""Body colour of an object."""
