"""Edits of a scene: what they do, how they are drawn at random, and how a person asks for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from chatsearch.corpora.scenes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MAX_COUNT,
    SIZES,
    TEXTURES,
)
from chatsearch.corpora.scenes.wording import (
    NUMBERS,
    SIZE_WORDS,
    TEXTURE_WORDS,
    article,
    colour_name,
    described,
    kind_name,
    noun,
    place,
    plural,
    the,
    towards,
    where,
)
from chatsearch.corpora.scenes.world import Group, Scene, is_valid

OPERATIONS = ("recolour", "retexture", "resize", "move", "replace", "add", "remove", "background", "count")


@dataclass(frozen=True, slots=True)
class Edit:
    """One change. ``subject`` is the kind it concerns ("" for the background), ``value`` what it becomes."""

    operation: str
    subject: str
    value: str = ""
    added: Group | None = None
    """The new object of an ``add``."""

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Edit:
        """Inverse of ``to_dict``."""
        added = values["added"] and Group(**{**values["added"], "cells": tuple(values["added"]["cells"])})
        return cls(values["operation"], values["subject"], values["value"], added)

    def fits(self, scene: Scene) -> bool:
        """Whether the cell that it wants to fill is free."""
        cells = self.added.cells if self.added else (int(self.value),) if self.operation == "move" else ()
        return set(cells) <= set(scene.free_cells)

    def apply(self, scene: Scene) -> Scene:
        """The scene after this change; what it does not speak of stays, nuisance included."""
        if self.operation == "background":
            return replace(scene, background=self.value)
        if self.operation == "add":
            assert self.added is not None
            return replace(scene, groups=(*scene.groups, self.added))
        group = scene.find(self.subject)
        assert group is not None, f"{self.subject} is not in the scene"
        if self.operation == "remove":
            return scene.with_group(self.subject, None)
        if self.operation == "count":
            wanted = int(self.value)
            cells = tuple(sorted([*group.cells, *scene.free_cells[: max(0, wanted - group.count)]][:wanted]))
            return scene.with_group(self.subject, replace(group, cells=cells))
        if self.operation == "move":
            return scene.with_group(self.subject, replace(group, cells=(int(self.value),)))
        field = {"recolour": "colour", "retexture": "texture", "resize": "size", "replace": "kind"}[self.operation]
        return scene.with_group(self.subject, group.changed(field, self.value))

    def forms(self, scene: Scene, rng: random.Random, riddle: float = 0.0, name: str | None = None) -> list[str]:
        """Imperative clauses that ask for this change of ``scene``.

        Their lengths in words do not depend on ``rng`` while ``riddle`` is 0.

        Args:
            scene: what the person sees.
            rng: draws synonyms and riddles.
            riddle: how often the new value is told as riddle.
            name: what to call the subject; None for its kind.
        """
        if self.operation == "background":
            spot = where(self.value, rng, riddle)
            return [f"put it all {spot}", f"put everything {spot}", f"show it all {spot}", f"have it all {spot}"]
        if self.added is not None:
            thing = self._added_thing(self.added, rng, riddle)
            return [f"add {thing}", f"put in {thing}", f"draw {thing}"]
        group = scene.find(self.subject)
        assert group is not None, f"{self.subject} is not in the scene"
        name = name or the(group)
        if self.operation == "recolour":
            colour = colour_name(self.value, rng, riddle)
            if colour != self.value:
                return [f"give {name} {colour}", f"make {name} {colour}"]
            return [f"make {name} {colour}", f"paint {name} {colour}", f"turn {name} {colour}"]
        if self.operation == "retexture":
            return [f"make {name} {rng.choice(TEXTURE_WORDS[self.value])}", f"have {name} {self.value}"]
        if self.operation == "resize":
            return [f"make {name} {rng.choice(SIZE_WORDS[self.value])}", f"have {name} {self.value}"]
        if self.operation == "move":
            spot = towards(int(self.value))
            return [f"move {name} {spot}", f"bring {name} {spot}", f"put {name} {spot}"]
        if self.operation == "replace":
            new = kind_name(self.value, rng, riddle) or (
                article(self.value) if group.count == 1 else plural(self.value)
            )
            return [f"turn {name} into {new}", f"replace {name} with {new}", f"swap {name} for {new}"]
        if self.operation == "remove":
            return [f"remove {name}", f"take {name} away", f"leave out {name}"]
        things = f"{NUMBERS[int(self.value)]} {noun(self.subject, int(self.value))}"
        return [f"show {things}", f"make it {things}", f"have {things}"]

    @staticmethod
    def _added_thing(added: Group, rng: random.Random, riddle: float) -> str:
        # Solid and medium are what "add a red key" means; anything else is said.
        said = ["texture"] if added.texture != "solid" else []
        said += ["size"] if added.size != "medium" else []
        spot = place(added.cells[0])
        colour = colour_name(added.colour, rng, riddle * 0.5)
        if colour != added.colour:
            return f"{described(added, said, rng)} in {colour} {spot}"
        return f"{described(added, [*said, 'colour'], rng)} {spot}"

    def story(self, scene: Scene, rng: random.Random) -> str:
        """The change as something that happens: "the fish turns red"."""
        if self.operation == "background":
            return f"everything is {where(self.value, rng, 0.2)}"
        if self.operation == "add":
            assert self.added is not None
            return f"{described(self.added, ('colour', 'texture', 'size'), rng)} comes {place(self.added.cells[0])}"
        group = scene.find(self.subject)
        assert group is not None
        name, end = the(group), "s" if group.count == 1 else ""
        if self.operation in ("recolour", "retexture", "resize"):
            return f"{name} turn{end} {self.value}"
        if self.operation == "move":
            return f"{name} move{end} {towards(int(self.value))}"
        if self.operation == "replace":
            return f"{name} become{end} {article(self.value) if group.count == 1 else plural(self.value)}"
        if self.operation == "remove":
            return f"{name} {'is' if group.count == 1 else 'are'} gone"
        number = int(self.value)
        return f"there {'is' if number == 1 else 'are'} {NUMBERS[number]} {noun(self.subject, number)}"


def apply(scene: Scene, edits: Sequence[Edit]) -> Scene:
    """The scene after all edits, in order."""
    for edit in edits:
        scene = edit.apply(scene)
    return scene


def _other(rng: random.Random, options: Sequence[str], current: str) -> str:
    return rng.choice([option for option in options if option != current])


def random_edit(scene: Scene, operation: str, rng: random.Random, subject: str | None = None) -> Edit | None:
    """An edit of one operation that changes the scene, or None where the draw does not fit."""
    if operation == "background":
        return Edit(operation, "", _other(rng, BACKGROUNDS, scene.background))
    if operation == "add":
        kind = rng.choice(KINDS)
        if scene.find(kind) or not scene.free_cells:
            return None
        texture = "solid" if rng.random() < 0.4 else rng.choice(TEXTURES)
        size = "medium" if rng.random() < 0.5 else rng.choice(SIZES)
        return Edit(
            operation, kind, added=Group(kind, rng.choice(COLOURS), texture, size, (rng.choice(scene.free_cells),))
        )
    group = scene.find(subject) if subject else rng.choice(scene.groups)
    if group is None:
        return None
    if operation == "recolour":
        return Edit(operation, group.kind, _other(rng, COLOURS, group.colour))
    if operation == "retexture":
        return Edit(operation, group.kind, _other(rng, TEXTURES, group.texture))
    if operation == "resize":
        return Edit(operation, group.kind, _other(rng, SIZES, group.size))
    if operation == "move":
        return Edit(operation, group.kind, str(rng.choice(scene.free_cells))) if group.count == 1 else None
    if operation == "replace":
        kind = rng.choice(KINDS)
        return None if scene.find(kind) else Edit(operation, group.kind, kind)
    if operation == "remove":
        return Edit(operation, group.kind) if len(scene.groups) > 2 else None
    return Edit(operation, group.kind, _other(rng, [str(n + 1) for n in range(MAX_COUNT)], str(group.count)))


def random_edits(scene: Scene, split: str, rng: random.Random, count: int) -> list[Edit]:
    """``count`` edits with distinct subjects whose result is a valid scene of the split."""
    while True:
        edits: list[Edit] = []
        current = scene
        operations = rng.choices(OPERATIONS, k=count)
        for operation in operations:
            # The wish for an operation is kept while values are redrawn: else a split would shape the mix of operations.
            for _ in range(20):
                edit = random_edit(current, operation, rng)
                taken = {name for done in edits for name in (done.subject, done.value)}
                if edit is None or edit.subject in taken or edit.value in {done.subject for done in edits}:
                    continue
                result = edit.apply(current)
                if is_valid(result, split):
                    edits, current = [*edits, edit], result
                    break
        if len(edits) == count and len(current.groups) >= 2:
            return edits
