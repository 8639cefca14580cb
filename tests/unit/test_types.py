"""Documents, turns and identities."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from chatsearch.errors import InputError
from chatsearch.types import Document, Kind, Role, Segment, content_hash, faiss_id
from hypothesis import given
from hypothesis import strategies as st

USER, ASSISTANT = Role.USER, Role.ASSISTANT


def document(*segments: Segment) -> Document:
    return Document("d", Kind.M, segments)


@pytest.mark.parametrize("fields", [{}, {"text": "a", "image": "b"}])
def test_a_segment_is_text_or_image(fields: dict[str, str]) -> None:
    with pytest.raises(InputError, match="either text or an image"):
        Segment(**fields)


def test_empty_text_is_still_text() -> None:
    assert Segment(text="").text == ""


def test_images_are_listed_in_reading_order_with_repeats() -> None:
    doc = document(Segment(image="b"), Segment(text="x"), Segment(image="a"), Segment(image="b"))
    assert doc.images() == ["b", "a", "b"]


@given(st.lists(st.sampled_from([USER, ASSISTANT])))
def test_turns_are_the_runs_of_one_role(roles: list[Role]) -> None:
    segments = [Segment(text=str(n), role=role) for n, role in enumerate(roles)]
    turns = list(document(*segments).turns())
    assert [segment for _, run in turns for segment in run] == segments
    assert all(run and {segment.role for segment in run} == {role} for role, run in turns)
    assert all(before[0] != after[0] for before, after in itertools.pairwise(turns))


def test_a_query_is_the_context_and_its_last_image() -> None:
    context = (Segment(image="seen", role=USER), Segment(text="but green", role=USER))
    assert document(*context, Segment(image="wanted", role=ASSISTANT)).query() == (context, "wanted")


@pytest.mark.parametrize("segments", [(), (Segment(image="a"), Segment(text="words"))])
def test_a_document_that_ends_in_words_is_no_query(segments: tuple[Segment, ...]) -> None:
    with pytest.raises(InputError, match="'d' does not end in an image"):
        document(*segments).query()


def test_content_hash_is_plain_sha256() -> None:
    assert content_hash(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_faiss_id_is_the_first_63_bits_of_the_hash(item_id: str) -> None:
    bits = f"{int(hashlib.sha256(item_id.encode()).hexdigest(), 16):0256b}"
    assert faiss_id(item_id) == int(bits[:63], 2)
    assert 0 <= faiss_id(item_id) < 2**63
