from __future__ import annotations

import json
import random

import pytest
from chatsearch.corpora.scenes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MAX_COUNT,
    MAX_OBJECTS,
    MIN_OBJECTS,
    NUM_CELLS,
    PLACES,
    RGB,
    SIZES,
    TEXTURES,
)
from chatsearch.corpora.scenes.world import Group, Scene, above, in_split, left_of, random_scene
from hypothesis import given
from hypothesis import strategies as st

SPLITS = ("train", "val", "test")
splits = st.sampled_from(SPLITS)
seeds = st.integers(0, 2**32)


def test_world_is_as_rich_as_promised() -> None:
    assert len(set(KINDS)) >= 14
    assert len(set(COLOURS)) >= 9
    assert len(set(TEXTURES)) == 4
    assert len(set(SIZES)) == 3
    assert len(set(BACKGROUNDS)) >= 8
    assert len(PLACES) == NUM_CELLS
    assert set(RGB) == set(COLOURS)


@given(seeds, splits)
def test_random_scene_keeps_the_rules(seed: int, split: str) -> None:
    scene = random_scene(random.Random(seed), split, "n")
    assert MIN_OBJECTS <= scene.num_objects <= MAX_OBJECTS
    assert all(1 <= group.count <= MAX_COUNT for group in scene.groups)
    assert len(set(scene.kinds)) == len(scene.groups)
    grid = scene.cells()
    assert sum(group is not None for group in grid) == scene.num_objects
    assert sorted(scene.free_cells) == [cell for cell in range(NUM_CELLS) if grid[cell] is None]
    assert random_scene(random.Random(seed), split, "n") == scene


@given(seeds, splits)
def test_json_round_trip(seed: int, split: str) -> None:
    scene = random_scene(random.Random(seed), split, "n")
    assert Scene.from_dict(json.loads(scene.to_json())) == scene
    assert scene.item_id == Scene.from_dict(scene.to_dict()).item_id


def test_order_of_groups_is_canonical() -> None:
    first = Group("car", "red", "solid", "small", (3,))
    second = Group("key", "red", "solid", "small", (1,))
    assert Scene("sea", (first, second), "").item_id == Scene("sea", (second, first), "").item_id


def combinations(scene: Scene) -> set[tuple[str, str, str]]:
    return {(group.kind, group.colour, group.texture) for group in scene.groups}


def test_splits_are_disjoint_in_combinations() -> None:
    """The property of world.py, checked on combinations themselves rather than through ``Group.split``."""
    shown = {
        split: [combinations(random_scene(random.Random(f"{split}{n}"), split, "")) for n in range(3000)]
        for split in SPLITS
    }
    trained = set().union(*shown["train"])
    assert len(trained) > 450
    for split, other in (("val", "test"), ("test", "val")):
        held_out = set().union(*shown[split]) - trained
        assert all(scene - trained for scene in shown[split]), "each held-out scene shows an object never trained on"
        assert not held_out & set().union(*shown[other])


def test_every_word_is_seen_in_training() -> None:
    groups = [g for n in range(500) for g in random_scene(random.Random(n), "train", "").groups]
    assert {group.kind for group in groups} == set(KINDS)
    assert {group.colour for group in groups} == set(COLOURS)
    assert {(group.kind, group.texture) for group in groups} == {(k, t) for k in KINDS for t in TEXTURES}


@given(seeds, splits)
def test_a_scene_is_in_one_split(seed: int, split: str) -> None:
    scene = random_scene(random.Random(seed), split, "n")
    assert [name for name in SPLITS if in_split(scene, name)] == [split]


@pytest.mark.parametrize(
    ("first", "second", "left", "over"),
    [((0,), (1,), True, False), ((0,), (4,), True, True), ((0, 1), (4,), False, True), ((3,), (5,), True, False)],
)
def test_relations(first: tuple[int, ...], second: tuple[int, ...], left: bool, over: bool) -> None:
    a, b = Group("car", "red", "solid", "small", first), Group("key", "red", "solid", "small", second)
    assert (left_of(a, b), above(a, b)) == (left, over)
    assert not left_of(b, a)
    assert not above(b, a)
