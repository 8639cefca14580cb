"""Text rounds in which somebody describes the picture they want, a little at a time.

Each round adds something, puts something right that was said wrongly before, or answers a question of the
assistant. Some values are told as riddles. The last round alone never suffices: every dialogue spreads its
facts over two rounds or more.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chatsearch.corpora.scenes.facts import Fact, group_fact
from chatsearch.corpora.scenes.vocabulary import BACKGROUNDS, COLOURS, KINDS, TEXTURES
from chatsearch.corpora.scenes.wording import (
    BACKGROUND_PHRASES,
    TEXTURE_WORDS,
    article,
    colour_name,
    described,
    kind_name,
    num_words,
    place,
    plural,
    the,
    where,
)
from chatsearch.corpora.scenes.world import Group, Scene, above, is_valid, left_of

MAX_T_WORDS, MAX_M_WORDS, MAX_I_WORDS = 70, 80, 20
"""Whitespace words of all text segments of one dialogue."""
_ACCIDENT = 1e-7
"""Facts are told until a random picture fits all of them less often than this: so a gallery holds one answer."""
_OPENINGS = ("i am looking for", "find", "show me", "i want", "i remember", "i need")
_ALSO = ("and also", "i also see", "and", "besides,", "with")
_MORE = ("okay.", "what else?", "anything more?", "got it.", "tell me more.", "go on.")


@dataclass(slots=True)
class Chunk:
    """One thing that is said in one go. Text with a space in front waits for a lead such as "i also see"."""

    text: str
    facts: list[Fact]
    topic: str = ""
    """The kind it is about, "background" or ""."""
    question: str = ""
    """How the assistant could ask for it."""
    answer: str = ""
    """What is then said instead of ``text``."""


@dataclass(frozen=True, slots=True)
class Slip:
    """Something said wrongly first and put right later."""

    true: Fact
    wrong: Fact

    def imagined(self, scene: Scene) -> Scene:
        """The scene as it would be if the wrong statement held."""
        if self.true.name == "background":
            return replace(scene, background=self.wrong.value)
        group = scene.find(self.true.subject)
        assert group is not None
        if self.true.name == "object":
            return scene.with_group(group.kind, group.changed("kind", self.wrong.subject))
        return scene.with_group(group.kind, group.changed(self.wrong.name, self.wrong.value))


@dataclass(frozen=True, slots=True)
class Description:
    """Rounds of one described picture."""

    rounds: list[str]
    """What the user says, a round each."""
    replies: list[str]
    """What the assistant says between the rounds: one fewer."""
    stated: list[list[Fact]]
    """What each round literally says, true or put right later."""
    wanted: list[Fact]
    """What holds in the end."""
    slip: Slip | None
    """What was said and later put right."""

    @property
    def num_words(self) -> int:
        """Words of all rounds and replies."""
        return num_words(*self.rounds, *self.replies)


def _value_words(fact: Fact, rng: random.Random, riddle: float) -> str:
    if fact.name == "colour":
        return colour_name(fact.value, rng, riddle)
    if fact.name == "texture":
        return rng.choice(TEXTURE_WORDS[fact.value])
    return fact.value


def _introduction(group: Group, told: Sequence[str], rng: random.Random) -> Chunk:
    facts = [group_fact(name, group) for name in ("object", "count", *told)]
    riddle = kind_name(group.kind, rng, 0.3) if group.count == 1 else None
    if riddle is None:
        return Chunk(f" {described(group, told, rng)}.", facts, group.kind)
    # "the fruit that keeps the doctor away, a small green one"
    if not told:
        return Chunk(f" {riddle}.", facts, group.kind)
    words = described(group.changed("kind", "circle"), told, rng).replace("circle", "one")
    return Chunk(f" {riddle}, {words}.", facts, group.kind)


def _detail(group: Group, name: str, rng: random.Random) -> Chunk:
    fact = group_fact(name, group)
    verb = "is" if group.count == 1 else "are"
    if name == "place":
        spot = place(group.cells[0])
        if group.count > 1:
            return Chunk(f"one {group.kind} is {spot}.", [fact], group.kind)
        return Chunk(f"{the(group)} is {spot}.", [fact], group.kind, f"where is {the(group)}?", f"{spot}.")
    words = _value_words(fact, rng, 0.4)
    said = f"has {words}" if words.startswith("the ") and group.count == 1 else f"{verb} {words}"
    if words.startswith("the ") and group.count > 1:
        said = f"have {words}"
    question = {
        "colour": f"what colour {verb} {the(group)}?",
        "texture": f"{verb} {the(group)} solid, striped, dotted or outlined?",
        "size": f"how big {verb} {the(group)}?",
    }[name]
    return Chunk(f"{the(group)} {said}.", [fact], group.kind, question, f"{words}.")


def _correction(slip: Slip, scene: Scene, rng: random.Random) -> Chunk:
    fact, wrong = slip.true, slip.wrong
    if fact.name == "background":
        no = BACKGROUND_PHRASES[wrong.value]
        yes = where(fact.value, rng, 0.4)
        return Chunk(rng.choice((f"no, not {no}, rather {yes}.", f"sorry, not {no} but {yes}.")), [fact], "background")
    group = scene.find(fact.subject)
    assert group is not None
    if fact.name == "object":
        no = article(wrong.subject) if group.count == 1 else plural(wrong.subject)
        yes = kind_name(fact.subject, rng, 0.4) or (article(fact.subject) if group.count == 1 else plural(fact.subject))
        forms = (f"no, not {no}, rather {yes}.", f"sorry, not {no} but {yes}.", f"wait, i mean {yes}, not {no}.")
        return Chunk(rng.choice(forms), [fact], group.kind)
    name, yes = the(group), _value_words(fact, rng, 0.4)
    forms = (
        f"no, make {name} {yes}, not {wrong.value}.",
        f"sorry, not {wrong.value}: make {name} {yes}.",
        f"wait, make {name} {yes} instead of {wrong.value}.",
    )
    return Chunk(rng.choice(forms), [fact], group.kind)


def _relations(groups: Sequence[Group]) -> list[tuple[str, Fact]]:
    found = []
    for first in groups:
        for second in groups:
            if first is second:
                continue
            verb = "is" if first.count == 1 else "are"
            if left_of(first, second):
                found.append((f"{the(first)} {verb} left of {the(second)}.", Fact("left_of", first.kind, second.kind)))
                verb = "is" if second.count == 1 else "are"
                found.append((f"{the(second)} {verb} right of {the(first)}.", Fact("left_of", first.kind, second.kind)))
            elif above(first, second):
                found.append((f"{the(first)} {verb} above {the(second)}.", Fact("above", first.kind, second.kind)))
                verb = "is" if second.count == 1 else "are"
                found.append((f"{the(second)} {verb} below {the(first)}.", Fact("above", first.kind, second.kind)))
    return found


def _told_facts(scene: Scene, rng: random.Random, accident: float) -> list[Fact]:
    """Facts to tell: kinds, counts and some colours first, others until an accidental match is unlikely enough."""
    groups = list(scene.groups)
    rng.shuffle(groups)
    facts = [group_fact(name, group) for group in groups[:2] for name in ("object", "count", "colour")]
    others = [Fact("background", "", scene.background)]
    others += [group_fact(name, group) for group in groups[:2] for name in ("texture", "size")]
    rng.shuffle(others)
    if len(groups) > 2:
        others.insert(rng.randrange(3), group_fact("object", groups[2]))
        others += [group_fact("colour", groups[2]), group_fact("texture", groups[2])]
    relations = [fact for _, fact in _relations(groups[:2])]
    others += [rng.choice(relations)] if relations else []
    others += [group_fact("place", groups[0]), group_fact("place", groups[1])]
    for fact in others:
        if math.prod(told.chance for told in facts) < accident:
            break
        facts += [fact, group_fact("count", groups[2])] if fact.name == "object" else [fact]
    return facts


def _pick_slip(scene: Scene, split: str, facts: Sequence[Fact], rng: random.Random) -> Slip | None:
    """A slip whose imagined scene is one of the split: such a picture can be put in the gallery as a trap."""
    if rng.random() > 0.75:
        return None
    options = [fact for fact in facts if fact.name in ("object", "colour", "texture", "background")]
    values = {"colour": COLOURS, "texture": TEXTURES, "background": BACKGROUNDS}
    for _ in range(10):
        true = rng.choice(options)
        if true.name == "object":
            wrong = replace(true, subject=rng.choice([kind for kind in KINDS if not scene.find(kind)]))
        else:
            wrong = replace(true, value=rng.choice([value for value in values[true.name] if value != true.value]))
        slip = Slip(true, wrong)
        if is_valid(slip.imagined(scene), split):
            return slip
    return None


def _chunks(scene: Scene, facts: list[Fact], slip: Slip | None, rng: random.Random) -> list[list[Chunk]]:
    """Introductions of the groups with what follows each of them, then the rest, as lists that keep their order."""
    threads = []
    for kind in dict.fromkeys(fact.subject for fact in facts if fact.name == "object"):
        group = scene.find(kind)
        assert group is not None
        names = [fact.name for fact in facts if fact.subject == kind and fact.name in ("colour", "texture", "size")]
        mine = slip if slip and slip.true.subject == kind else None
        early = [name for name in names if rng.random() < 0.45 or (mine and name == mine.wrong.name)]
        spoken = group
        if mine:
            imagined = mine.imagined(scene).find(mine.wrong.subject)
            assert imagined is not None
            spoken = imagined
        thread = [_introduction(spoken, early, rng)]
        if mine and mine.true.name == "object":
            # Right after the slip: later sentences name the object by its true kind.
            thread.append(_correction(mine, scene, rng))
        thread += [_detail(group, name, rng) for name in names if name not in early]
        thread += [_detail(group, "place", rng) for fact in facts if fact.subject == kind and fact.name == "place"]
        if mine and mine.true.name != "object":
            thread.append(_correction(mine, scene, rng))
        threads.append(thread)
    for fact in facts:
        if fact.name == "background":
            mine = slip if slip and slip.true == fact else None
            shown = mine.wrong if mine else fact
            phrase = where(shown.value, rng, 0.0 if mine else 0.4)
            text = rng.choice((f"it is all {phrase}.", f"everything is {phrase}.", f"the picture is {phrase}."))
            thread = [Chunk(text, [shown], "background", "where is it all?", f"{phrase}.")]
            if mine:
                thread.append(_correction(mine, scene, rng))
            threads.append(thread)
        if fact.name in ("left_of", "above"):
            groups = [group for group in scene.groups if group.kind in (fact.subject, fact.value)]
            text = rng.choice([text for text, found in _relations(groups) if found == fact])
            threads.append([Chunk(text, [fact])])
    return threads


def _merge(threads: list[list[Chunk]], num_rounds: int, rng: random.Random) -> list[list[Chunk]]:
    """Deal the chunks to rounds: the order inside a thread is kept, an introduction comes first, no round is empty."""
    opening = next(index for index, thread in enumerate(threads) if thread[0].facts[0].name == "object")
    line = [threads[opening].pop(0)]
    # A relation speaks of two objects, so it waits until all of them are introduced.
    waiting = [thread for thread in threads if thread and thread[0].topic == ""]
    live = [thread for thread in threads if thread and thread[0].topic != ""]
    while live:
        thread = rng.choice(live)
        line.append(thread.pop(0))
        live = [thread for thread in live if thread]
    for thread in waiting:
        last = max(index for index, chunk in enumerate(line) if chunk.facts[0].name == "object")
        line.insert(rng.randint(last + 1, len(line)), thread[0])
    num_rounds = min(num_rounds, len(line))
    cuts = sorted(rng.sample(range(1, len(line)), num_rounds - 1))
    return [line[a:b] for a, b in zip([0, *cuts], [*cuts, len(line)], strict=True)]


def _say(chunks: list[Chunk], asked: bool, opening: str, rng: random.Random) -> str:
    parts: list[str] = []
    topic = ""
    for position, chunk in enumerate(chunks):
        text = chunk.answer if asked and position == 0 else chunk.text
        if text.startswith(" "):  # an introduction waits for its lead
            text = (opening if opening and position == 0 else rng.choice(_ALSO)) + text
        elif topic and chunk.topic == topic and text.startswith(("the ",)):
            _, verb, rest = _split_subject(text)
            text = f"{'it' if verb in ('is', 'has') else 'they'} {verb} {rest}" if verb else text
        topic = chunk.topic
        parts.append(text)
    return " ".join(parts)


def _split_subject(text: str) -> tuple[str, str, str]:
    for verb in ("is", "are", "has", "have"):
        subject, found, rest = text.partition(f" {verb} ")
        if found:
            return subject, verb, rest
    return text, "", ""


def describe(
    scene: Scene,
    split: str,
    rng: random.Random,
    num_rounds: int,
    max_words: int,
    *,
    accident: float = _ACCIDENT,
    slip: Slip | None = None,
) -> Description:
    """A description of a scene in at most ``num_rounds`` rounds and ``max_words`` words.

    Args:
        scene: what is wanted.
        split: the split that scenes of slips must belong to.
        rng: source of all choices.
        num_rounds: user rounds; fewer where there is less to say.
        max_words: limit for all rounds and replies together.
        accident: how often a random picture may fit all that is said.
        slip: what to say wrongly first; None draws one, or none.
    """
    while True:
        facts = _told_facts(scene, rng, accident)
        if slip and slip.true not in facts:
            continue
        made = slip or (_pick_slip(scene, split, facts, rng) if num_rounds > 1 else None)
        dealt = _merge(_chunks(scene, facts, made, rng), num_rounds, rng)
        stated = [[fact for chunk in chunks for fact in chunk.facts] for chunks in dealt]
        if made and any(made.true in told and made.wrong in told for told in stated):
            continue
        if len(stated) > 1 and 2 * len(stated[-1]) > len(facts):
            continue  # the last round must not carry the whole
        description = Description(*_speak(dealt, rng), stated, facts, made)
        if description.num_words <= max_words:
            return description


def _speak(dealt: list[list[Chunk]], rng: random.Random) -> tuple[list[str], list[str]]:
    """The words of user and assistant."""
    rounds, replies = [], []
    for number, chunks in enumerate(dealt):
        asked = bool(number and chunks[0].question) and rng.random() < 0.6
        if number:
            replies.append(chunks[0].question if asked else rng.choice(_MORE))
        rounds.append(_say(chunks, asked, "" if number else rng.choice(_OPENINGS), rng))
    return rounds, replies
