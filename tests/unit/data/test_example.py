from __future__ import annotations

import numpy as np
import pytest
from chatsearch.data.coin import Coin
from chatsearch.data.example import IGNORED, Example, build_example, query_example
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import InputError
from chatsearch.types import Document, Kind, Role, Segment
from hypothesis import given, settings
from hypothesis import strategies as st

A, B, C = "a" * 64, "b" * 64, "c" * 64
N = 3


def document(kind: Kind, *segments: Segment, name: str = "doc") -> Document:
    return Document(name, kind, segments)


def said(role: Role, text: str | None = None, image: str | None = None) -> Segment:
    return Segment(text=text, image=image, role=role, loss=role == Role.ASSISTANT)


def build(
    doc: Document, tokenizer: ChatTokenizer, *, answer_only: bool = False, max_length: int = 200, epoch: int = 0
) -> Example:
    return build_example(
        doc, tokenizer, N, max_length=max_length, answer_only=answer_only, coin=Coin(0, doc.document_id, epoch)
    )


def caption(*texts: str) -> Document:
    return document(Kind.CAPTION, Segment(image=A), *[Segment(text=t) for t in texts])


def block(tokenizer: ChatTokenizer) -> list[int]:
    return [tokenizer.img_id, *[tokenizer.pad_id] * (N + 1), tokenizer.end_img_id]


def test_dialogue_against_hand_written_ids(tokenizer: ChatTokenizer) -> None:
    """USER: [A] dog ASSISTANT: [B]</s> with N = 3: the mask, position by position."""
    doc = document(Kind.EDIT, said(Role.USER, image=A), said(Role.USER, "dog"), said(Role.ASSISTANT, image=B))
    got = build(doc, tokenizer, answer_only=True)
    asks, words, answers = tokenizer.encode("USER:"), tokenizer.encode(" dog"), tokenizer.encode(" ASSISTANT:")
    before = [tokenizer.bos_id, *asks, *block(tokenizer), *words, *answers]
    assert got.input_ids.tolist() == [*before, *block(tokenizer), tokenizer.eos_id]
    none = [IGNORED]
    #                          last word      [IMG] CLS q1 q2       q3                        [/IMG]             </s>
    wanted = [tokenizer.img_id, *none * (N + 1), tokenizer.end_img_id, tokenizer.eos_id, *none]
    assert got.labels.tolist() == [*none * (len(before) - 1), *wanted]
    assert got.image_positions.tolist() == [1 + len(asks) + 1, len(before) + 1]
    assert got.image_hashes == (A, B)
    assert got.image_is_target.tolist() == [False, True]
    assert got.image_is_first.tolist() == [False, False]


def test_stage_one_wants_every_word_and_image_but_no_query_token(tokenizer: ChatTokenizer) -> None:
    doc = document(
        Kind.INTERLEAVED, Segment(text="a dog"), Segment(image=A), Segment(text="and a cat"), Segment(image=B)
    )
    got = build(doc, tokenizer)
    inside = {p + i for p in got.image_positions for i in range(N + 1)}  # <CLS> q1 .. qN as wanted ids
    for t in range(len(got) - 1):
        assert got.labels[t] == (IGNORED if t + 1 in inside else got.input_ids[t + 1]), t
    assert got.labels[-1] == IGNORED
    assert got.image_is_target.all()


def test_the_share_of_directions_is_a_setting_and_the_answer_is_what_comes_second(tokenizer: ChatTokenizer) -> None:
    doc = caption("a red ball")
    num_first = 0
    for epoch in range(200):
        got = build_example(
            doc, tokenizer, N, max_length=200, answer_only=True, coin=Coin(0, "c", epoch), caption_first=0.8
        )
        retrieval = not got.image_is_first[0]
        num_first += retrieval
        assert got.image_is_target[0] == retrieval
        words = tokenizer.decode([label for label in got.labels.tolist() if label >= 0 and label < tokenizer.img_id])
        assert ("red" in words) != retrieval
    assert 140 <= num_first <= 180


