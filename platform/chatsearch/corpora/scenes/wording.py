"""How the scenes world puts things into words: nouns, places, backgrounds, riddles, plurals."""

from __future__ import annotations

import random
from collections.abc import Sequence

from chatsearch.corpora.scenes.knowledge import BACKGROUND_RIDDLES, COLOUR_RIDDLES, KIND_RIDDLES
from chatsearch.corpora.scenes.vocabulary import PLACES
from chatsearch.corpora.scenes.world import Group

NUMBERS = ("no", "one", "two", "three", "four", "five")
BACKGROUND_PHRASES = {
    "plain": "on plain gray",
    "sky": "in the sky",
    "sea": "on the sea",
    "field": "in a field",
    "night": "at night",
    "room": "in a room",
    "checkers": "on a chess board",
    "desert": "in the desert",
    "snow": "in the snow",
    "wall": "on a brick wall",
    "sunset": "at sunset",
    "forest": "in the forest",
}
_PLURALS = {"cross": "crosses", "fish": "fish"}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "medium": ("medium",), "large": ("large", "big", "huge")}
TEXTURE_WORDS = {
    "solid": ("solid", "filled"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "outlined": ("outlined", "hollow"),
}


def plural(kind: str) -> str:
    """Plural of a kind."""
    return _PLURALS.get(kind, kind + "s")


def noun(kind: str, count: int) -> str:
    """A kind in the number that fits the count."""
    return kind if count == 1 else plural(kind)


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def place(cell: int) -> str:
    """Where a cell is."""
    return "in the center" if PLACES[cell] == "center" else f"at the {PLACES[cell]}"


def towards(cell: int) -> str:
    """Into which cell."""
    return f"to the {PLACES[cell]}"


def described(group: Group, attributes: Sequence[str], rng: random.Random) -> str:
    """Indefinite noun phrase: count, the named attributes in usual order, kind."""
    words = []
    if "size" in attributes:
        words.append(rng.choice(SIZE_WORDS[group.size]))
    if "texture" in attributes:
        words.append(rng.choice(TEXTURE_WORDS[group.texture]))
    if "colour" in attributes:
        words.append(group.colour)
    words.append(noun(group.kind, group.count))
    text = " ".join(words)
    return article(text) if group.count == 1 else f"{NUMBERS[group.count]} {text}"


def the(group: Group) -> str:
    """Definite noun phrase: "the fish", "the two apples"."""
    return (
        f"the {noun(group.kind, group.count)}"
        if group.count == 1
        else f"the {NUMBERS[group.count]} {plural(group.kind)}"
    )


def colour_name(colour: str, rng: random.Random, riddle: float) -> str:
    """A colour as word or, with probability ``riddle``, as riddle."""
    return rng.choice(COLOUR_RIDDLES[colour]) if rng.random() < riddle else colour


def kind_name(kind: str, rng: random.Random, riddle: float) -> str | None:
    """A riddle for a kind with probability ``riddle``, else None: then the noun itself is to be used."""
    return rng.choice(KIND_RIDDLES[kind]) if rng.random() < riddle else None


def where(background: str, rng: random.Random, riddle: float = 0.0) -> str:
    """A background as adverbial phrase, plain or as riddle."""
    return BACKGROUND_RIDDLES[background] if rng.random() < riddle else BACKGROUND_PHRASES[background]


def join(parts: Sequence[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def num_words(*texts: str) -> int:
    """Whitespace words, as the paper counts context length."""
    return sum(len(text.split()) for text in texts)
