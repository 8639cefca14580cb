"""ChatSearch samples: resolvable, unsolvable from a part, and in a gallery with one answer."""

from __future__ import annotations

import json
import random

import pytest
from chatsearch.corpora.scenes.dialogues import MAX_I_WORDS, MAX_M_WORDS, MAX_T_WORDS
from chatsearch.corpora.scenes.edits import Edit, apply
from chatsearch.corpora.scenes.facts import Fact
from chatsearch.corpora.scenes.families import AS_SAID, SAMPLERS, ChatSample, WorldKey, family
from chatsearch.corpora.scenes.instructions import EDIT_TEMPLATES, OPEN_TEMPLATES, instruction
from chatsearch.corpora.scenes.wording import num_words
from chatsearch.corpora.scenes.world import Group, Scene, is_valid
from chatsearch.types import Kind, Role

CHAT = (Kind.T, Kind.I, Kind.M)
NUM_SAMPLES, NUM_DISTRACTORS = 80, 16
LIMITS = {Kind.EDIT: MAX_I_WORDS, Kind.T: MAX_T_WORDS, Kind.I: MAX_I_WORDS, Kind.M: MAX_M_WORDS}


@pytest.fixture(scope="module", params=["train", "val", "test"])
def key(request: pytest.FixtureRequest) -> WorldKey:
    return WorldKey(3, request.param)


@pytest.fixture(scope="module")
def families(key: WorldKey) -> dict[Kind, list[list[Scene]]]:
    return {kind: [family(key, kind, n, NUM_DISTRACTORS) for n in range(NUM_SAMPLES)] for kind in CHAT}


@pytest.fixture(scope="module")
def gallery(families: dict[Kind, list[list[Scene]]]) -> list[Scene]:
    return list(dict.fromkeys(scene for found in families.values() for scenes in found for scene in scenes))


def samples(key: WorldKey, kind: Kind) -> list[ChatSample]:
    return [SAMPLERS[kind](key, number) for number in range(NUM_SAMPLES)]


def fitting(gallery: list[Scene], facts: list[Fact]) -> list[Scene]:
    return [scene for scene in gallery if all(fact.holds(scene) for fact in facts)]


@pytest.mark.parametrize("kind", LIMITS)
def test_lengths_roles_and_repeatability(key: WorldKey, kind: Kind) -> None:
    for number, sample in enumerate(samples(key, kind)):
        assert num_words(*sample.texts) <= LIMITS[kind]
        assert all(text.strip() for text in sample.texts)
        roles = [role for role, _ in sample.turns]
        assert roles[0] == Role.USER
        assert roles[-1] == Role.ASSISTANT
        assert isinstance(sample.turns[-1][1], Scene)
        assert all(is_valid(scene, key.split) for scene in sample.scenes)
        assert SAMPLERS[kind](key, number) == sample


def test_the_sub_tasks_have_their_shape(key: WorldKey) -> None:
    for sample in samples(key, Kind.T):
        assert len(sample.scenes) == 1
        assert len(sample.stated) >= 2
    for sample in samples(key, Kind.I):
        assert [type(turn) for _, turn in sample.turns] == [Scene, str, Scene]
    pictures = [len(sample.scenes) for sample in samples(key, Kind.M)]
    assert set(pictures) == {2, 3}
    assert all(sample.texts[0] != sample.texts[-1] for sample in samples(key, Kind.M))


@pytest.mark.parametrize("kind", [Kind.EDIT, Kind.I, Kind.M])
def test_edits_lead_from_picture_to_picture(key: WorldKey, kind: Kind) -> None:
    for sample in samples(key, kind):
        assert len(sample.edits) == len(sample.scenes) - 1
        for before, edits, after in zip(sample.scenes, sample.edits, sample.scenes[1:], strict=False):
            assert apply(before, edits) == after
            assert before.content() != after.content()


