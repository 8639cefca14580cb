"""Synthetic documents with the lengths of CC3M captions and mmc4-core pages: random ids, no text, no picture.

Lengths are drawn from

    caption      1 image; words log-normal, mean 10.3 and standard deviation 4.5 (Conceptual Captions, ACL 2018, table of
                 CC3M's training split), 1.35 tokens a word (assumed)
    interleaved  1 + Poisson(3.1) images: 29.9M in 7.3M pages; tokens log-normal, mean 333: 2.4B in 7.3M pages (mmc4, arXiv
                 2304.06939, mmc4-core), standard deviation of their logarithm 0.8 (assumed), in sentences of 25 (assumed)

and laid out, cut at ``max_length`` and packed by the code that training uses. 4 captions to 1 page, as in the paper's stage 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from chatsearch.data.example import Example, assemble, cut
from chatsearch.data.pack import fill_rows
from chatsearch.data.template import Piece
from chatsearch.model.config import SearcherConfig

CAPTIONS, PAGES = 4, 1
"""The mixture: 256 to 64 documents a step."""
TOKENS_PER_WORD = 1.35
CAPTION_WORDS, CAPTION_SPREAD = 10.3, 4.5
PAGE_TOKENS, PAGE_LOG_SPREAD = 333.0, 0.8
MORE_IMAGES = 3.1
SENTENCE = 25


@dataclass(frozen=True)
class Ids:
    """The special ids that laying out a document needs."""

    img_id: int
    end_img_id: int
    bos_id: int = 1
    pad_id: int = 0


def documents(config: SearcherConfig, num_documents: int, max_length: int, seed: int = 0) -> list[Example]:
    """Documents in the mixture's order, each of at most ``max_length`` positions."""
    draw = np.random.default_rng(seed)
    words = config.language.vocab_size
    ids = Ids(img_id=words, end_img_id=words + 1)
    made = []
    for number in range(num_documents):
        is_page = number % (CAPTIONS + PAGES) >= CAPTIONS
        body = list(_page(draw, words, number) if is_page else _caption(draw, words, number))
        pieces = [Piece((ids.bos_id,), loss=False), *body]
        chunks = [
            chunk
            for chunk in cut(pieces, ids, config.num_queries, max_length)  # type: ignore[arg-type]
            if any(piece.image for piece in chunk)
        ]
        chunk = chunks[int(draw.integers(len(chunks)))]
        made.append(assemble(f"synthetic-{number}", chunk, ids, config.num_queries))  # type: ignore[arg-type]
    return made


def row_groups(examples: Sequence[Example], length: int, num_rows: int) -> list[list[Example]]:
    """Packed into rows of ``length``, then the documents of each ``num_rows`` rows; what fills fewer rows is left out."""
    rows = fill_rows([len(example) for example in examples], length)
    starts = range(0, len(rows) - num_rows + 1, num_rows)
    return [[examples[number] for row in rows[start : start + num_rows] for number in row] for start in starts]


def _caption(draw: np.random.Generator, words: int, number: int) -> Iterator[Piece]:
    text = _text(draw, words, TOKENS_PER_WORD * _log_normal(draw, CAPTION_WORDS, CAPTION_SPREAD))
    image = Piece(image=_image(number, 0))
    yield from (image, text) if draw.random() < 0.5 else (text, image)


def _page(draw: np.random.Generator, words: int, number: int) -> Iterator[Piece]:
    num_tokens = math.exp(draw.normal(math.log(PAGE_TOKENS) - PAGE_LOG_SPREAD**2 / 2, PAGE_LOG_SPREAD))
    num_sentences = max(round(num_tokens / SENTENCE), 1)
    num_images = min(1 + int(draw.poisson(MORE_IMAGES)), num_sentences)
    pictured = set(draw.choice(num_sentences, num_images, replace=False).tolist())
    for sentence in range(num_sentences):
        parts = [_text(draw, words, SENTENCE)]
        if sentence in pictured:
            parts.insert(int(draw.integers(2)), Piece(image=_image(number, sentence)))
        yield from parts


def _text(draw: np.random.Generator, words: int, num_tokens: float) -> Piece:
    return Piece(tuple(draw.integers(3, words, max(round(num_tokens), 1)).tolist()))


def _log_normal(draw: np.random.Generator, mean: float, deviation: float) -> float:
    variance = math.log(1 + (deviation / mean) ** 2)
    return math.exp(draw.normal(math.log(mean) - variance / 2, math.sqrt(variance)))


def _image(number: int, place: int) -> str:
    return f"{number * 1000 + place:016x}"