def test_captions_that_ask_lose_words_and_those_that_answer_do_not(tokenizer: ChatTokenizer) -> None:
    words = " ".join(["ball"] * 40)
    doc, whole = caption(words), tokenizer.encode(words)
    left, seen = [], set()
    for epoch in range(50):
        for first in (1.0, 0.0):
            got = build_example(
                doc,
                tokenizer,
                N,
                max_length=200,
                answer_only=True,
                coin=Coin(0, "c", epoch),
                caption_first=first,
                word_dropout=0.25,
            )
            num_left = len(got) - (N + 3) - 2  # bos and </s>
            assert first or num_left == len(whole)
            if first:
                left.append(num_left / len(whole))
                seen.add(tuple(got.input_ids.tolist()))
                assert got.image_is_target[0]
    assert len(seen) > 40, "other ones in every epoch"
    assert 0.7 < sum(left) / len(left) < 0.8
    short = build_example(
        caption("a"),
        tokenizer,
        N,
        max_length=200,
        answer_only=True,
        coin=Coin(0, "c", 0),
        caption_first=1.0,
        word_dropout=0.99,
    )
    assert len(short) == 1 + 1 + (N + 3) + 1, "one word is always left"


@pytest.mark.parametrize("answer_only", [True, False])
def test_a_caption_that_asks_may_end_at_the_picture_and_asks_the_same(
    tokenizer: ChatTokenizer, answer_only: bool
) -> None:
    doc = caption("a red ball", "two cats")
    for epoch in range(20):
        whole, ended = (
            build_example(
                doc,
                tokenizer,
                N,
                max_length=200,
                answer_only=answer_only,
                coin=Coin(0, "c", epoch),
                word_dropout=0.2,
                end_at_image=end,
            )
            for end in (False, True)
        )
        if whole.image_is_first[0]:
            assert ended.image_is_read.all() and np.array_equal(ended.input_ids, whole.input_ids)
            continue
        at = int(whole.image_positions[0])
        assert not ended.image_is_read.any() and ended.image_is_target.all() and len(ended) == at
        assert ended.input_ids[-1] == tokenizer.img_id and list(ended.image_positions) == [at]
        assert np.array_equal(ended.input_ids, whole.input_ids[:at])
        assert np.array_equal(ended.labels, whole.labels[:at])


def test_captions_are_drawn_in_both_directions_and_from_all_texts(tokenizer: ChatTokenizer) -> None:
    doc = caption("a dog", "two cats", "a tree")
    seen = set()
    for epoch in range(60):
        got = build(doc, tokenizer, epoch=epoch)
        again = build(doc, tokenizer, epoch=epoch)
        assert got.input_ids.tolist() == again.input_ids.tolist()
        first = bool(got.image_is_first[0])
        assert first == (got.image_positions[0] == 2)  # bos, [IMG], <CLS>
        seen.add((first, tokenizer.decode(got.input_ids.tolist()).strip()))
    assert seen == {(f, t) for f in (True, False) for t in ("a dog", "two cats", "a tree")}


def test_a_long_caption_is_cut_at_its_end_and_keeps_the_image(tokenizer: ChatTokenizer) -> None:
    for epoch in range(8):
        got = build(caption("red apple " * 100), tokenizer, epoch=epoch, max_length=30)
        assert len(got) == 30
        assert got.input_ids[-1] == tokenizer.eos_id
        assert block(tokenizer) == got.input_ids[got.image_positions[0] - 1 :][: N + 3].tolist()
    with pytest.raises(InputError, match="'doc' takes 9 positions"):
        build(caption("apple"), tokenizer, max_length=8)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.just(None), st.text("abc de", min_size=1, max_size=30)), min_size=1, max_size=20).filter(
        lambda parts: None in parts
    ),
    st.integers(N + 4, 40),
)
def test_long_documents_are_cut_around_images_never_inside(
    tokenizer: ChatTokenizer, parts: list[str | None], max_length: int
) -> None:
    segments = [Segment(image=f"{i:064d}") if p is None else Segment(text=p) for i, p in enumerate(parts)]
    doc = document(Kind.INTERLEAVED, *segments)
    seen: set[str] = set()
    for epoch in range(60):
        got = build(doc, tokenizer, epoch=epoch, max_length=max_length)
        assert len(got) <= max_length
        assert got.image_hashes
        assert got.input_ids[0] == tokenizer.bos_id
        for position in got.image_positions:
            assert got.input_ids[position - 1 : position + N + 2].tolist() == block(tokenizer)
        seen.update(got.image_hashes)
    if len(doc.images()) <= 4:  # with sixty draws of at most four chunks none is left out
        assert seen == set(doc.images())


