"""How somebody who looks at a picture asks for another one: instructions that name the differences only."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from chatsearch.corpora.scenes.edits import Edit
from chatsearch.corpora.scenes.wording import join, num_words, place
from chatsearch.corpora.scenes.world import Group, Scene

OPEN_TEMPLATES = (
    "{}", "please {}", "can you {}?", "could you {}?", "now {}", "i would like you to {}", "i want you to {}", "change it: {}",
    "a change: {}", "edit this: {}", "please change this: {}", "what if you {}?", "would you {}?", "try to {}", "let us {}",
)  # fmt: skip
"""Ways to ask for an edit of a picture that leave open whether more of it is to change."""
EDIT_TEMPLATES = (
    *OPEN_TEMPLATES, "the same, but {}", "like this, but {}", "keep the rest and {}", "leave the rest and {}",
    "take this picture and {}", "just {}", "show me this picture again, but {}", "from this picture, {}",
)  # fmt: skip
"""Ways to ask for an edit of a picture."""


def _pointed(group: Group, scene: Scene, edits: Sequence[Edit], rng: random.Random) -> str | None:
    """A name that only somebody who sees the picture can resolve: "the blue one", "the thing at the top left"."""
    # "make the moon blue and remove the blue one" would leave open which blue one is meant.
    named = {edit.value for edit in edits}
    named |= {value for edit in edits if (new := edit.added) for value in (new.colour, new.texture, new.size)}
    options = []
    one = "one" if group.count == 1 else "ones"
    for value in (group.colour, group.texture, group.size):
        if (
            value not in named
            and sum(value in (other.colour, other.texture, other.size) for other in scene.groups) == 1
        ):
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
    told: Sequence[Edit] = (),
) -> str:
    """A request for ``edits`` of ``scene`` in at most ``max_words`` words (``can_be_said`` must hold).

    Args:
        scene: the reference picture.
        edits: what is to change.
        rng: source of all choices.
        max_words: limit in whitespace words.
        riddle: how often a value is told as riddle.
        point: how often an object is named by how it looks instead of by its kind.
        said: words to be used for an edit as they are.
        told: what else of ``scene`` is to change, as was said before: nothing then asks to keep the rest.
    """
    for attempt in range(30):
        # Short of words, the plain names come in.
        easing = 1 - attempt / 30
        clauses = []
        for edit in edits:
            group = scene.find(edit.subject)
            name = _pointed(group, scene, [*told, *edits], rng) if group and rng.random() < point * easing else None
            clauses.append((said or {}).get(edit) or rng.choice(edit.forms(scene, rng, riddle * easing, name)))
        text = _sentence(rng.choice(OPEN_TEMPLATES if told else EDIT_TEMPLATES), clauses)
        if num_words(text) <= max_words:
            return text
    clauses = [(said or {}).get(edit) or min(edit.forms(scene, rng), key=num_words) for edit in edits]
    text = _sentence("{}", clauses)
    assert num_words(text) <= max_words, f"{len(edits)} edits do not fit into {max_words} words: {text}"
    return text


def _sentence(template: str, clauses: Sequence[str]) -> str:
    text = template.format(join(clauses))
    return text if text.endswith("?") else text + "."


def can_be_said(scene: Scene, edits: Sequence[Edit], max_words: int) -> bool:
    """Whether the shortest plain request for the edits keeps within the limit."""
    rng = random.Random(0)  # decides synonyms only, and those are equally long
    return num_words(join([min(edit.forms(scene, rng), key=num_words) for edit in edits])) <= max_words
