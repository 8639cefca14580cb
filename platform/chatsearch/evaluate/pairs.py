"""What a document gives a baseline to learn from: a context and the picture that it asks for.

A model reads of the context what it can: FROMAGe all of it, the dual encoder the text that belongs to the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from chatsearch.data.coin import Coin
from chatsearch.errors import InputError
from chatsearch.types import Document, Kind, Segment

PAIRED = (Kind.CAPTION, Kind.INTERLEAVED, Kind.EDIT, Kind.T, Kind.I, Kind.M)
"""Kinds that give a text and the picture it is about."""


class Draw(NamedTuple):
    """One sample of a step: a document, and the draws within it in this epoch."""

    document: Document
    coin: Coin


def pair_of(document: Document, coin: Coin) -> tuple[str, str]:
    """A text and the content hash of its picture.

    Captions: a drawn caption. Interleaved: a drawn picture and the text nearest before it, else nearest after it. Dialogues:
    the text of all rounds before the answer.
    """
    if document.kind == Kind.INTERLEAVED:
        place, image = _drawn_picture(document, coin)
        nearest = _nearest_text(document.segments, place)
        return (nearest.text or "" if nearest is not None else ""), image
    context, target = context_of(document, coin)
    return " ".join(s.text for s in context if s.text is not None), target


def context_of(document: Document, coin: Coin) -> tuple[tuple[Segment, ...], str]:
    """What stands before a picture and the content hash of that picture, by the draws of :func:`pair_of`.

    Captions: a drawn caption. Interleaved: all that stands before the drawn picture; without text there, the text nearest
    after it. Dialogues: all rounds before the answer.
    """
    if document.kind == Kind.CAPTION:
        captions = [s for s in document.segments if s.text is not None]
        return (captions[coin.draw("caption", len(captions))],), document.images()[0]
    if document.kind == Kind.INTERLEAVED:
        place, image = _drawn_picture(document, coin)
        before = document.segments[:place]
        nearest = _nearest_text(document.segments, place)
        return (before if nearest is None or nearest in before else (nearest,)), image
    return document.query()


def _drawn_picture(document: Document, coin: Coin) -> tuple[int, str]:
    """Place of a picture on a page and its content hash."""
    places = [(place, s.image) for place, s in enumerate(document.segments) if s.image is not None]
    if not places:
        raise InputError(f"Interleaved document {document.document_id!r} holds no image. Remove it.")
    return places[coin.draw("picture", len(places))]


def _nearest_text(segments: Sequence[Segment], place: int) -> Segment | None:
    """Text before a picture is nearer than text behind it, however far away."""
    texts = {at: segment for at, segment in enumerate(segments) if segment.text is not None}
    nearest = min(texts, key=lambda at: (at > place, abs(at - place)), default=None)
    return None if nearest is None else texts[nearest]