def test_an_old_round_is_dropped_whole_and_the_last_one_kept(tokenizer: ChatTokenizer) -> None:
    rounds = [
        segment for i in range(6) for segment in (said(Role.USER, f"question {i}"), said(Role.ASSISTANT, f"answer {i}"))
    ]
    doc = document(Kind.QUESTION, *rounds)
    whole = build(doc, tokenizer, answer_only=True, max_length=1000)
    got = build(doc, tokenizer, answer_only=True, max_length=len(whole) // 2)
    text = tokenizer.decode(got.input_ids.tolist())
    assert text.startswith("USER: question")
    assert text.endswith("answer 5")
    assert "question 0" not in text
    with pytest.raises(InputError, match=r"'doc' takes .* max_length is 5"):
        build(doc, tokenizer, answer_only=True, max_length=5)


@pytest.mark.parametrize(
    ("doc", "message"),
    [
        (document(Kind.QUESTION, said(Role.USER, "hi")), "nothing to fall on"),
        (document(Kind.QUESTION), "no segments"),
        (document(Kind.INTERLEAVED, Segment(text="words")), "no image"),
        (document(Kind.CAPTION, Segment(image=A)), "1 images and 0 captions"),
    ],
)
def test_documents_that_teach_nothing_are_refused_by_name(
    tokenizer: ChatTokenizer, doc: Document, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build(doc, tokenizer, answer_only=True)
    assert "'doc'" in str(caught.value)


def test_queries_end_in_img(tokenizer: ChatTokenizer) -> None:
    context = [said(Role.USER, image=A), said(Role.USER, "darker")]
    got = query_example(context, tokenizer, N, max_length=64)
    ids = got.input_ids.tolist()
    assert ids[-1] == tokenizer.img_id
    assert tokenizer.decode(ids) == "USER: darker ASSISTANT:"
    assert got.num_targets == 0
    assert got.image_hashes == (A,)
    plain = query_example([Segment(text="a dog")], tokenizer, N, max_length=64)
    assert plain.input_ids.tolist() == [tokenizer.bos_id, *tokenizer.encode("a dog"), tokenizer.img_id]


def test_a_query_is_the_training_sequence_up_to_its_img(tokenizer: ChatTokenizer) -> None:
    doc = document(
        Kind.M,
        said(Role.USER, "a dog"),
        said(Role.ASSISTANT, image=A),
        said(Role.USER, "now a cat"),
        said(Role.ASSISTANT, image=B),
    )
    trained = build(doc, tokenizer, answer_only=True)
    context, target = doc.query()
    asked = query_example(context, tokenizer, N, max_length=200)
    assert target == B
    assert asked.input_ids.tolist() == trained.input_ids[: trained.image_positions[-1]].tolist()


def test_a_long_query_drops_old_rounds_and_an_empty_one_is_refused(tokenizer: ChatTokenizer) -> None:
    context = [said(Role.USER, "first " * 30), said(Role.ASSISTANT, "ok"), said(Role.USER, "last")]
    got = query_example(context, tokenizer, N, max_length=30)
    assert tokenizer.decode(got.input_ids.tolist()) == "USER: last ASSISTANT:"
    with pytest.raises(InputError, match="empty"):
        query_example([], tokenizer, N, max_length=30)
    with pytest.raises(InputError, match="max_length is 4"):
        query_example(context, tokenizer, N, max_length=4)


def test_documents_without_bos_are_laid_out_from_position_zero(tokenizer: ChatTokenizer) -> None:
    bare = ChatTokenizer(tokenizer._tokenizer.to_str(), bos=None, eos="</s>")
    doc = document(Kind.INTERLEAVED, Segment(image=A), Segment(text="a dog"))
    got = build(doc, bare)
    assert got.input_ids[0] == bare.img_id
    assert got.image_positions.tolist() == [1]
    assert got.image_is_first.tolist() == [True]