@pytest.mark.parametrize("kind", [Kind.T, Kind.M])
def test_description_holds_for_the_described_picture(key: WorldKey, kind: Kind) -> None:
    for sample in samples(key, kind):
        shown = sample.scenes[0]
        told = sample.edits[0][:-1] if sample.pipeline == "scenes/told-before" else []
        assert sample.wanted
        assert all(fact.holds(apply(shown, told)) for fact in sample.wanted)
        assert not told or not all(fact.holds(shown) for fact in sample.wanted)


def test_slips_mislead_and_are_put_right(key: WorldKey) -> None:
    with_slip = [sample for sample in samples(key, Kind.T) if sample.slip]
    assert len(with_slip) > NUM_SAMPLES / 3
    for sample in with_slip:
        assert sample.slip is not None
        stated = [fact for facts in sample.stated for fact in facts]
        assert not sample.slip.wrong.holds(sample.scenes[-1])
        assert stated.index(sample.slip.wrong) < stated.index(sample.slip.true)
        assert sample.slip.wrong.holds(sample.slip.imagined(sample.scenes[-1]))


def test_t_has_one_answer_in_the_gallery(key: WorldKey, gallery: list[Scene]) -> None:
    for sample in samples(key, Kind.T):
        assert fitting(gallery, sample.wanted) == [sample.scenes[-1]]


def test_t_needs_more_than_its_last_round(key: WorldKey, gallery: list[Scene]) -> None:
    for sample in samples(key, Kind.T):
        assert len(fitting(gallery, sample.stated[-1])) >= 2


def test_slip_scene_lies_in_the_gallery(key: WorldKey, gallery: list[Scene]) -> None:
    held = set(gallery)
    for sample in samples(key, Kind.T):
        assert sample.slip is None or sample.slip.imagined(sample.scenes[-1]) in held


@pytest.mark.parametrize("kind", [Kind.I, Kind.M])
def test_edited_target_is_alone_in_what_texts_can_speak_of(key: WorldKey, kind: Kind, gallery: list[Scene]) -> None:
    contents = [scene.content() for scene in gallery]
    for sample in samples(key, kind):
        assert contents.count(sample.scenes[-1].content()) == 1


def test_the_picture_alone_does_not_tell_the_target(key: WorldKey, families: dict[Kind, list[list[Scene]]]) -> None:
    """Most of a family is at least as near to the reference as the target is, in attributes that differ."""
    nearer = []
    for sample, found in zip(samples(key, Kind.I), families[Kind.I], strict=True):
        reference, target = sample.scenes
        limit = differences(reference, target)
        others = [scene for scene in found if scene not in (reference, target)]
        nearer.append(sum(differences(reference, scene) <= limit for scene in others) / len(others))
    assert sum(nearer) / len(nearer) > 0.5


def differences(first: Scene, second: Scene) -> int:
    cells = zip(first.cells(), second.cells(), strict=True)
    changed = 0
    for one, other in cells:
        if (one is None) != (other is None):
            changed += 4
        elif one is not None and other is not None:
            changed += sum(getattr(one, n) != getattr(other, n) for n in ("kind", "colour", "texture", "size"))
    return changed + (first.background != second.background)


@pytest.mark.parametrize("kind", CHAT)
def test_families_hold_context_target_and_distractors(
    key: WorldKey, kind: Kind, families: dict[Kind, list[list[Scene]]]
) -> None:
    for sample, found in zip(samples(key, kind), families[kind], strict=True):
        assert found[0] == sample.scenes[-1]
        assert set(sample.scenes) <= set(found)
        assert len(set(found)) == len(found) >= NUM_DISTRACTORS
        assert all(is_valid(scene, key.split) for scene in found)


def test_held_out_m_is_i_with_history(key: WorldKey) -> None:
    pairs = list(zip(samples(key, Kind.I), samples(key, Kind.M), strict=True))
    same = [i.scenes[-2:] == m.scenes[-2:] for i, m in pairs]
    assert not any(same) if key.split == "train" else all(same)


