"""ChatSearch samples of the scenes world, each with its family: context scenes, target and near-misses.

The near-misses of a target share most of it: other edits of the same reference, the same edits of a slightly
other reference, one told fact violated. They share its nuisance too, so nothing but what was said and shown
tells them apart. What no word speaks of stays as the reference shows it: some near-misses differ from the target in that alone.

Half of the pairs of the sub-tasks i and m are whole instructions (the paper's MDC-I), half are last rounds of dialogues (its
MDC-T), which leave a part of what is wanted to the round before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from chatsearch.corpora.scenes.dialogues import MAX_I_WORDS, MAX_M_WORDS, MAX_T_WORDS, Description, Slip, describe
from chatsearch.corpora.scenes.edits import Edit, apply, random_edit, random_edits
from chatsearch.corpora.scenes.facts import Fact, group_fact
from chatsearch.corpora.scenes.instructions import can_be_said, instruction
from chatsearch.corpora.scenes.wording import num_words, the
from chatsearch.corpora.scenes.world import Scene, is_valid, random_scene
from chatsearch.types import Kind, Role

Turn = tuple[Role, str | Scene]

_TOLD_BEFORE = 0.5
"""Share of the pairs of i and m whose last round leaves a part to the round before, as in the paper 5,000 of 10,000."""
_TOLD = {"recolour": "colour", "count": "count"}
"""Changes of what every description begins with, and the fact that says all of them."""
AS_SAID = (
    "the rest as i said.",
    "otherwise as i said before.",
    "and all else as i described it.",
    "and what i asked for before.",
)
_MAX_AS_SAID_WORDS = max(num_words(words) for words in AS_SAID)


@dataclass(frozen=True, slots=True)
class ChatSample:
    """A dialogue whose last turn is the target, with what its words mean."""

    turns: list[Turn]
    stated: list[list[Fact]] = field(default_factory=list)
    """What each describing round literally says."""
    wanted: list[Fact] = field(default_factory=list)
    """What the description comes down to."""
    slip: Slip | None = None
    """What the description says wrongly before it says it rightly."""
    edits: list[list[Edit]] = field(default_factory=list)
    """What each instruction changes, from one picture of the dialogue to the next."""
    pipeline: str = "scenes"
    """How it was made, where there are several ways."""

    @property
    def scenes(self) -> list[Scene]:
        """The pictures in order; the last is the target."""
        return [turn for _, turn in self.turns if isinstance(turn, Scene)]

    @property
    def texts(self) -> list[str]:
        """The words in order."""
        return [turn for _, turn in self.turns if isinstance(turn, str)]


@dataclass(frozen=True, slots=True)
class WorldKey:
    """What a world of samples hangs on; every draw is a function of it and of the sample's number."""

    seed: int
    split: str

    def rng(self, *parts: object) -> random.Random:
        """A source of draws of its own for each purpose."""
        return random.Random("/".join(str(part) for part in (self.seed, self.split, *parts)))

    def scene(self, *parts: object) -> Scene:
        """A scene of its own for each purpose, with a nuisance nobody else has."""
        name = "/".join(str(part) for part in (self.seed, self.split, *parts))
        return random_scene(random.Random(f"{name}/scene"), self.split, name)


def _edit_root(key: WorldKey, kind: Kind) -> str:
    """Held out, sample k of m is sample k of i with its history (as the paper's counts imply); in training they differ."""
    return "chatsearch_i" if kind in (Kind.I, Kind.M) and key.split != "train" else str(kind)


def _reference_and_edits(key: WorldKey, kind: Kind, index: int) -> tuple[Scene, list[Edit]]:
    root = _edit_root(key, kind)
    reference = key.scene(root, index)
    return reference, _edits(key, reference, key.rng(root, index, "edits"), (0.3, 0.45, 0.25))


def _edits(key: WorldKey, reference: Scene, rng: random.Random, weights: tuple[float, ...]) -> list[Edit]:
    """One edit or more that one short instruction can name; ``weights`` are of one, two, ... edits."""
    while True:
        edits = random_edits(reference, key.split, rng, rng.choices(range(1, len(weights) + 1), weights)[0])
        if can_be_said(reference, edits, MAX_I_WORDS):
            return edits


