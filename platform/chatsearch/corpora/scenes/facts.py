"""Facts: what a sentence of a dialogue says about the picture that is wanted."""

from __future__ import annotations

from dataclasses import dataclass

from chatsearch.corpora.scenes.vocabulary import BACKGROUNDS, COLOURS, KINDS, NUM_CELLS, SIZES, TEXTURES
from chatsearch.corpora.scenes.world import Group, Scene, above, left_of


@dataclass(frozen=True, slots=True)
class Fact:
    """One statement. ``subject`` is a kind, or "" for the background; relations name the other kind in ``value``."""

    name: str
    subject: str
    value: str = ""

    def holds(self, scene: Scene) -> bool:
        """Whether a scene fits the statement."""
        if self.name == "background":
            return scene.background == self.value
        group = scene.find(self.subject)
        if group is None:
            return False
        if self.name == "object":
            return True
        if self.name == "count":
            return group.count == int(self.value)
        if self.name == "place":
            return int(self.value) in group.cells
        if self.name in ("left_of", "above"):
            other = scene.find(self.value)
            return other is not None and (left_of if self.name == "left_of" else above)(group, other)
        return bool(getattr(group, self.name) == self.value)

    @property
    def chance(self) -> float:
        """About how often the statement fits a random scene that fits all others of a dialogue."""
        return {
            "object": 2.5 / len(KINDS),
            "count": 0.7 if self.value == "1" else 0.15,
            "colour": 1 / len(COLOURS),
            "texture": 1 / len(TEXTURES),
            "size": 1 / len(SIZES),
            "place": 1 / NUM_CELLS,
            "background": 1 / len(BACKGROUNDS),
            "left_of": 0.35,
            "above": 0.35,
        }[self.name]

    def to_list(self) -> list[str]:
        """Plain JSON values."""
        return [self.name, self.subject, self.value]


def group_fact(name: str, group: Group) -> Fact:
    """The true statement ``name`` (colour, texture, size, count, place) about a group."""
    value = {
        "object": "",
        "colour": group.colour,
        "texture": group.texture,
        "size": group.size,
        "count": str(group.count),
        "place": str(group.cells[0]),
    }[name]
    return Fact(name, group.kind, value)
