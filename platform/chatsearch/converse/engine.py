"""The engine of a dialogue: reads it, answers in words, ranks the gallery at ``[IMG]``, goes on after a pick.

It knows neither HTTP nor Ray: a retriever and a source of pictures are handed in.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.decoder import Decoder, Query, Stop, Word
from chatsearch.converse.dialogue import Dialogue, EndReason, Message, Piece, Retrieval
from chatsearch.converse.events import Candidates, Done, Event, TextDelta
from chatsearch.converse.pictures import PictureEncoder, PictureSource
from chatsearch.converse.prompt import Prompt, build_prompt
from chatsearch.converse.text import TextStream
from chatsearch.errors import UnsupportedRequestError
from chatsearch.types import Hit, Segment

if TYPE_CHECKING:
    from chatsearch.model.bundle import ModelBundle


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer of one search, and the version of the index that gave it."""

    hits: list[Hit]
    index: str
    coverage: float = 1.0
    """Share of the gallery's items that were searched."""


class Retriever(Protocol):
    """Ranks a gallery."""

    def search(self, query_d: NDArray[np.float32], k: int, exclude: Collection[str], /) -> Ranking:
        """The best ``k`` items for a unit query embedding, without those that show an excluded content hash."""


DEFAULTS = AnswerOptions()
_NOTHING: Mapping[str, bytes] = {}


class Engine:
    """Answers dialogues with one model over one gallery. Holds no dialogue: threads may share it."""

    def __init__(self, bundle: ModelBundle, retriever: Retriever, pictures: PictureSource) -> None:
        self.model = bundle.fingerprint
        self._tokenizer = bundle.tokenizer
        self._num_queries = bundle.config.num_queries
        self._max_positions = bundle.config.language.max_positions
        self._decoder = Decoder(bundle.searcher, bundle.tokenizer)
        self._encoder = PictureEncoder(bundle.vision, pictures)
        self._retriever = retriever

    def respond(
        self, dialogue: Dialogue, options: AnswerOptions = DEFAULTS, uploads: Mapping[str, bytes] = _NOTHING
    ) -> Generator[Event]:
        """Answer the last message or go on after the last pick; the last event is Done with the new dialogue.

        Args:
            dialogue: ends in a message or a pick that has no answer yet.
            options: ``retrieve="always"`` holds for messages; after a pick the model decides by itself.
            uploads: encoded pictures of the dialogue that are not in the gallery, by content hash.

        Raises:
            UnsupportedRequestError: there is nothing to answer.
            LimitExceededError: the dialogue is longer than the model or the options allow.
            MissingInputError: a picture of the dialogue is neither uploaded nor in the gallery.
        """
        if not dialogue.awaits_answer:
            raise UnsupportedRequestError(
                "There is nothing to answer: the dialogue ends in an answer. Say something first."
            )
        prompt = self._prompt(dialogue.segments(), options)
        pictures = self._encoder.encode(prompt.image_hashes, uploads)
        force = options.retrieve == "always" and isinstance(dialogue.steps[-1].action, Message)
        max_new = min(options.max_new_tokens, self._max_positions - len(prompt))
        text, produced, num_new = TextStream(self._tokenizer), list[Piece](), 0
        ended: EndReason = "length"
        words = ""
        retrieval: Retrieval | None = None
        for found in self._decoder.decode(prompt, pictures, options, force_retrieval=force, max_new=max_new):
            num_new += not isinstance(found, Stop)
            delta = text.push(found.token) if isinstance(found, Word) else text.finish()
            if delta:
                words += delta
                yield TextDelta(delta)
            if isinstance(found, Stop):
                ended = found.reason
            elif isinstance(found, Query):
                ended, retrieval = "retrieval", self._rank(found, dialogue.images(), options)
                yield Candidates(retrieval)
        if words:
            produced.append(words)
        if retrieval is not None:
            produced.append(retrieval)
        yield Done(dialogue.answer(produced, ended), ended, self.model, len(prompt), num_new)

    def pick(
        self,
        dialogue: Dialogue,
        item_id: str,
        retrieval: int | None = None,
        options: AnswerOptions = DEFAULTS,
        uploads: Mapping[str, bytes] = _NOTHING,
    ) -> Iterator[Event]:
        """Put a candidate into the history and go on from there; see :meth:`Dialogue.pick` and :meth:`respond`."""
        return self.respond(dialogue.pick(item_id, retrieval), options, uploads)

    def search(
        self,
        segments: Sequence[Segment],
        options: AnswerOptions = DEFAULTS,
        uploads: Mapping[str, bytes] = _NOTHING,
    ) -> Retrieval:
        """Rank the gallery for a context, with ``[IMG]`` forced as the first token of the answer.

        Raises:
            LimitExceededError, MissingInputError: as :meth:`respond`.
        """
        prompt = self._prompt(segments, options)
        pictures = self._encoder.encode(prompt.image_hashes, uploads)
        (query,) = self._decoder.decode(prompt, pictures, options, force_retrieval=True, max_new=0)
        assert isinstance(query, Query)
        return self._rank(query, prompt.image_hashes, options)

    def _prompt(self, segments: Sequence[Segment], options: AnswerOptions) -> Prompt:
        # One position is left for the first token of the answer.
        room = min(options.max_prompt_tokens, self._max_positions - 1)
        return build_prompt(segments, self._tokenizer, self._num_queries, max_positions=room)

    def _rank(self, query: Query, context: Sequence[str], options: AnswerOptions) -> Retrieval:
        exclude = frozenset(context) if options.exclude_context_images else frozenset()
        ranking = self._retriever.search(query.embedding_d, options.num_candidates, exclude)
        return Retrieval(
            tuple(ranking.hits),
            forced=query.forced,
            model=self.model,
            index=ranking.index,
            coverage=ranking.coverage,
        )
