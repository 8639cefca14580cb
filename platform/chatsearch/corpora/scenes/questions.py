"""Questions about a picture, or about the world, with answers in words."""

from __future__ import annotations

import random

from chatsearch.corpora.scenes import knowledge
from chatsearch.corpora.scenes.captions import caption
from chatsearch.corpora.scenes.vocabulary import BACKGROUNDS, COLOURS, KINDS, MAX_COUNT
from chatsearch.corpora.scenes.wording import BACKGROUND_PHRASES, NUMBERS, article, join, place, plural, the
from chatsearch.corpora.scenes.world import Scene

QuestionAnswer = tuple[str, str]


def about_picture(scene: Scene, rng: random.Random) -> QuestionAnswer:
    """One question on a scene and its true answer."""
    group = rng.choice(scene.groups)
    verb, name = ("is", the(group)) if group.count == 1 else ("are", the(group))
    topic = rng.choice(
        ("colour", "texture", "size", "place", "count", "total", "present", "is", "background", "what", "tell")
    )
    if topic == "colour":
        return rng.choice((f"what colour {verb} {name}?", f"which colour does {name} have?")), group.colour
    if topic == "texture":
        return f"{verb} {name} solid, striped, dotted or outlined?", group.texture
    if topic == "size":
        return rng.choice((f"how big {verb} {name}?", f"what size {verb} {name}?")), group.size
    if topic == "place":
        return f"where {verb} {name}?", join([place(cell) for cell in group.cells])
    if topic == "count":
        kind = group.kind if rng.random() < 0.8 else rng.choice(KINDS)
        found = scene.find(kind)
        return f"how many {plural(kind)} are there?", NUMBERS[found.count if found else 0]
    if topic == "total":
        return rng.choice(("how many things are there?", "how many things do you see?")), NUMBERS[scene.num_objects]
    if topic == "present":
        kind = group.kind if rng.random() < 0.5 else rng.choice(KINDS)
        return f"is there {article(kind)} in the picture?", "yes" if scene.find(kind) else "no"
    if topic == "is":
        colour = group.colour if rng.random() < 0.5 else rng.choice(COLOURS)
        return f"{verb} {name} {colour}?", "yes" if colour == group.colour else f"no, {group.colour}"
    if topic == "background":
        return rng.choice(("where is this?", "what is behind the things?")), BACKGROUND_PHRASES[scene.background]
    if topic == "what":
        cell = rng.choice(group.cells)
        return f"what is {place(cell)}?", article(f"{group.colour} {group.kind}")
    return rng.choice(("what does this picture show?", "describe the picture.", "what do you see?")), caption(
        scene, rng
    )


def about_world(rng: random.Random) -> QuestionAnswer:
    """One question on the body of world knowledge."""
    topic = rng.randrange(4)
    if topic == 0:
        kind = rng.choice(KINDS)
        return f"what is {rng.choice(knowledge.KIND_RIDDLES[kind])}?", article(kind)
    if topic == 1:
        colour = rng.choice(COLOURS)
        return f"what is {rng.choice(knowledge.COLOUR_RIDDLES[colour])}?", colour
    if topic == 2:
        background = rng.choice(BACKGROUNDS)
        return f"what place or time is it {knowledge.BACKGROUND_RIDDLES[background]}?", BACKGROUND_PHRASES[background]
    first, second = rng.randint(0, 2), rng.randint(0, MAX_COUNT)
    return f"what is {NUMBERS[first]} plus {NUMBERS[second]}?".replace("no ", "zero ").replace("no?", "zero?"), (
        NUMBERS[first + second] if first + second else "zero"
    )
