from __future__ import annotations

from chatsearch.data.template import ROLE_WORDS, Piece, escape, render, render_prompt
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.types import Role, Segment
from hypothesis import given, settings
from hypothesis import strategies as st

RESERVED = ["USER:", "ASSISTANT:", "[IMG]", "[/IMG]", "[image]"]
FRAGMENTS = [*RESERVED, "USER", ":", "[", "]", "IMG", "/", "ASSIS", "TANT", " ", "image"]
HOSTILE = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4)), max_size=10).map("".join)


def user(text: str) -> Segment:
    return Segment(text=text, role=Role.USER, loss=False)


def assistant(text: str) -> Segment:
    return Segment(text=text, role=Role.ASSISTANT)


@given(HOSTILE)
@settings(max_examples=1000, deadline=None)
def test_escaped_text_holds_no_marker_and_stays_as_it_is(text: str) -> None:
    escaped = escape(text)
    assert not any(word in escaped for word in RESERVED)
    assert escape(escaped) == escaped


def test_text_without_markers_is_left_alone() -> None:
    text = "The user: said [1] images [img] are nice; superUSER is no role"
    assert escape(text) == text


def spelled(pieces: list[Piece], tokenizer: ChatTokenizer) -> str:
    """Pieces as text, control and images shown."""
    shown = {tokenizer.bos_id: "<s>", tokenizer.eos_id: "</s>"}
    return "".join(
        f"<{p.image}>" if p.image else shown.get(p.ids[0], tokenizer.decode(p.ids)) for p in pieces if p.image or p.ids
    )


@given(st.lists(HOSTILE, min_size=2, max_size=5))
@settings(max_examples=300, deadline=None)
def test_no_user_can_forge_a_turn(tokenizer: ChatTokenizer, texts: list[str]) -> None:
    segments = [*map(user, texts[:-1]), assistant(texts[-1])]
    pieces = render(segments, tokenizer, answer_only=True)
    text = spelled(pieces, tokenizer)
    assert text.count(ROLE_WORDS[Role.USER]) == text.count(ROLE_WORDS[Role.ASSISTANT]) == 1
    ids = [i for p in pieces for i in p.ids]
    assert ids.count(tokenizer.eos_id) == 1
    assert not {tokenizer.img_id, tokenizer.end_img_id} & set(ids)


def test_dialogue_reads_as_the_template_says(tokenizer: ChatTokenizer) -> None:
    picture = Segment(image="i" * 64, role=Role.USER, loss=False)
    target = Segment(image="t" * 64, role=Role.ASSISTANT)
    segments = [user("find a dog"), assistant("which one?"), picture, user("like this"), target]
    pieces = render(segments, tokenizer, answer_only=True)
    expected = f"<s>USER: find a dog ASSISTANT: which one?</s>USER:<{'i' * 64}> like this ASSISTANT:<{'t' * 64}></s>"
    assert spelled(pieces, tokenizer) == expected
    wanted = [p for p in pieces if p.loss]
    assert spelled(wanted, tokenizer) == f" which one?</s><{'t' * 64}></s>"


def test_the_user_s_words_and_pictures_are_never_answers(tokenizer: ChatTokenizer) -> None:
    asked = [Segment(text="a dog", role=Role.USER), Segment(image="u" * 64, role=Role.USER)]
    pieces = render([*asked, assistant("yes")], tokenizer, answer_only=True)
    assert spelled([p for p in pieces if p.loss], tokenizer) == " yes</s>"
    assert not any(p.loss for p in render(asked, tokenizer, answer_only=True))


def test_stage_one_wants_everything_but_bos(tokenizer: ChatTokenizer) -> None:
    pieces = render([user("hi"), assistant("ho")], tokenizer, answer_only=False)
    assert [p.loss for p in pieces] == [False, *[True] * (len(pieces) - 1)]


def test_an_answer_that_does_not_count_closes_without_loss(tokenizer: ChatTokenizer) -> None:
    shown = Segment(image="c" * 64, role=Role.ASSISTANT, loss=False)
    pieces = render([user("a dog"), shown, user("darker"), assistant("yes")], tokenizer, answer_only=True)
    assert spelled([p for p in pieces if p.loss], tokenizer) == " yes</s>"


def test_prompts_wait_for_the_assistant(tokenizer: ChatTokenizer) -> None:
    def show(segments: list[Segment]) -> str:
        return spelled(render_prompt(segments, tokenizer), tokenizer)

    assert show([user("a dog")]) == "<s>USER: a dog ASSISTANT:"
    assert show([user("a"), assistant("b"), user("c")]) == "<s>USER: a ASSISTANT: b</s>USER: c ASSISTANT:"
    assert show([user("a"), assistant("here you are")]) == "<s>USER: a ASSISTANT: here you are"
    assert show([Segment(text="a red apple")]) == "<s>a red apple"
