"""The decision protocol: does the model by itself answer with ``[IMG]`` where a picture is wanted, and only there?

A prompt is the context up to its last answer, left open for the assistant; the model decodes greedily. Positive:
documents whose last answer is a picture (t, i, m, edit). Negative: questions answered in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from chatsearch.converse.config import AnswerOptions
from chatsearch.converse.decoder import Decoder, Query, Word
from chatsearch.converse.prompt import build_prompt
from chatsearch.converse.query import FeatureSource
from chatsearch.errors import InputError
from chatsearch.model.bundle import ModelBundle
from chatsearch.progress import progress
from chatsearch.types import Document, Kind, Segment

PROTOCOL = {
    "prompt": "context up to the last answer; greedy decoding, nothing forced",
    "first_token": "[IMG] is the first token of the answer",
    "in_answer": "[IMG] comes before the end of the answer, within max_words words",
    "precision": "of the answers with [IMG], the share where a picture is wanted",
    "recall": "of the prompts where a picture is wanted, the share answered with [IMG]",
}
RETRIEVAL = (Kind.T, Kind.I, Kind.M, Kind.EDIT)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A context and what its answer is."""

    prompt_id: str
    context: tuple[Segment, ...]
    wants_image: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What the model did."""

    first_token: bool
    in_answer: bool


def prompts_of(documents: Iterable[Document], limit: int) -> list[Prompt]:
    """At most ``limit`` prompts of each side, in the order of the documents.

    Raises:
        InputError: one of the sides is empty: precision and recall would say nothing.
    """
    sides: dict[bool, list[Prompt]] = {True: [], False: []}
    for document in documents:
        if document.kind not in (*RETRIEVAL, Kind.QUESTION):
            continue
        *_, (_, answer) = document.turns()
        context = document.segments[: len(document.segments) - len(answer)]
        wants_image = any(segment.image is not None for segment in answer)
        if context and len(sides[wants_image]) < limit:
            sides[wants_image].append(Prompt(document.document_id, context, wants_image))
    for wants_image, prompts in sides.items():
        if not prompts:
            missing = "t, i, m or edit" if wants_image else "question"
            raise InputError(
                f"These shards hold no {missing} document: the decision protocol needs both sides. Prepare some."
            )
    return sides[True] + sides[False]


def decide(
    bundle: ModelBundle, prompts: Sequence[Prompt], pictures: FeatureSource, *, max_words: int
) -> list[Decision]:
    """Let the model answer each prompt."""
    decoder = Decoder(bundle.searcher, bundle.tokenizer)
    decisions = []
    with progress("answer prompts", len(prompts), "prompts") as advance:
        for prompt in prompts:
            built = build_prompt(
                prompt.context,
                bundle.tokenizer,
                bundle.config.num_queries,
                max_positions=bundle.config.language.max_positions - max_words,
            )
            events = list(
                decoder.decode(
                    built,
                    pictures.encode(built.image_hashes),
                    AnswerOptions(),
                    force_retrieval=False,
                    max_new=max_words,
                )
            )
            # A Query is always the last event; it is the first token's doing when no word came before it.
            asks = isinstance(events[-1], Query)
            decisions.append(Decision(asks and not any(isinstance(e, Word) for e in events), asks))
            advance(1)
    return decisions


def score(prompts: Sequence[Prompt], decisions: Sequence[Decision]) -> dict[str, Any]:
    """Precision and recall in percent, with the four counts, for both readings."""
    wanted = [prompt.wants_image for prompt in prompts]
    return {
        "first_token": _score(wanted, [decision.first_token for decision in decisions]),
        "in_answer": _score(wanted, [decision.in_answer for decision in decisions]),
    }


def _score(wanted: Sequence[bool], emitted: Sequence[bool]) -> dict[str, Any]:
    pairs = list(zip(wanted, emitted, strict=True))
    hits, false_alarms = pairs.count((True, True)), pairs.count((False, True))
    misses, silences = pairs.count((True, False)), pairs.count((False, False))
    return {
        # A model that never emits [IMG] has no precision; None says so, 0 would claim wrong answers.
        "precision": 100.0 * hits / (hits + false_alarms) if hits + false_alarms else None,
        "recall": 100.0 * hits / (hits + misses),
        "hits": hits,
        "false_alarms": false_alarms,
        "misses": misses,
        "silences": silences,
    }
