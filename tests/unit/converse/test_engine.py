"""The engine over a tiny model and a small gallery: decide, rank, pick, rewind, go on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.dialogue import Dialogue, Picture, Retrieval
from chatsearch.converse.engine import Engine
from chatsearch.converse.events import Candidates, Done, Event, TextDelta
from chatsearch.converse.pictures import PictureEncoder
from chatsearch.converse.query import encode_queries
from chatsearch.converse.transcript import from_json, to_json
from chatsearch.errors import LimitExceededError, MissingInputError, UnsupportedRequestError
from chatsearch.model.bundle import ModelBundle
from chatsearch.types import Role, Segment, content_hash

from tests.unit.converse.memory import MemoryGallery, picture

ALWAYS = AnswerOptions(retrieve="always", num_candidates=4, max_new_tokens=8)
NEVER = AnswerOptions(retrieve="never", max_new_tokens=8)


def last(events: Iterable[Event]) -> Dialogue:
    *_, done = events
    assert isinstance(done, Done)
    return done.dialogue


def shown(dialogue: Dialogue) -> Retrieval:
    retrieval = dialogue.open_retrieval()
    assert retrieval is not None
    return retrieval


def assert_differs_beyond_a_repeat(one: np.ndarray, other: np.ndarray, *, repeat: np.ndarray) -> None:
    """The same input gives the same bits, another input moves them.

    How far is the random encoder's business: it sees most pictures alike, so a size would only be tuned to its seed.
    """
    assert np.array_equal(one, repeat)
    assert np.abs(one - other).max() > 1e-6


def test_an_answer_in_words_streams_and_is_recorded(engine: Engine, bundle: ModelBundle) -> None:
    events = list(engine.respond(Dialogue().say("what colour is the ball?"), NEVER))
    text = "".join(e.text for e in events if isinstance(e, TextDelta))
    done = events[-1]
    assert isinstance(done, Done)
    assert "".join(p for p in done.dialogue.turns()[-1].pieces if isinstance(p, str)) == text
    assert done.model == bundle.fingerprint
    assert done.reason in ("stop", "length")
    assert done.num_new_tokens <= 8


def test_a_forced_retrieval_shows_candidates_best_first_with_their_provenance(engine: Engine) -> None:
    events = list(engine.respond(Dialogue().say("a red apple"), ALWAYS))
    assert [type(e) for e in events] == [Candidates, Done]
    retrieval = shown(last(events))
    assert retrieval.forced
    assert retrieval.index == MemoryGallery.version
    assert retrieval.model == engine.model
    assert [h.rank for h in retrieval.candidates] == [1, 2, 3, 4]
    scores = [h.score for h in retrieval.candidates]
    assert scores == sorted(scores, reverse=True)


def test_two_different_picks_give_different_histories_and_different_next_queries(
    engine: Engine, gallery: MemoryGallery
) -> None:
    asked = last(engine.respond(Dialogue().say("a red apple"), ALWAYS))
    first, second = (h.item_id for h in shown(asked).candidates[:2])
    ends, queries = [], []
    for item_id in (first, second, first):
        picked = last(engine.pick(asked, item_id, options=NEVER))
        ends.append(last(engine.respond(picked.say("the same, but larger"), ALWAYS)))
        queries.append(gallery.queries[-1])
    assert ends[0].segments() != ends[1].segments()
    assert_differs_beyond_a_repeat(queries[0], queries[1], repeat=queries[2])


def test_the_same_pick_with_different_words_gives_different_queries(engine: Engine, gallery: MemoryGallery) -> None:
    asked = last(engine.respond(Dialogue().say("a red apple"), ALWAYS))
    picked = last(engine.pick(asked, shown(asked).candidates[0].item_id, options=NEVER))
    for words in ("larger", "on the left", "larger"):
        last(engine.respond(picked.say(words), ALWAYS))
    one, other, repeat = gallery.queries[-3:]
    assert_differs_beyond_a_repeat(one, other, repeat=repeat)


def test_going_on_without_a_pick_reads_the_top_candidate_as_if_it_had_been_picked(
    engine: Engine, gallery: MemoryGallery
) -> None:
    asked = last(engine.respond(Dialogue().say("a red apple"), ALWAYS))
    top = shown(asked).candidates[0]
    gone_on = last(engine.respond(asked.say("larger"), ALWAYS))
    settled = gone_on.turns()[1].retrievals()[0]
    assert settled.auto_selected
    assert settled.picked == top
    # A pick that the model answers with nothing at all leaves the same history, so the same query.
    by_hand = asked.pick(top.item_id).answer([], "stop").say("larger")
    last(engine.respond(by_hand, ALWAYS))
    assert np.array_equal(gallery.queries[-1], gallery.queries[-2])


def test_a_later_pick_rewinds_and_undo_brings_back_the_first(engine: Engine) -> None:
    asked = last(engine.respond(Dialogue().say("a red apple"), ALWAYS))
    first, second = (h.item_id for h in shown(asked).candidates[:2])
    once = last(engine.pick(asked, first, options=NEVER))
    twice = last(engine.pick(once, second, retrieval=0, options=NEVER))
    direct = last(engine.pick(asked, second, options=NEVER))
    assert twice.segments() == direct.segments(), "what followed the first pick has left the history"
    assert twice.undo() == once
    assert from_json(to_json(twice)) == twice


def test_pictures_of_the_context_are_not_candidates_unless_asked_for(engine: Engine, gallery: MemoryGallery) -> None:
    seen = next(iter(gallery.pictures))
    dialogue = Dialogue().say(Picture(seen), "something like this")
    options = ALWAYS.replace(num_candidates=50)
    without = shown(last(engine.respond(dialogue, options)))
    assert seen not in {h.content_hash for h in without.candidates}
    assert len(without.candidates) == len(gallery.pictures) - 1
    with_it = shown(last(engine.respond(dialogue, options.replace(exclude_context_images=False))))
    assert seen in {h.content_hash for h in with_it.candidates}


def test_uploads_are_read_from_the_request_and_leave_no_trace(engine: Engine) -> None:
    data = picture(777)
    name = content_hash(data)
    dialogue = Dialogue().say(Picture(name), "like this")
    assert shown(last(engine.respond(dialogue, ALWAYS, {name: data}))).candidates
    with pytest.raises(MissingInputError):
        last(engine.respond(dialogue, ALWAYS))


def test_the_uploaded_picture_decides_the_query(engine: Engine, gallery: MemoryGallery) -> None:
    for seed in (101, 102, 101):
        data = picture(seed)
        name = content_hash(data)
        last(engine.respond(Dialogue().say(Picture(name), "like this"), ALWAYS, {name: data}))
    one, other, repeat = gallery.queries[-3:]
    assert_differs_beyond_a_repeat(one, other, repeat=repeat)


def test_what_cannot_be_answered_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(UnsupportedRequestError, match="nothing to answer"):
        next(engine.respond(Dialogue()))
    with pytest.raises(LimitExceededError, match="limit is 40"):
        next(engine.respond(Dialogue().say("word " * 100), ALWAYS.replace(max_prompt_tokens=40)))
    with pytest.raises(LimitExceededError, match="limit is 511"):
        next(engine.respond(Dialogue().say("word " * 1000), ALWAYS))


def test_search_equals_a_forced_answer_and_the_batched_queries_of_evaluation(
    engine: Engine, bundle: ModelBundle, gallery: MemoryGallery
) -> None:
    seen = list(gallery.pictures)[:2]
    dialogues = [
        Dialogue().say("a red apple"),
        Dialogue().say(Picture(seen[0]), "but green and much further to the left"),
        Dialogue().say("first").answer([Picture(seen[1])], "stop").say(Picture(seen[0]), "second"),
    ]
    for dialogue in dialogues:
        answered = shown(last(engine.respond(dialogue, ALWAYS)))
        assert engine.search(dialogue.segments(), ALWAYS) == answered
    caption = (Segment(text="a blue car", role=Role.NONE),)
    engine.search(caption, ALWAYS)
    one_by_one = np.stack(gallery.queries[1::2] + gallery.queries[-1:])
    batched = encode_queries(
        bundle, [*(d.segments() for d in dialogues), caption], PictureEncoder(bundle.vision, gallery), batch_size=3
    )
    assert np.allclose(batched, one_by_one, atol=1e-5)
    assert np.allclose(np.linalg.norm(batched, axis=1), 1.0, atol=1e-5)


def test_features_of_gallery_pictures_are_kept_and_uploads_are_not(bundle: ModelBundle, gallery: MemoryGallery) -> None:
    encoder = PictureEncoder(bundle.vision, gallery, max_kept=2)
    hashes = list(gallery.pictures)[:3]
    before = encoder.encode(hashes)
    saved, gallery.pictures = gallery.pictures, {}
    try:
        again = encoder.encode(hashes[1:])  # the two most recent are kept
        assert np.array_equal(again.cls_ID, before.cls_ID[1:])
        with pytest.raises(MissingInputError):
            encoder.encode(hashes[:1])
        data = picture(55)
        encoder.encode([content_hash(data)], {content_hash(data): data})
        with pytest.raises(MissingInputError):
            encoder.encode([content_hash(data)])
    finally:
        gallery.pictures = saved


def test_the_answer_after_a_pick_is_part_of_the_same_turn(engine: Engine) -> None:
    asked = last(engine.respond(Dialogue().say("a red apple"), ALWAYS))
    picked = last(engine.pick(asked, shown(asked).candidates[0].item_id, options=NEVER))
    assert [turn.role for turn in picked.turns()] == [Role.USER, Role.ASSISTANT]
    (retrieval,) = picked.turns()[1].retrievals()
    assert retrieval == replace(shown(asked), picked=shown(asked).candidates[0])