def test_history_refers_back_at_times_and_the_pipeline_says_so(key: WorldKey) -> None:
    found = samples(key, Kind.M)
    for sample in found:
        last = sample.texts[-1]
        back = "the colour i named first" in last or "the first colour after all" in last
        leaves = any(last.endswith(words) for words in AS_SAID)
        simple = "refers-back" if back else "two-changes" if len(sample.edits) == 2 else "plain"
        assert sample.pipeline == f"scenes/{'told-before' if leaves else simple}"
    assert len({sample.pipeline for sample in found}) == 4


def test_half_of_i_and_m_are_last_rounds_that_do_not_say_all(key: WorldKey, gallery: list[Scene]) -> None:
    """By the last words alone another picture would be meant, and it lies in the gallery where it may."""
    contents = {scene.content() for scene in gallery}
    for kind, pipeline in ((Kind.I, "scenes/last-round"), (Kind.M, "scenes/told-before")):
        leaning = [sample for sample in samples(key, kind) if sample.pipeline == pipeline]
        assert 0.3 * NUM_SAMPLES < len(leaning) < 0.7 * NUM_SAMPLES
        for sample in leaning:
            reference, target = sample.scenes
            *told, asked = sample.edits[0]
            alone = asked.apply(reference)
            assert told
            assert alone.content() != target.content()
            assert alone.content() in contents or not is_valid(alone, key.split)


def test_a_last_round_that_leaves_a_part_does_not_ask_to_keep_what_is_shown(key: WorldKey) -> None:
    keeping = [template.partition("{}")[0] for template in EDIT_TEMPLATES if template not in OPEN_TEMPLATES]
    for kind, pipeline in ((Kind.I, "scenes/last-round"), (Kind.M, "scenes/told-before")):
        asked = [sample.texts[-1] for sample in samples(key, kind) if sample.pipeline == pipeline]
        assert all(text.endswith(AS_SAID) for text in asked)
        assert not any(text.startswith(words) for text in asked for words in keeping)


def test_what_a_last_round_leaves_is_told_in_full(key: WorldKey) -> None:
    """The description names the colour or the number that the picture shown lacks, and nothing more of that object is to change."""
    for sample in samples(key, Kind.M):
        if sample.pipeline == "scenes/told-before":
            reference, target = sample.scenes
            for edit in sample.edits[0][:-1]:
                shown, wanted = reference.find(edit.subject), target.find(edit.subject)
                assert shown is not None
                assert wanted is not None
                name = {"recolour": "colour", "count": "count"}[edit.operation]
                assert getattr(shown, name) != getattr(wanted, name)
                assert Fact(name, edit.subject, edit.value) in sample.wanted
                kept = {"kind", "colour", "texture", "size", "count"} - {name}
                assert all(getattr(shown, kept_name) == getattr(wanted, kept_name) for kept_name in kept)


def test_a_name_that_points_is_not_taken_by_what_was_told() -> None:
    """With "make the fish blue" still to be done, "the blue one" would leave open which one is meant."""
    fish, boat = Group("fish", "red", "solid", "small", (0,)), Group("boat", "blue", "striped", "large", (4,))
    scene = Scene("sky", (fish, boat), "n")
    asked, told = [Edit("resize", "boat", "small")], [Edit("recolour", "fish", "blue")]
    free, told_of = (
        {instruction(scene, asked, random.Random(n), 20, point=1.0, told=before) for n in range(200)}
        for before in ((), told)
    )
    assert any("the blue one" in text for text in free)
    assert any("the striped one" in text for text in told_of)
    assert not any("the blue one" in text for text in told_of)


def test_held_out_a_last_round_says_the_same_with_and_without_its_history(key: WorldKey) -> None:
    pairs = list(zip(samples(key, Kind.I), samples(key, Kind.M), strict=True))
    leaning = [(i, m) for i, m in pairs if i.pipeline == "scenes/last-round"]
    if key.split != "train":
        assert [m.pipeline for _, m in leaning] == ["scenes/told-before"] * len(leaning)
        assert [i.texts[-1] for i, _ in leaning] == [m.texts[-1] for _, m in leaning]


def test_facts_round_trip() -> None:
    fact = Fact("left_of", "car", "key")
    assert Fact(*json.loads(json.dumps(fact.to_list()))) == fact
