"""The conversation template: ``USER: <question> ASSISTANT: <answer></s>``, no system prompt.

Source: LLaVA-1.5 / Vicuna v1.1. A rendered document is a list of pieces, each text or image, each knowing whether
loss falls on it; positions and ids come later (:mod:`chatsearch.data.example`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.types import Role, Segment

ROLE_WORDS = {Role.USER: "USER:", Role.ASSISTANT: "ASSISTANT:"}
_RESERVED = re.compile(r"(USER|ASSISTANT):|\[(image|IMG|/IMG)\]")


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of token ids, or one image. ``loss``: whether these are wanted answers."""

    ids: tuple[int, ...] = ()
    image: str | None = None
    loss: bool = True


def escape(text: str) -> str:
    """Free text without the template's role words and image placeholders.

    ``USER:`` becomes ``USER :`` and ``[IMG]`` becomes ``( IMG )``: still readable, no longer a marker. Idempotent.
    """
    return _RESERVED.sub(lambda m: f"{m[1]} :" if m[1] else f"( {m[2]} )", text)


def render(segments: Sequence[Segment], tokenizer: ChatTokenizer, *, answer_only: bool) -> list[Piece]:
    """Pieces of a document in reading order, with bos before and ``</s>`` after each answer or role-less text.

    Args:
        segments: of one document; consecutive segments of one role form a turn.
        tokenizer: gives the ids.
        answer_only: loss on ``loss=True`` segments that are not the user's and on the ``</s>`` that closes them, else on every
            piece but bos.
    """
    pieces = _open(tokenizer)
    for number, turn in enumerate(_turns(segments)):
        pieces += _turn(turn, tokenizer, answer_only=answer_only, after_words=number > 0)
        if turn[0].role != Role.USER:
            counts = not answer_only or any(s.loss for s in turn)
            pieces.append(Piece((tokenizer.eos_id,), loss=counts))
    return pieces


def render_prompt(segments: Sequence[Segment], tokenizer: ChatTokenizer) -> list[Piece]:
    """Pieces of a context that waits for the assistant: closed turns, then ``ASSISTANT:``.

    A context without roles is left open after its last segment, so that ``[IMG]`` may follow it as in a caption document.
    A context that ends in an assistant segment is left open too: the answer goes on.
    """
    pieces = _open(tokenizer)
    turns = _turns(segments)
    for number, turn in enumerate(turns):
        pieces += _turn(turn, tokenizer, answer_only=True, after_words=number > 0)
        if turn[0].role == Role.ASSISTANT and number < len(turns) - 1:
            pieces.append(Piece((tokenizer.eos_id,)))
    if turns and turns[-1][0].role == Role.USER:
        pieces.append(Piece(tuple(tokenizer.encode(ROLE_WORDS[Role.ASSISTANT], continues=True)), loss=False))
    return pieces


def _open(tokenizer: ChatTokenizer) -> list[Piece]:
    return [] if tokenizer.bos_id is None else [Piece((tokenizer.bos_id,), loss=False)]


def _turns(segments: Sequence[Segment]) -> list[list[Segment]]:
    turns: list[list[Segment]] = []
    for segment in segments:
        if turns and turns[-1][-1].role == segment.role:
            turns[-1].append(segment)
        else:
            turns.append([segment])
    return turns


def _turn(turn: Sequence[Segment], tokenizer: ChatTokenizer, *, answer_only: bool, after_words: bool) -> list[Piece]:
    """One turn: its role word, then text and images. ``</s>`` is the caller's."""
    pieces = []
    role = turn[0].role
    # USER: opens a round right after bos or </s>; only ASSISTANT: stands behind words.
    if role in ROLE_WORDS:
        ids = tokenizer.encode(ROLE_WORDS[role], continues=role == Role.ASSISTANT and after_words)
        pieces.append(Piece(tuple(ids), loss=not answer_only))
    for position, segment in enumerate(turn):
        counts = not answer_only or (segment.loss and role != Role.USER)
        if segment.image is not None:
            pieces.append(Piece(image=segment.image, loss=counts))
        elif segment.text is not None:
            follows = role in ROLE_WORDS or position > 0
            pieces.append(Piece(tuple(tokenizer.encode(escape(segment.text), continues=follows)), loss=counts))
    return pieces
