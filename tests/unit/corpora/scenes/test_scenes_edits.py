from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from chatsearch.corpora.scenes.edits import OPERATIONS, Edit, apply, random_edit, random_edits
from chatsearch.corpora.scenes.instructions import EDIT_TEMPLATES, can_be_said, instruction
from chatsearch.corpora.scenes.vocabulary import MAX_COUNT
from chatsearch.corpora.scenes.wording import num_words
from chatsearch.corpora.scenes.world import Group, Scene, is_valid, random_scene
from hypothesis import given
from hypothesis import strategies as st

SPLITS = st.sampled_from(["train", "val", "test"])
CAR = Group("car", "red", "solid", "medium", (0,))
KEYS = Group("key", "blue", "dotted", "small", (4, 5))
SCENE = Scene("sea", (CAR, KEYS), "n")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (Edit("recolour", "car", "green"), Scene("sea", (CAR.changed("colour", "green"), KEYS), "n")),
        (Edit("retexture", "key", "solid"), Scene("sea", (CAR, KEYS.changed("texture", "solid")), "n")),
        (Edit("resize", "car", "small"), Scene("sea", (CAR.changed("size", "small"), KEYS), "n")),
        (Edit("replace", "key", "moon"), Scene("sea", (CAR, KEYS.changed("kind", "moon")), "n")),
        (Edit("remove", "car"), Scene("sea", (KEYS,), "n")),
        (Edit("background", "", "night"), Scene("night", (CAR, KEYS), "n")),
        (Edit("move", "car", "8"), Scene("sea", (Group("car", "red", "solid", "medium", (8,)), KEYS), "n")),
        (Edit("count", "car", "3"), Scene("sea", (Group("car", "red", "solid", "medium", (0, 1, 2)), KEYS), "n")),
        (Edit("count", "key", "1"), Scene("sea", (CAR, Group("key", "blue", "dotted", "small", (4,))), "n")),
        (
            Edit("add", "moon", added=Group("moon", "pink", "solid", "medium", (7,))),
            Scene("sea", (CAR, KEYS, Group("moon", "pink", "solid", "medium", (7,))), "n"),
        ),
    ],
)
def test_what_edits_do(edit: Edit, expected: Scene) -> None:
    assert edit.apply(SCENE) == expected
    assert Edit.from_dict(json.loads(json.dumps(edit.to_dict()))) == edit


def test_a_request_names_subject_and_value() -> None:
    rng = random.Random(0)
    assert "make the car green" in Edit("recolour", "car", "green").forms(SCENE, rng)
    assert "turn the two keys into moons" in Edit("replace", "key", "moon").forms(SCENE, rng)
    assert "move the car to the center" in Edit("move", "car", "4").forms(SCENE, rng)
    added = Edit("add", "moon", added=Group("moon", "pink", "striped", "small", (7,)))
    assert any(
        form in (f"add a {size} striped pink moon at the bottom middle" for size in ("small", "little", "tiny"))
        for form in added.forms(SCENE, rng)
    )


@given(st.integers(0, 2**32), SPLITS, st.integers(1, 3))
def test_random_edits_are_valid_and_change_the_scene(seed: int, split: str, count: int) -> None:
    rng = random.Random(seed)
    scene = random_scene(rng, split, "n")
    edits = random_edits(scene, split, rng, count)
    result = apply(scene, edits)
    assert len({edit.subject for edit in edits}) == len(edits) == count
    assert is_valid(result, split)
    assert result.content() != scene.content()
    assert result.nuisance == scene.nuisance
    assert all(is_done(edit, result) for edit in edits)


def is_done(edit: Edit, result: Scene) -> bool:
    """Whether what an edit asks for holds in the end: none is undone by a later one."""
    group = result.find(edit.value if edit.operation == "replace" else edit.subject)
    if edit.operation == "background":
        return result.background == edit.value
    if edit.operation == "remove" or group is None:
        return edit.operation == "remove" and group is None
    if edit.operation == "add":
        return group == edit.added
    if edit.operation == "move":
        return group.cells == (int(edit.value),)
    if edit.operation == "count":
        return group.count == int(edit.value)
    if edit.operation == "replace":
        return result.find(edit.subject) is None
    return (
        getattr(group, {"recolour": "colour", "retexture": "texture", "resize": "size"}[edit.operation]) == edit.value
    )


@given(st.integers(0, 2**32))
def test_edits_commute(seed: int) -> None:
    """Subjects are distinct, so the order in a sentence does not matter, except where new cells are taken in order."""
    rng = random.Random(seed)
    scene = random_scene(rng, "train", "n")
    edits = random_edits(scene, "train", rng, 2)
    if not {edit.operation for edit in edits} & {"count", "add", "move", "remove"}:
        assert apply(scene, edits) == apply(scene, edits[::-1])


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_instruction_is_short(seed: int, count: int) -> None:
    rng = random.Random(seed)
    scene = random_scene(rng, "train", "n")
    edits = random_edits(scene, "train", rng, count)
    if can_be_said(scene, edits, 20):
        assert num_words(instruction(scene, edits, rng, 20)) <= 20


def test_held_out_splits_use_all_operations_alike() -> None:
    counts = {}
    for split in ("train", "test"):
        rng = random.Random(5)
        drawn = [random_edits(random_scene(rng, split, ""), split, rng, 2) for _ in range(700)]
        counts[split] = Counter(edit.operation for edits in drawn for edit in edits)
        assert set(counts[split]) == set(OPERATIONS)
    for operation in OPERATIONS:
        assert 0.6 < counts["test"][operation] / counts["train"][operation] < 1.6, operation


def test_draws_that_do_not_fit_give_none() -> None:
    rng = random.Random(0)
    assert random_edit(SCENE, "remove", rng) is None
    assert random_edit(SCENE, "move", rng, "key") is None
    assert random_edit(SCENE, "recolour", rng, "moon") is None
    edit = random_edit(SCENE, "count", rng, "car")
    assert edit is not None
    assert 1 < int(edit.value) <= MAX_COUNT


def test_templates_are_many_and_distinct() -> None:
    assert len(set(EDIT_TEMPLATES)) == len(EDIT_TEMPLATES) >= 20
    assert all(template.count("{}") == 1 for template in EDIT_TEMPLATES)
