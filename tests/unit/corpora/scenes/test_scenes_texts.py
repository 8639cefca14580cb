"""Captions, stories, prose, questions: true, short, and in a small vocabulary."""

from __future__ import annotations

import random
import re

import pytest
from chatsearch.corpora.scenes import knowledge
from chatsearch.corpora.scenes.captions import MAX_CAPTION_WORDS, caption, captions, prose, story
from chatsearch.corpora.scenes.questions import about_picture, about_world
from chatsearch.corpora.scenes.vocabulary import BACKGROUNDS, COLOURS, KINDS, TEXTURES
from chatsearch.corpora.scenes.wording import (
    BACKGROUND_PHRASES,
    NUMBERS,
    SIZE_WORDS,
    TEXTURE_WORDS,
    num_words,
    place,
    plural,
)
from chatsearch.corpora.scenes.world import Scene, is_valid, random_scene
from hypothesis import given
from hypothesis import strategies as st

ADJECTIVES = "|".join(
    [
        *COLOURS,
        *(w for words in TEXTURE_WORDS.values() for w in words),
        *(w for words in SIZE_WORDS.values() for w in words),
    ]
)
seeds = st.integers(0, 2**32)


def scene_of(seed: int, split: str = "train") -> Scene:
    return random_scene(random.Random(seed), split, "n")


@given(seeds)
def test_caption_is_true_and_short(seed: int) -> None:
    scene = scene_of(seed)
    text = caption(scene, random.Random(seed))
    assert num_words(text) <= MAX_CAPTION_WORDS
    named = [kind for kind in KINDS if re.search(rf"\b({kind}|{plural(kind)})\b", text)]
    assert named
    assert set(named) <= set(scene.kinds)
    for kind in named:
        group = scene.find(kind)
        assert group is not None
        phrase = re.search(rf"\b(an?|two|three) ((?:(?:{ADJECTIVES}) )*)({kind}|{plural(kind)})\b", text)
        assert phrase is not None, text
        assert {"a": 1, "an": 1, "two": 2, "three": 3}[phrase[1]] == group.count
        for word in phrase[2].split():
            allowed = {group.colour, *TEXTURE_WORDS[group.texture], *SIZE_WORDS[group.size]}
            assert word in allowed, text
    for background, words in BACKGROUND_PHRASES.items():
        assert words not in text or background == scene.background


@given(seeds)
def test_captions_are_distinct_and_partial(seed: int) -> None:
    scene = scene_of(seed)
    texts = captions(scene, random.Random(seed))
    assert len(set(texts)) == len(texts) == 4
    assert captions(scene, random.Random(seed)) == texts


@given(seeds, st.sampled_from(["train", "val", "test"]))
def test_story_stays_in_its_split(seed: int, split: str) -> None:
    sentences, scenes = story(scene_of(seed, split), split, random.Random(seed))
    assert 2 <= len(scenes) == len(sentences) <= 4
    assert all(is_valid(scene, split) for scene in scenes)
    assert len(set(scenes)) >= 2


@given(seeds)
def test_prose_is_words_alone(seed: int) -> None:
    text = prose(scene_of(seed), random.Random(seed))
    assert text.endswith(".")
    assert 5 < num_words(text) < 140


def _check_answer(scene: Scene, question: str, answer: str) -> None:
    found = next((g for g in scene.groups if re.search(rf"\b({g.kind}|{plural(g.kind)})\b", question)), None)
    if question.startswith("how many things"):
        assert answer == NUMBERS[scene.num_objects]
    elif question.startswith("how many"):
        assert answer == NUMBERS[found.count if found else 0]
    elif question.startswith("is there"):
        assert answer == ("yes" if found else "no")
    elif "colour" in question:
        assert found is not None
        assert answer == found.colour
    elif "solid, striped" in question:
        assert found is not None
        assert answer == found.texture
    elif question.startswith(("how big", "what size")):
        assert found is not None
        assert answer == found.size
    elif question.startswith("where") and found:
        assert all(place(cell) in answer for cell in found.cells)
    elif question in ("where is this?", "what is behind the things?"):
        assert answer == BACKGROUND_PHRASES[scene.background]
    elif match := re.fullmatch(r"(?:is|are) .* (\w+)\?", question):
        assert found is not None
        assert answer == ("yes" if match[1] == found.colour else f"no, {found.colour}")
    elif question.startswith("what is "):
        cell = next(cell for cell in range(9) if question == f"what is {place(cell)}?")
        group = scene.cells()[cell]
        assert group is not None
        assert answer.split()[1:] == [group.colour, group.kind]
    else:
        assert question in ("what does this picture show?", "describe the picture.", "what do you see?")


def test_answers_are_true() -> None:
    kinds_of_question = set()
    for seed in range(1500):
        scene = scene_of(seed)
        question, answer = about_picture(scene, random.Random(seed))
        _check_answer(scene, question, answer)
        kinds_of_question.add(question.split()[0] + question.split()[1])
    assert len(kinds_of_question) >= 10


def test_sums_are_right() -> None:
    numbers = {word: number for number, word in enumerate(NUMBERS)} | {"zero": 0}
    sums = [about_world(random.Random(seed)) for seed in range(400)]
    checked = 0
    for question, answer in sums:
        match = re.fullmatch(r"what is (\w+) plus (\w+)\?", question)
        if match:
            assert numbers[match[1]] + numbers[match[2]] == numbers[answer]
            checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("riddles", "words"),
    [
        (knowledge.KIND_RIDDLES, KINDS),
        (knowledge.COLOUR_RIDDLES, COLOURS),
        ({key: (value,) for key, value in knowledge.BACKGROUND_RIDDLES.items()}, BACKGROUNDS),
    ],
)
def test_riddles_cover_all_words_and_mean_one_thing(riddles: dict, words: tuple[str, ...]) -> None:
    assert set(riddles) == set(words)
    told = [riddle for options in riddles.values() for riddle in options]
    assert len(set(told)) == len(told)
    for word, options in riddles.items():
        assert not any(re.search(rf"\b{word}\b", riddle) for riddle in options), word


def test_texture_words_do_not_overlap() -> None:
    told = [word for texture in TEXTURES for word in TEXTURE_WORDS[texture]]
    assert len(set(told)) == len(told)