@dataclass(frozen=True, slots=True)
class LastRound:
    """A round that leaves a part to the one before: all wanted but ``asked`` was told when ``reference`` was shown in answer."""

    reference: Scene
    told: list[Edit]
    asked: Edit
    words: str

    @classmethod
    def of(cls, key: WorldKey, kind: Kind, index: int) -> LastRound | None:
        """That of a sample of i or m, or None where its instruction says all."""
        root = _edit_root(key, kind)
        rng = key.rng(root, index, "last round")
        if rng.random() >= _TOLD_BEFORE:
            return None
        reference = key.scene(root, index)
        max_words = MAX_I_WORDS - _MAX_AS_SAID_WORDS
        num_edits = rng.choice((2, 2, 3))
        while True:
            *told, asked = random_edits(reference, key.split, rng, num_edits)
            if (
                all(edit.operation in _TOLD for edit in told)
                and asked.fits(reference)
                and can_be_said(reference, [asked], max_words)
            ):
                words = instruction(reference, [asked], rng, max_words, told=told)
                return cls(reference, told, asked, f"{words} {rng.choice(AS_SAID)}")

    @property
    def edits(self) -> list[Edit]:
        """All that tells the target from the reference."""
        return [*self.told, self.asked]

    @property
    def described(self) -> Scene:
        """What was asked for before the reference was shown."""
        return apply(self.reference, self.told)

    @property
    def told_facts(self) -> set[Fact]:
        """What the reference lacks of it."""
        facts = set()
        for edit in self.told:
            group = self.described.find(edit.subject)
            assert group is not None
            facts.add(group_fact(_TOLD[edit.operation], group))
        return facts


def edit_sample(key: WorldKey, index: int) -> ChatSample:
    """An edit triplet: reference, plain instruction of one or two changes, result."""
    reference = key.scene(Kind.EDIT, index)
    rng = key.rng(Kind.EDIT, index, "edits")
    edits = _edits(key, reference, rng, (0.5, 0.5))
    text = instruction(reference, edits, rng, MAX_I_WORDS, riddle=0.1, point=0.1)
    turns: list[Turn] = [(Role.USER, reference), (Role.USER, text), (Role.ASSISTANT, apply(reference, edits))]
    return ChatSample(turns, edits=[edits])


def _spoken(description: Description) -> list[Turn]:
    """The rounds of a description and the replies between them."""
    turns: list[Turn] = [(Role.USER, description.rounds[0])]
    for reply, words in zip(description.replies, description.rounds[1:], strict=True):
        turns += [(Role.ASSISTANT, reply), (Role.USER, words)]
    return turns


def t_sample(key: WorldKey, index: int) -> ChatSample:
    """Several rounds of text, then the target."""
    target = key.scene(Kind.T, index)
    rng = key.rng(Kind.T, index, "words")
    description = describe(target, key.split, rng, rng.choice((2, 3, 3, 4)), MAX_T_WORDS)
    turns = [*_spoken(description), (Role.ASSISTANT, target)]
    return ChatSample(turns, description.stated, description.wanted, slip=description.slip)


def i_sample(key: WorldKey, index: int) -> ChatSample:
    """One picture and one instruction, then the target. The last round of a dialogue, of pipeline ``scenes/last-round``, does not say all."""
    last = LastRound.of(key, Kind.I, index)
    if last is not None:
        turns: list[Turn] = [(Role.USER, last.reference), (Role.USER, last.words)]
        turns.append((Role.ASSISTANT, apply(last.reference, last.edits)))
        return ChatSample(turns, edits=[last.edits], pipeline="scenes/last-round")
    reference, edits = _reference_and_edits(key, Kind.I, index)
    text = instruction(reference, edits, key.rng(Kind.I, index, "words"), MAX_I_WORDS)
    turns = [(Role.USER, reference), (Role.USER, text), (Role.ASSISTANT, apply(reference, edits))]
    return ChatSample(turns, edits=[edits])


