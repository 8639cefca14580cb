"""Captions, interleaved stories and plain prose about scenes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from chatsearch.corpora.scenes import knowledge
from chatsearch.corpora.scenes.edits import apply, random_edits
from chatsearch.corpora.scenes.vocabulary import BACKGROUNDS, COLOURS, KINDS
from chatsearch.corpora.scenes.wording import (
    BACKGROUND_PHRASES,
    NUMBERS,
    article,
    described,
    join,
    place,
    plural,
    the,
    where,
)
from chatsearch.corpora.scenes.world import Group, Scene, above, left_of

MAX_CAPTION_WORDS = 30
_OPENINGS = (
    "",
    "",
    "",
    "a picture of ",
    "a drawing of ",
    "there is ",
    "we see ",
    "this shows ",
    "here is ",
    "look at ",
)
_ATTRIBUTES = ("colour", "texture", "size")


def _some_attributes(rng: random.Random, detail: float) -> list[str]:
    chosen = [name for name in _ATTRIBUTES if rng.random() < detail]
    return chosen or ["colour"]


def _relation(first: Group, second: Group, rng: random.Random) -> str | None:
    options = []
    if left_of(first, second):
        options += ["left of", "to the left of"]
    if left_of(second, first):
        options += ["right of", "to the right of"]
    if above(first, second):
        options += ["above", "over"]
    if above(second, first):
        options += ["below", "under"]
    return rng.choice(options) if options else None


def caption(scene: Scene, rng: random.Random, openings: Sequence[str] = _OPENINGS) -> str:
    """A true partial description of at most 30 words; level of detail, order and words vary."""
    groups = list(scene.groups)
    rng.shuffle(groups)
    shown = groups[: max(1, len(groups) - (rng.random() < 0.3))]
    detail = rng.choice((0.3, 0.6, 0.9))
    relation = _relation(shown[0], shown[1], rng) if len(shown) > 1 and rng.random() < 0.45 else None
    phrases = [described(group, _some_attributes(rng, detail), rng) for group in shown]
    if relation:
        phrases = [f"{phrases[0]} {relation} {phrases[1]}", *phrases[2:]]
    elif rng.random() < 0.4:
        spot = rng.randrange(len(shown))
        if shown[spot].count == 1:
            phrases[spot] += f" {place(shown[spot].cells[0])}"
    if rng.random() < 0.15:
        return f"{join(phrases)}, {NUMBERS[scene.num_objects]} things in all"
    if rng.random() < 0.65:
        background = where(scene.background, rng, riddle=0.1)
        if rng.random() < 0.25:
            return f"{background} there {'are' if shown[0].count > 1 else 'is'} {join(phrases)}"
        return f"{rng.choice(openings)}{join(phrases)} {background}"
    return f"{rng.choice(openings)}{join(phrases)}"


def captions(scene: Scene, rng: random.Random, count: int = 4) -> list[str]:
    """Distinct captions of one scene."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[caption(scene, rng)] = None
    return list(found)


_FIRST = ("it starts like this:", "first,", "the story begins:", "on the first page we see")
_NEXT = ("then", "after that,", "later", "on the next page,", "in the next picture,", "now")
_OTHER = ("another page shows", "a different picture:", "somewhere else,", "and here is")


def story(scene: Scene, split: str, rng: random.Random) -> tuple[list[str], list[Scene]]:
    """Two to four related scenes with one sentence before each: edits of the first, or new scenes with a shared object."""
    scenes = [scene]
    sentences = [f"{rng.choice(_FIRST)} {caption(scene, rng, ('',))}."]
    for _ in range(rng.randint(1, 3)):
        edits = random_edits(scenes[-1], split, rng, rng.randint(1, 2))
        scenes.append(apply(scenes[-1], edits))
        if rng.random() < 0.7:
            told = join([edit.story(scenes[-2], rng) for edit in edits])
            sentences.append(f"{rng.choice(_NEXT)} {told}.")
        else:
            sentences.append(f"{rng.choice(_OTHER)} {caption(scenes[-1], rng, ('',))}.")
    return sentences, scenes


def fact(rng: random.Random) -> str:
    """One sentence of the world knowledge."""
    subject = rng.randrange(3)
    if subject == 0:
        kind = rng.choice(KINDS)
        riddle = rng.choice(knowledge.KIND_RIDDLES[kind])
        return rng.choice((f"{riddle} is {article(kind)}", f"{article(kind)} is {riddle}", f"{plural(kind)}: {riddle}"))
    if subject == 1:
        colour = rng.choice(COLOURS)
        riddle = rng.choice(knowledge.COLOUR_RIDDLES[colour])
        return rng.choice((f"{riddle} is {colour}", f"{colour} is {riddle}"))
    background = rng.choice(BACKGROUNDS)
    riddle, phrase = knowledge.BACKGROUND_RIDDLES[background], BACKGROUND_PHRASES[background]
    return rng.choice((f"{riddle}: that is {phrase}", f"{phrase} means {riddle}", f"{phrase} is {riddle}"))


def prose(scene: Scene, rng: random.Random) -> str:
    """A few sentences without pictures: knowledge, descriptions and places."""
    sentences = [fact(rng) for _ in range(rng.randint(1, 3))]
    sentences += [caption(scene, rng) for _ in range(rng.randint(1, 2))]
    group = rng.choice(scene.groups)
    verb = "is" if group.count == 1 else "are"
    sentences.append(f"{the(group)} {verb} {join([place(cell) for cell in group.cells])}")
    rng.shuffle(sentences)
    return ". ".join(sentences) + "."
