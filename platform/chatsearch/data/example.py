"""From a document to one training sequence: ids, labels, and where its pictures go.

An image block takes N + 3 positions: ``[IMG] <CLS> q1 .. qN [/IMG]``. ``<CLS>`` and ``q`` hold ``pad_id`` as
placeholders; the model overwrites their embeddings. ``labels[t]`` is the id wanted after position t, so

    position      ..  w   [IMG]  <CLS>  q1 .. qN-1   qN      [/IMG]
    label        ..  [IMG]  -      -        -       [/IMG]   next word

with - = ``IGNORED``; the ``<CLS>`` target is the image itself, matched at the ``[IMG]`` position (paper, eq. 1 to 3).
A sequence may end at ``[IMG]``: its last image is then wanted, and read by nothing.

Shape letters: L positions of the sequence, I images in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chatsearch.data.coin import Coin
from chatsearch.data.template import Piece, render, render_prompt
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import InputError
from chatsearch.types import Document, Kind, Role, Segment

IGNORED = -100
"""Label of a position that wants nothing (the ignore index of PyTorch's cross entropy)."""

_SHARES = 1 << 16
"""Steps in which shares are drawn."""
_CHUNKED = (Kind.INTERLEAVED, Kind.TEXT)


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence. ``[IMG]`` of image i sits at ``image_positions[i] - 1``."""

    document_id: str
    input_ids: NDArray[np.int32]
    """(L,)"""
    labels: NDArray[np.int32]
    """(L,), shifted: the id wanted after each position, or ``IGNORED``."""
    image_positions: NDArray[np.int32]
    """(I,), the ``<CLS>`` slot of each image, ascending; L where it is not read."""
    image_hashes: tuple[str, ...]
    image_is_target: NDArray[np.bool_]
    """(I,), whether the image is to be retrieved from the words before it."""
    image_is_first: NDArray[np.bool_]
    """(I,), whether nothing but bos stands before the image."""
    image_is_read: NDArray[np.bool_]
    """(I,), whether the image's block is in the sequence."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_targets(self) -> int:
        """Words and images that the loss falls on."""
        return int((self.labels != IGNORED).sum() + self.image_is_target.sum())


def build_example(
    document: Document,
    tokenizer: ChatTokenizer,
    num_queries: int,
    *,
    max_length: int,
    answer_only: bool,
    coin: Coin,
    caption_first: float = 0.5,
    word_dropout: float = 0.0,
    end_at_image: bool = False,
) -> Example:
    """One training sequence of at most ``max_length`` positions.

    Captions: one caption and one direction (image first = captioning, text first = retrieval) are drawn, a long caption is
    cut at its end. Interleaved and plain text: one of the document's chunks is drawn; chunks of interleaved documents
    without any image do not count. Dialogues: the oldest rounds are dropped until the rest fits.

    Args:
        document: what to learn from.
        tokenizer: gives the ids.
        num_queries: N, positions of the perceiver's outputs in an image block.
        max_length: in positions.
        answer_only: loss on ``loss=True`` segments only (stage 2), of a dialogue never on the user's, else on everything but bos
            and q (stage 1). Of a caption document it falls on what comes second.
        coin: the draws of this document in this epoch.
        caption_first: how often the caption of a caption document comes before its image.
        word_dropout: share of the tokens that such a caption loses; one is always left.
        end_at_image: leave out everything after ``[IMG]`` where a caption comes before its image.

    Raises:
        InputError: the document does not fit, or the loss would fall on nothing.
    """
    if document.kind == Kind.CAPTION:
        order = _draw_caption(document, coin, caption_first)
        pieces = _fit_caption(document, order, tokenizer, num_queries, max_length, answer_only=answer_only)
        if word_dropout and order[1].image is not None:
            pieces = _drop_words(pieces, tokenizer, coin, word_dropout)
    elif document.kind in _CHUNKED:
        chunks = cut(render(document.segments, tokenizer, answer_only=answer_only), tokenizer, num_queries, max_length)
        if document.kind == Kind.INTERLEAVED:
            chunks = [chunk for chunk in chunks if any(piece.image for piece in chunk)]
        if not chunks:
            raise InputError(
                f"Document {document.document_id!r} holds no image; an interleaved one needs one. Remove it."
            )
        pieces = chunks[coin.draw("chunk", len(chunks))]
    else:
        pieces = _fit_dialogue(document, tokenizer, num_queries, max_length, answer_only=answer_only)
    example = assemble(document.document_id, pieces, tokenizer, num_queries)
    if end_at_image and document.kind == Kind.CAPTION and not example.image_is_first[0]:
        example = _ended_at_image(example)
    if not example.num_targets:
        raise InputError(
            f"Document {document.document_id!r} ({document.kind}) gives the loss nothing to fall on: no segment that counts. "
            "Set loss=True on its answers, or remove it."
        )
    return example


def query_example(
    segments: Sequence[Segment], tokenizer: ChatTokenizer, num_queries: int, *, max_length: int, name: str = "query"
) -> Example:
    """A context with ``[IMG]`` forced as the next token: its last position is the one to search with.

    Dialogues end in ``ASSISTANT: [IMG]``, role-less text in ``caption [IMG]``. The oldest rounds are dropped until it fits.

    Raises:
        InputError: the context is empty, or its last round alone is too long.
    """
    if not segments:
        raise InputError(f"The context of {name!r} is empty: there is nothing to search by. Give text or a picture.")
    last: list[Piece] = [Piece((tokenizer.img_id,), loss=False)]
    for start in _round_starts(segments):
        pieces = render_prompt(segments[start:], tokenizer) + last
        if _length(pieces, num_queries) <= max_length:
            return assemble(name, pieces, tokenizer, num_queries)
    raise InputError(_too_long(name, _length(pieces, num_queries), max_length))


def cut(pieces: Sequence[Piece], tokenizer: ChatTokenizer, num_queries: int, max_length: int) -> list[list[Piece]]:
    """Chunks of at most ``max_length`` positions, each opened by bos; an image block is never cut.

    Cuts fall between pieces; only a text piece that is longer than a whole chunk is cut inside.

    Raises:
        InputError: an image block does not fit into ``max_length``.
    """
    opening = [] if tokenizer.bos_id is None else [Piece((tokenizer.bos_id,), loss=False)]
    room = max_length - len(opening)
    chunks: list[list[Piece]] = []
    current: list[Piece] = []
    used = 0
    for piece in _short_pieces(pieces[len(opening) :], room, num_queries):
        size = _length([piece], num_queries)
        if used + size > room and current:
            chunks.append(opening + current)
            current, used = [], 0
        current.append(piece)
        used += size
    if current:
        chunks.append(opening + current)
    return chunks


def assemble(document_id: str, pieces: Sequence[Piece], tokenizer: ChatTokenizer, num_queries: int) -> Example:
    """Lay pieces out as positions."""
    ids: list[int] = []
    counts: list[bool] = []
    positions, hashes, targets, firsts = [], [], [], []
    num_opening = 0 if tokenizer.bos_id is None else 1
    block = [tokenizer.img_id] + [tokenizer.pad_id] * (num_queries + 1) + [tokenizer.end_img_id]
    for piece in pieces:
        if piece.image is None:
            ids += piece.ids
            counts += [piece.loss] * len(piece.ids)
            continue
        positions.append(len(ids) + 1)
        hashes.append(piece.image)
        targets.append(piece.loss)
        firsts.append(len(ids) <= num_opening)
        ids += block
        counts += [piece.loss, *[False] * (num_queries + 1), piece.loss]
    input_ids_L = np.array(ids, dtype=np.int32)
    labels_L = np.full(len(ids), IGNORED, dtype=np.int32)
    labels_L[:-1] = np.where(np.array(counts[1:], dtype=np.bool_), input_ids_L[1:], IGNORED)
    return Example(
        document_id=document_id,
        input_ids=input_ids_L,
        labels=labels_L,
        image_positions=np.array(positions, dtype=np.int32),
        image_hashes=tuple(hashes),
        image_is_target=np.array(targets, dtype=np.bool_),
        image_is_first=np.array(firsts, dtype=np.bool_),
        image_is_read=np.ones(len(hashes), dtype=np.bool_),
    )


def _length(pieces: Sequence[Piece], num_queries: int) -> int:
    return sum(len(p.ids) if p.image is None else num_queries + 3 for p in pieces)


def _too_long(name: str, length: int, max_length: int) -> str:
    return (
        f"{name!r} takes {length} positions in its shortest form, max_length is {max_length}. Raise max_length, lower "
        "num_queries, or shorten its last round."
    )


def _short_pieces(pieces: Sequence[Piece], room: int, num_queries: int) -> list[Piece]:
    """The same pieces, with text longer than ``room`` split."""
    short = []
    for piece in pieces:
        if piece.image is not None and num_queries + 3 > room:
            raise InputError(
                f"An image block takes {num_queries + 3} positions, a sequence holds {room}. Raise max_length or lower num_queries."
            )
        if piece.image is not None or len(piece.ids) <= room:
            short.append(piece)
        else:
            short += [Piece(piece.ids[i : i + room], loss=piece.loss) for i in range(0, len(piece.ids), room)]
    return short


def _draw_caption(document: Document, coin: Coin, caption_first: float) -> list[Segment]:
    """The image and one caption in one direction; what comes second is the answer."""
    images = [s for s in document.segments if s.image is not None]
    captions = [s for s in document.segments if s.text is not None]
    if len(images) != 1 or not captions:
        raise InputError(
            f"Caption document {document.document_id!r} holds {len(images)} images and {len(captions)} captions; it needs one "
            "image and at least one caption."
        )
    caption = captions[coin.draw("caption", len(captions))]
    retrieval = coin.draw("direction", _SHARES) < caption_first * _SHARES
    first, second = (caption, images[0]) if retrieval else (images[0], caption)
    return [replace(first, loss=False), replace(second, loss=True)]


def _fit_caption(
    document: Document,
    order: Sequence[Segment],
    tokenizer: ChatTokenizer,
    num_queries: int,
    max_length: int,
    *,
    answer_only: bool,
) -> list[Piece]:
    pieces = render(order, tokenizer, answer_only=answer_only)
    excess = _length(pieces, num_queries) - max_length
    if excess <= 0:
        return pieces
    text = next(i for i, piece in enumerate(pieces) if _has_words(piece, tokenizer))
    kept = len(pieces[text].ids) - excess
    if kept < 1:
        raise InputError(_too_long(document.document_id, max_length + 1 - kept, max_length))
    pieces[text] = Piece(pieces[text].ids[:kept], loss=pieces[text].loss)
    return pieces


def _has_words(piece: Piece, tokenizer: ChatTokenizer) -> bool:
    """Whether a piece of a caption document is its text."""
    return piece.image is None and piece.ids not in ((tokenizer.bos_id,), (tokenizer.eos_id,))


def _drop_words(pieces: Sequence[Piece], tokenizer: ChatTokenizer, coin: Coin, share: float) -> list[Piece]:
    """The same with tokens of the caption left out."""
    kept = []
    for piece in pieces:
        ids = piece.ids
        if _has_words(piece, tokenizer):
            ids = tuple(x for i, x in enumerate(ids) if coin.draw(f"word {i}", _SHARES) >= share * _SHARES) or ids[:1]
        kept.append(replace(piece, ids=ids))
    return kept


def _ended_at_image(example: Example) -> Example:
    """The same up to the ``[IMG]`` of its only image."""
    (length,) = example.image_positions
    return replace(
        example,
        input_ids=example.input_ids[:length],
        labels=example.labels[:length],
        image_is_read=np.zeros(1, dtype=np.bool_),
    )


def _fit_dialogue(
    document: Document, tokenizer: ChatTokenizer, num_queries: int, max_length: int, *, answer_only: bool
) -> list[Piece]:
    if not document.segments:
        raise InputError(f"Document {document.document_id!r} has no segments. Remove it.")
    for start in _round_starts(document.segments):
        pieces = render(document.segments[start:], tokenizer, answer_only=answer_only)
        if _length(pieces, num_queries) <= max_length:
            return pieces
    raise InputError(_too_long(document.document_id, _length(pieces, num_queries), max_length))


def _round_starts(segments: Sequence[Segment]) -> list[int]:
    """Where a dialogue may begin: at its start, and wherever the user takes the turn."""
    later = [i for i in range(1, len(segments)) if segments[i].role == Role.USER and segments[i - 1].role != Role.USER]
    return [0, *later]