def _undone(edit: Edit, scene: Scene) -> Edit:
    """The edit that leads back to ``scene`` after ``edit``."""
    if edit.operation == "background":
        return replace(edit, value=scene.background)
    group = scene.find(edit.subject)
    assert group is not None
    field_name = {"recolour": "colour", "retexture": "texture", "resize": "size"}.get(edit.operation)
    return replace(edit, value=getattr(group, field_name) if field_name else str(group.cells[0]))


def _earlier(key: WorldKey, reference: Scene, rng: random.Random) -> tuple[Scene, Edit] | None:
    """A picture one simple edit before the reference, and that edit."""
    for _ in range(20):
        edit = random_edit(reference, rng.choice(("background", "recolour", "retexture", "resize", "move")), rng)
        if edit is not None and is_valid(before := edit.apply(reference), key.split):
            return before, _undone(edit, reference)
    return None


def m_sample(key: WorldKey, index: int) -> ChatSample:
    """Text rounds that end in a picture the user accepts, at times one change of it, then an instruction and the target.

    Pipelines: in ``scenes/told-before`` the picture shown misses something of what was described, and the last round leaves that to the
    description; in ``scenes/refers-back`` it takes up a word: "give it the colour i asked for first"; ``scenes/two-changes`` has a
    change on the way; any other is of ``scenes/plain``.
    """
    last = LastRound.of(key, Kind.M, index)
    if last is not None:
        return _told_before(key, index, last)
    reference, edits = _reference_and_edits(key, Kind.M, index)
    rng = key.rng(Kind.M, index, "words")
    step = _earlier(key, reference, rng) if rng.random() < 0.3 else None
    first = step[0] if step else reference
    slip, said = None, {}
    recolours = [edit for edit in edits if edit.operation == "recolour"]
    group = first.find(recolours[0].subject) if recolours else None
    if group and not step and rng.random() < 0.5:
        slip = Slip(Fact("colour", group.kind, group.colour), Fact("colour", group.kind, recolours[0].value))
    while True:
        num_rounds = 2 if slip else rng.choice((1, 1, 2))
        description = describe(first, key.split, rng, num_rounds, 45, accident=1e-4, slip=slip)
        if group and slip:
            back = rng.choice(("the colour i named first", "the first colour after all"))
            said = {recolours[0]: f"give {the(group)} {back}"}
        turns = _spoken(description)
        turns.append((Role.ASSISTANT, first))
        if step:
            turns += [(Role.USER, instruction(first, [step[1]], rng, 14, riddle=0.1)), (Role.ASSISTANT, reference)]
        turns.append((Role.USER, instruction(reference, edits, rng, MAX_I_WORDS + 4, said=said)))
        turns.append((Role.ASSISTANT, apply(reference, edits)))
        sample = ChatSample(
            turns,
            description.stated,
            description.wanted,
            description.slip,
            ([[step[1]]] if step else []) + [edits],
            f"scenes/{'refers-back' if said else 'two-changes' if step else 'plain'}",
        )
        if num_words(*sample.texts) <= MAX_M_WORDS:
            return sample


def _told_before(key: WorldKey, index: int, last: LastRound) -> ChatSample:
    rng = key.rng(Kind.M, index, "words")
    while True:
        description = describe(last.described, key.split, rng, rng.choice((1, 1, 2)), 45, accident=1e-4)
        if last.told_facts <= set(description.wanted):
            break
    turns = _spoken(description)
    turns += [(Role.ASSISTANT, last.reference), (Role.USER, last.words)]
    turns.append((Role.ASSISTANT, apply(last.reference, last.edits)))
    told = (description.stated, description.wanted, description.slip)
    return ChatSample(turns, *told, [last.edits], "scenes/told-before")


SAMPLERS: dict[Kind, Callable[[WorldKey, int], ChatSample]] = {
    Kind.EDIT: edit_sample,
    Kind.T: t_sample,
    Kind.I: i_sample,
    Kind.M: m_sample,
}


def _near(scene: Scene, split: str, rng: random.Random) -> Scene:
    return apply(scene, random_edits(scene, split, rng, 1 if rng.random() < 0.7 else 2))


