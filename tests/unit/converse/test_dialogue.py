"""Properties of a dialogue: undo is exact, export is lossless, picks rewind and auto-selection is flagged."""

import json

import pytest
from chatsearch.converse.dialogue import Dialogue, Picture, Retrieval
from chatsearch.converse.transcript import from_json, to_json
from chatsearch.errors import InputError, MissingInputError, UnsupportedRequestError
from chatsearch.types import Hit, Role
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# The first draw of st.text() builds a character table, which is slow on a cold machine and says nothing about us.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def hits(*names: str) -> tuple[Hit, ...]:
    return tuple(Hit(name, 0.9 - 0.1 * at, at + 1, f"hash-{name}", {"source": "x"}) for at, name in enumerate(names))


def retrieval(*names: str, forced: bool = False) -> Retrieval:
    return Retrieval(hits(*names), forced=forced, model="model-1", index="index-1")


@st.composite
def dialogues(draw: st.DrawFn) -> Dialogue:
    """Dialogues as they can really happen: messages and picks in any order, each answered."""
    dialogue = Dialogue()
    for _ in range(draw(st.integers(0, 6))):
        shown = dialogue.turns()[-1].retrievals() if dialogue.steps else []
        if shown and any(r.candidates for r in shown) and draw(st.booleans()):
            which = draw(st.sampled_from([at for at, r in enumerate(shown) if r.candidates]))
            dialogue = dialogue.pick(draw(st.sampled_from(shown[which].candidates)).item_id, which)
        else:
            words = draw(st.text(min_size=1).filter(str.strip))
            dialogue = dialogue.say(words, *draw(st.lists(st.sampled_from("ab").map(Picture), max_size=2)))
        text = draw(st.lists(st.text(min_size=1), max_size=2))
        if draw(st.booleans()):
            names = draw(st.lists(st.sampled_from("klmnop"), unique=True, max_size=4))
            dialogue = dialogue.answer([*text, retrieval(*names, forced=draw(st.booleans()))], "retrieval")
        else:
            dialogue = dialogue.answer(text, draw(st.sampled_from(["stop", "length"])))
    return dialogue


@patient
@given(dialogues())
def test_export_and_import_round_trip_through_json_text(dialogue: Dialogue) -> None:
    assert from_json(json.loads(json.dumps(to_json(dialogue)))) == dialogue


@patient
@given(dialogues(), st.data())
def test_undo_after_a_pick_or_a_message_gives_the_dialogue_before(dialogue: Dialogue, data: st.DataObject) -> None:
    assert dialogue.say("more").undo() == dialogue
    shown = dialogue.turns()[-1].retrievals() if dialogue.steps else []
    for which, found in enumerate(shown):
        for hit in found.candidates:
            picked = dialogue.pick(hit.item_id, which)
            assert picked.undo() == dialogue
            assert picked.answer(["so"], "stop").undo() == dialogue


@patient
@given(dialogues())
def test_undoing_everything_ends_in_the_empty_dialogue(dialogue: Dialogue) -> None:
    while dialogue.steps:
        dialogue = dialogue.undo()
    assert dialogue == Dialogue()


@patient
@given(dialogues())
def test_turns_alternate_and_segments_carry_their_roles(dialogue: Dialogue) -> None:
    roles = [turn.role for turn in dialogue.turns()]
    assert roles == [Role.USER, Role.ASSISTANT] * (len(roles) // 2)
    for segment in dialogue.segments():
        assert segment.loss == (segment.role == Role.ASSISTANT)


def test_a_pick_puts_the_picture_into_the_history() -> None:
    asked = Dialogue().say("a red apple").answer(["Here:", retrieval("a", "b")], "retrieval")
    assert asked.open_retrieval() == retrieval("a", "b")
    assert asked.images() == ()
    picked = asked.pick("b")
    assert picked.images() == ("hash-b",)
    assert [s.role for s in picked.segments()] == [Role.USER, Role.ASSISTANT, Role.ASSISTANT]
    assert picked.awaits_answer
    assert picked.open_retrieval() is None


def test_a_later_pick_in_the_same_turn_rewinds_to_that_retrieval() -> None:
    asked = Dialogue().say("two pictures").answer(["One:", retrieval("a", "b")], "retrieval")
    both = asked.pick("a").answer(["And:", retrieval("c", "d")], "retrieval").pick("d").answer(["Fine."], "stop")
    again = both.pick("b", retrieval=0)
    (_, turn) = again.turns()
    assert [p.picked.item_id if isinstance(p, Retrieval) else p for p in turn.pieces] == ["One:", "b"]
    assert again.undo() == both
    assert len(to_json(again)["steps"]) == 4, "the export keeps the picks that were taken back"


def test_going_on_without_a_pick_takes_the_top_candidate_and_says_so() -> None:
    asked = Dialogue().say("an apple").answer([retrieval("a", "b")], "retrieval")
    gone_on = asked.say("now greener")
    (settled,) = gone_on.turns()[1].retrievals()
    assert settled.picked is not None
    assert (settled.picked.item_id, settled.auto_selected) == ("a", True)
    assert gone_on.images() == ("hash-a",)
    assert not asked.pick("a").turns()[1].retrievals()[0].auto_selected


def test_an_empty_retrieval_is_left_out_when_the_dialogue_goes_on() -> None:
    gone_on = Dialogue().say("x").answer([retrieval()], "retrieval").say("y")
    assert gone_on.images() == ()
    assert gone_on.turns()[1].retrievals()[0].picked is None


def test_what_cannot_be_done_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedRequestError, match="nothing to undo"):
        Dialogue().undo()
    with pytest.raises(UnsupportedRequestError, match="empty"):
        Dialogue().say("  \n")
    with pytest.raises(UnsupportedRequestError, match="no candidates"):
        Dialogue().say("hi").answer(["Hello"], "stop").pick("a")
    with pytest.raises(UnsupportedRequestError, match="no answer yet"):
        Dialogue().say("hi").say("again")
    shown = Dialogue().say("hi").answer([retrieval("a")], "retrieval")
    with pytest.raises(MissingInputError, match="Pick one of: 'a'"):
        shown.pick("z")
    with pytest.raises(UnsupportedRequestError, match="there is no 3"):
        shown.pick("a", retrieval=3)
    with pytest.raises(UnsupportedRequestError, match="Cannot keep 5 steps"):
        shown.rewind(5)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"version": 99, "steps": []},
        {"version": 1, "steps": [{"action": {"type": "pick", "retrieval": 0, "item_id": "a"}, "ended": None}]},
        {"version": 1, "steps": [{"action": {"type": "shout"}, "produced": [], "ended": None}]},
        {"version": 1, "steps": "no"},
        {"version": 1, "steps": [{"action": {"type": "message", "pieces": [{"type": "text", "text": "a"}]},
                                  "produced": [], "ended": "retrieval"}]},
    ],
)  # fmt: skip
def test_a_transcript_that_cannot_have_happened_is_refused(broken: dict) -> None:
    with pytest.raises(InputError):
        from_json(broken)
