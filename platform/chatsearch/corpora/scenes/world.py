"""Scenes: exact descriptions of pictures, how they are drawn at random, and which split each belongs to.

Split property. Every object has a combination (kind, colour, texture); each of the 720 combinations belongs
to exactly one split. A train scene holds only train combinations. A val (test) scene holds at least one val
(test) combination and none of test (val). So no picture can be in two splits, and each held-out picture
shows an object that training never showed.
"""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from chatsearch.corpora.scenes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    GRID,
    KINDS,
    MAX_COUNT,
    MAX_OBJECTS,
    MIN_OBJECTS,
    NUM_CELLS,
    SIZES,
    TEXTURES,
)


@dataclass(frozen=True, slots=True)
class Group:
    """One to three equal objects. ``cells`` are indices into the 3 x 3 grid in reading order, ascending."""

    kind: str
    colour: str
    texture: str
    size: str
    cells: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many objects."""
        return len(self.cells)

    def changed(self, attribute: str, value: str) -> Group:
        """A copy with another kind, colour, texture or size."""
        values = {
            "kind": self.kind,
            "colour": self.colour,
            "texture": self.texture,
            "size": self.size,
            attribute: value,
        }
        return Group(**values, cells=self.cells)

    @property
    def split(self) -> str:
        """The split that owns this combination of kind, colour and texture."""
        bucket = zlib.crc32(f"{self.kind}|{self.colour}|{self.texture}".encode()) % 10
        return "val" if bucket == 0 else "test" if bucket <= 2 else "train"


@dataclass(frozen=True, slots=True)
class Scene:
    """All there is to know about a picture.

    Groups have distinct kinds, so "the fish" is never ambiguous. ``nuisance`` decides what no text ever
    speaks of: jitter inside the cells and the variant of the background. Edits keep it.
    """

    background: str
    groups: tuple[Group, ...]
    nuisance: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(sorted(self.groups, key=lambda group: group.cells)))
        cells = [cell for group in self.groups for cell in group.cells]
        assert len(set(cells)) == len(cells), "one object a cell"
        assert len({group.kind for group in self.groups}) == len(self.groups), "one group a kind"

    @property
    def num_objects(self) -> int:
        """Objects in the picture."""
        return sum(group.count for group in self.groups)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds present, in reading order."""
        return tuple(group.kind for group in self.groups)

    @property
    def free_cells(self) -> list[int]:
        """Cells without an object, in reading order."""
        taken = {cell for group in self.groups for cell in group.cells}
        return [cell for cell in range(NUM_CELLS) if cell not in taken]

    def find(self, kind: str) -> Group | None:
        """The group of a kind, if present."""
        return next((group for group in self.groups if group.kind == kind), None)

    def cells(self) -> list[Group | None]:
        """What lies in each of the nine cells, in reading order."""
        grid: list[Group | None] = [None] * NUM_CELLS
        for group in self.groups:
            for cell in group.cells:
                grid[cell] = group
        return grid

    def content(self) -> tuple[str, tuple[Group, ...]]:
        """What texts can speak of: everything but the nuisance."""
        return self.background, self.groups

    def with_group(self, old: str, new: Group | None) -> Scene:
        """A copy in which the group of kind ``old`` is replaced or, with None, removed."""
        kept = tuple(group for group in self.groups if group.kind != old)
        return replace(self, groups=kept if new is None else (*kept, new))

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self)

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, values: dict) -> Scene:
        """Inverse of ``to_dict``."""
        groups = tuple(Group(**{**group, "cells": tuple(group["cells"])}) for group in values["groups"])
        return cls(values["background"], groups, values["nuisance"])

    @property
    def item_id(self) -> str:
        """Gallery id: a hash of the canonical JSON."""
        return "scene-" + hashlib.sha256(self.to_json().encode()).hexdigest()[:20]


def left_of(first: Group, second: Group) -> bool:
    """Whether all of one group lies in columns left of all of another."""
    return max(cell % GRID for cell in first.cells) < min(cell % GRID for cell in second.cells)


def above(first: Group, second: Group) -> bool:
    """Whether all of one group lies in rows above all of another."""
    return max(cell // GRID for cell in first.cells) < min(cell // GRID for cell in second.cells)


def in_split(scene: Scene, split: str) -> bool:
    """Whether a scene belongs to a split (see the property at the top of this module)."""
    owners = {group.split for group in scene.groups}
    return owners <= {"train", split} and split in owners


def is_valid(scene: Scene, split: str) -> bool:
    """Whether a scene may appear in a split: right split, right number of objects."""
    return MIN_OBJECTS <= scene.num_objects <= MAX_OBJECTS and in_split(scene, split)


def _combinations(split: str) -> list[tuple[str, str, str]]:
    return [
        (kind, colour, texture)
        for kind in KINDS
        for colour in COLOURS
        for texture in TEXTURES
        if Group(kind, colour, texture, "small", (0,)).split == split
    ]


_OWNED = {split: _combinations(split) for split in ("train", "val", "test")}


def random_group(rng: random.Random, split: str, cells: tuple[int, ...], taken: Iterable[str] = ()) -> Group:
    """A group on given cells whose kind is not among ``taken``; outside train half of them are held-out objects."""
    taken = set(taken)
    owner = split if rng.random() < 0.5 else "train"
    while True:
        kind, colour, texture = rng.choice(_OWNED[owner])
        if kind not in taken:
            return Group(kind, colour, texture, rng.choice(SIZES), cells)


def random_scene(rng: random.Random, split: str, nuisance: str) -> Scene:
    """A scene of 2 or 3 groups and 2 to 5 objects that belongs to ``split``."""
    while True:
        num_groups = 2 if rng.random() < 0.45 else 3
        counts = [1 if rng.random() < 0.7 else rng.randint(2, MAX_COUNT) for _ in range(num_groups)]
        if not MIN_OBJECTS <= sum(counts) <= MAX_OBJECTS:
            continue
        free = rng.sample(range(NUM_CELLS), sum(counts))
        groups: list[Group] = []
        for count in counts:
            cells, free = tuple(sorted(free[:count])), free[count:]
            groups.append(random_group(rng, split, cells, [group.kind for group in groups]))
        scene = Scene(rng.choice(BACKGROUNDS), tuple(groups), nuisance)
        if is_valid(scene, split):
            return scene