def _swapped(scene: Scene, rng: random.Random) -> Scene:
    """Two groups exchange their colours, textures or sizes: the same words, differently bound."""
    first, second = rng.sample(scene.groups, 2)
    name = rng.choice(("colour", "colour", "texture", "size"))
    changed = scene.with_group(first.kind, first.changed(name, getattr(second, name)))
    return changed.with_group(second.kind, second.changed(name, getattr(first, name)))


def _elsewhere(scene: Scene, edit: Edit, rng: random.Random) -> Scene:
    """What an edit asks for, done to another group."""
    others = [group for group in scene.groups if group.kind != edit.subject]
    if edit.operation not in ("recolour", "retexture", "resize") or not others:
        return scene
    return replace(edit, subject=rng.choice(others).kind).apply(scene)


def _collect(draws: Sequence[Callable[[], Scene]], fits: Callable[[Scene], bool], count: int) -> list[Scene]:
    """Distinct scenes that fit, from the draws in turn; fewer than ``count`` where the draws run dry."""
    found: dict[Scene, None] = {}
    for attempt in range(100 * count):
        if len(found) >= count:
            break
        scene = draws[attempt % len(draws)]()
        if fits(scene):
            found[scene] = None
    return list(found)


def _t_distractors(key: WorldKey, index: int, sample: ChatSample, count: int) -> list[Scene]:
    """Near-misses that each violate something told: the scene of the slip, scenes that fit the last round, others."""
    rng = key.rng(Kind.T, index, "distractors")
    target = sample.scenes[-1]
    imagined = sample.slip.imagined(target) if sample.slip else target

    def is_wrong(scene: Scene) -> bool:
        return is_valid(scene, key.split) and not all(fact.holds(scene) for fact in sample.wanted)

    def fits_last(scene: Scene) -> bool:
        return is_wrong(scene) and all(fact.holds(scene) for fact in sample.stated[-1])

    def near_target() -> Scene:
        return _near(target, key.split, rng)

    def swapped() -> Scene:
        return _swapped(target, rng)

    first = [imagined] if count and is_wrong(imagined) else []
    first += _collect([swapped, near_target], fits_last, (count + 2) // 3)
    draws = [swapped, near_target, lambda: _near(imagined, key.split, rng)]
    return list(dict.fromkeys([*first, *_collect(draws, is_wrong, count)]))[:count]


def _edit_distractors(key: WorldKey, rng: random.Random, sample: ChatSample, count: int) -> list[Scene]:
    """Near-misses of an edited scene.

    Of several edits, first what the last one alone makes, and what all others do. Most are other single edits of the reference, so they
    lie as near to it as the target or nearer. The rest do part of what is asked, do it to the wrong object, or do all of it and more.
    """
    (reference, target), edits = sample.scenes[-2:], sample.edits[-1]
    halfway = apply(reference, edits[:-1])

    def fits(scene: Scene) -> bool:
        return is_valid(scene, key.split) and scene.content() not in (target.content(), reference.content())

    def sibling() -> Scene:
        return apply(reference, random_edits(reference, key.split, rng, 1))

    def wrong_end() -> Scene:
        return apply(halfway, random_edits(halfway, key.split, rng, 1))

    def wrong_object() -> Scene:
        return _elsewhere(halfway, edits[-1], rng)

    def beyond() -> Scene:
        return _near(target, key.split, rng)

    alone = edits[-1].apply(reference) if edits[-1].fits(reference) else reference
    parts = [scene for scene in (alone, halfway) if fits(scene)]
    draws = [wrong_object, sibling, sibling, wrong_end, sibling, sibling, beyond]
    return list(dict.fromkeys([*parts, *_collect(draws, fits, count)]))[:count]


def family(key: WorldKey, kind: Kind, index: int, num_distractors: int) -> list[Scene]:
    """The gallery scenes of one sample, target first, without repeats."""
    sample = SAMPLERS[kind](key, index)
    scenes = sample.scenes[::-1]
    if kind == Kind.T:
        scenes += _t_distractors(key, index, sample, num_distractors)
    else:
        rng = key.rng(_edit_root(key, kind), index, "distractors")
        scenes += _edit_distractors(key, rng, sample, num_distractors)
    return list(dict.fromkeys(scenes))
