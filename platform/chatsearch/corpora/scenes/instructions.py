"""How somebody who looks at a picture asks for another one: instructions that name the differences only."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from chatsearch.corpora.scenes.edits import Edit
from chatsearch.corpora.scenes.wording import join, num_words, place
from chatsearch.corpora.scenes.world import Group, Scene

EDIT_TEMPLATES = (
    "{}", "please {}", "can you {}?", "could you {}?", "now {}", "i would like you to {}", "i want you to {}",
    "the same, but {}", "like this, but {}", "keep the rest and {}", "take this picture and {}", "just {}",
    "show me this picture again, but {}", "from this picture, {}", "change it: {}", "one change: {}",
    "edit this: {}", "please change this: {}", "what if you {}?", "would you {}?", "try to {}", "let us {}",
)  # fmt: skip
"""Ways to ask for an edit of a picture."""


def _pointed(group: Group, scene: Scene, rng: random.Random) -> str | None:
    """A name that only somebody who sees the picture can resolve: "the blue one", "the thing at the top left"."""
    options = []
    one = "one" if group.count == 1 else "ones"
    for value in (group.colour, group.texture, group.size):
        if sum(value in (other.colour, other.texture, other.size) for other in scene.groups) == 1:
            options.append(f"the {value} {one}")
    if group.count == 1:
        options.append(f"the thing {place(group.cells[0])}")
    return rng.choice(options) if options else None


def instruction(
    scene: Scene,
    edits: Sequence[Edit],
    rng: random.Random,
    max_words: int,
    *,
    riddle: float = 0.25,
    point: float = 0.3,
    said: Mapping[Edit, str] | None = None,
    templates: Sequence[str] = EDIT_TEMPLATES,
) -> str:
    """A request for ``edits`` of ``scene`` in at most ``max_words`` words.

    Args:
        scene: the reference picture.
        edits: what is to change.
        rng: source of all choices.
        max_words: limit in whitespace words.
        riddle: how often a value is told as riddle.
        point: how often an object is named by how it looks instead of by its kind.
        said: words to be used for an edit as they are.
        templates: ways to ask.
    """
    attempt = 0
    while True:
        # Short of words, the plain names come in.
        easing = max(0.0, 1 - attempt / 20)
        clauses = []
        for edit in edits:
            group = scene.find(edit.subject)
            name = _pointed(group, scene, rng) if group and rng.random() < point * easing else None
            clauses.append((said or {}).get(edit) or edit.request(scene, rng, riddle * easing, name))
        text = (rng.choice(templates) if attempt < 40 else "{}").format(join(clauses))
        text = text if text.endswith("?") else text + "."
        if num_words(text) <= max_words:
            return text
        attempt += 1
        assert attempt < 200, f"{len(edits)} edits do not fit into {max_words} words: {text}"
