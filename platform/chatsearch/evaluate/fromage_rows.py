"""What FROMAGe reads: words, pictures as k input embeddings each, and ``[RET]``.

``[RET]`` has the id that ``[IMG]`` has in ours, V; slots of pictures hold ``pad_id`` as placeholders. Dialogues are written
in the model's own template, so both are asked in the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chatsearch.data.example import IGNORED
from chatsearch.data.template import Piece, render, render_prompt
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.types import Segment


@dataclass(frozen=True, slots=True)
class FromageRow:
    """One sequence."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The word wanted after each position, or ``IGNORED``."""
    images: tuple[tuple[int, str], ...]
    """First slot and content hash of each picture."""

    def __len__(self) -> int:
        return len(self.ids)


def retrieval_row(
    context: Sequence[Segment], tokenizer: ChatTokenizer, *, num_visual_tokens: int, max_length: int
) -> FromageRow:
    """A context with ``[RET]`` behind it; of a longer one the end is kept, pictures whole or not at all."""
    pieces = render_prompt(context, tokenizer)
    num_opening = 0 if tokenizer.bos_id is None else 1
    kept: list[Piece] = []
    room = max_length - num_opening - 1
    for piece in reversed(pieces[num_opening:]):
        size = num_visual_tokens if piece.image is not None else len(piece.ids)
        if size > room:
            if piece.image is None and room:
                kept.append(Piece(piece.ids[-room:]))
            break
        kept.append(piece)
        room -= size
    row = [*pieces[:num_opening], *reversed(kept), Piece((tokenizer.img_id,))]
    return _lay_out([replace(piece, loss=False) for piece in row], tokenizer, num_visual_tokens)


def caption_row(
    captioned: Sequence[tuple[str, str]], tokenizer: ChatTokenizer, *, num_visual_tokens: int, max_length: int
) -> FromageRow:
    """Pictures (content hashes), each before its caption, whose words are wanted; long captions are cut at their end."""
    num_opening = 0 if tokenizer.bos_id is None else 1
    room = (max_length - num_opening) // len(captioned) - num_visual_tokens - 1
    pieces: list[Piece] = []
    for image, caption in captioned:
        rendered = render((Segment(image=image), Segment(caption)), tokenizer, answer_only=False)
        pieces += rendered[num_opening if pieces else 0 :]
        pieces[-2] = replace(pieces[-2], ids=pieces[-2].ids[:room])  # the caption; </s> closes it
    return _lay_out(pieces, tokenizer, num_visual_tokens)


def _lay_out(pieces: Sequence[Piece], tokenizer: ChatTokenizer, num_visual_tokens: int) -> FromageRow:
    ids: list[int] = []
    wanted: list[int] = []
    images: list[tuple[int, str]] = []
    for piece in pieces:
        if piece.image is not None:
            images.append((len(ids), piece.image))
            ids += [tokenizer.pad_id] * num_visual_tokens
            wanted += [IGNORED] * num_visual_tokens
        else:
            ids += piece.ids
            wanted += piece.ids if piece.loss else [IGNORED] * len(piece.ids)
    return FromageRow(tuple(ids), (*wanted[1:], IGNORED), tuple(images))
