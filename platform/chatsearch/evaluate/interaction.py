"""The interaction protocol: does the answer follow what the user picked, and what the user said (Figs. 9 and 10)?

Each dialogue of sub-task m in which a picture was picked is asked three times, ``[IMG]`` forced: as it is; with another
pick, the best-ranked candidate of that very turn that was not picked; and with the last words of another dialogue. A model
that looks away from the pick, or from the words, gives the same results as before.

Shape suffixes: Q dialogues, N gallery pictures, D width of f_CLS, d retrieval width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chatsearch.errors import InputError
from chatsearch.evaluate.methods import Method
from chatsearch.evaluate.metrics import recalls
from chatsearch.evaluate.pictures import PictureFeatures
from chatsearch.evaluate.queries import Query, query_of
from chatsearch.evaluate.ranking import Gallery, rank
from chatsearch.index.exact import ExactIndex
from chatsearch.types import Document, GalleryItem, Kind, Role, Segment

SHOWN = 10
"""Candidates that a user is shown."""
PROTOCOL = {
    "query": "whole context, [IMG] forced as the first token of the answer",
    "other pick": "of the candidates of the turn that was answered with a picture, the best one that was not picked",
    "other words": "what is said after the pick in the next dialogue that says something else",
    "rank": "of the target of the unchanged dialogue: 1 + number of other pictures with score >= the target's",
    "gallery": "every picture of the index, without those of the context and without the other pick",
    "worse": "percent of the dialogues where the change moves the target down",
    "same_first": "percent of the dialogues whose first result stays the first",
    "shared": f"percent of the first {SHOWN} results that are among the first {SHOWN} after the change",
}


@dataclass(frozen=True, slots=True)
class PickDialogue:
    """A dialogue cut at its last picked picture."""

    query: Query
    opening: tuple[Segment, ...]
    """All before the pick."""
    pick: Segment
    words: tuple[Segment, ...]
    """All after it, up to the answer."""

    def with_pick(self, content_hash: str) -> Query:
        """The same words after another pick."""
        return replace(
            self.query, context=(*self.opening, replace(self.pick, image=content_hash, text=None), *self.words)
        )

    def with_words(self, words: tuple[Segment, ...]) -> Query:
        """Other words after the same pick."""
        return replace(self.query, context=(*self.opening, self.pick, *words))


def dialogues_of(documents: Iterable[Document]) -> list[PickDialogue]:
    """The dialogues of sub-task m in which the user went on from a picture.

    Raises:
        InputError: there is none, or all go on with the same words.
    """
    found = []
    for document in documents:
        if document.kind != Kind.M:
            continue
        query = query_of(document)
        picks = [i for i, s in enumerate(query.context) if s.image is not None and s.role == Role.ASSISTANT]
        if picks and picks[-1] > 0:
            cut = picks[-1]
            found.append(
                PickDialogue(query, query.context[:cut], query.context[cut], query.context[cut + 1 :]),
            )
    if len({dialogue.words for dialogue in found}) < 2:
        raise InputError(
            f"These shards hold {len(found)} m dialogues with a picked picture; the interaction protocol needs two that go on "
            "with different words. Prepare some."
        )
    return found


class InteractionEvaluation:
    """Dialogues and a gallery; methods are measured on them one after the other."""

    def __init__(self, dialogues: Sequence[PickDialogue], gallery: Sequence[str], features: PictureFeatures) -> None:
        self.dialogues = list(dialogues)
        self._gallery = Gallery(gallery)
        self._features = features

    def measure(self, method: Method) -> dict[str, Any]:
        """What each of the two changes does to the results."""
        vectors_Nd = method.gallery(self._features.matrix(self._gallery.hashes, what="encode the gallery"))
        index = ExactIndex([GalleryItem(h, h) for h in self._gallery.hashes], vectors_Nd)
        others = self._other_picks(method, index)
        # One gallery for all three questions: what differs is then the model's doing.
        dropped = [
            frozenset((*dialogue.query.images, other)) - {dialogue.query.target}
            for dialogue, other in zip(self.dialogues, others, strict=True)
        ]

        def ask(queries: Sequence[Query]) -> _Answers:
            queries_Qd = method.queries(queries)
            targets = [query.target for query in queries]
            ranks = rank(self._gallery, vectors_Nd, queries_Qd, targets, [tuple(hashes) for hashes in dropped])
            hits = index.search(queries_Qd, SHOWN, dropped)
            return _Answers(ranks.pessimistic_Q, [[hit.item_id for hit in found] for found in hits])

        kept = ask([dialogue.query for dialogue in self.dialogues])
        pick = ask([d.with_pick(other) for d, other in zip(self.dialogues, others, strict=True)])
        words = ask([d.with_words(other) for d, other in zip(self.dialogues, self._other_words(), strict=True)])
        return {"unchanged": kept.recall(), "other pick": kept.against(pick), "other words": kept.against(words)}

    def _other_picks(self, method: Method, index: ExactIndex) -> list[str]:
        openings = [replace(dialogue.query, context=dialogue.opening) for dialogue in self.dialogues]
        known = [frozenset((*dialogue.query.images, dialogue.query.target)) for dialogue in self.dialogues]
        candidates = index.search(method.queries(openings), 1, known)
        if not all(candidates):
            raise InputError(
                f"A gallery of {len(self._gallery)} pictures leaves nothing else to pick. Take a larger one."
            )
        return [found[0].content_hash for found in candidates]

    def _other_words(self) -> list[tuple[Segment, ...]]:
        """For each dialogue the words of the next one that goes on in another way."""
        all_words = [dialogue.words for dialogue in self.dialogues]
        return [
            next(words for words in all_words[number + 1 :] + all_words[:number] if words != own)
            for number, own in enumerate(all_words)
        ]


@dataclass(frozen=True)
class _Answers:
    """Rank of each dialogue's target, and the pictures that are shown."""

    ranks_Q: np.ndarray[Any, np.dtype[np.int64]]
    shown: list[list[str]]

    def recall(self) -> dict[str, float]:
        return {**recalls(self.ranks_Q), "median_rank": float(np.median(self.ranks_Q))}

    def against(self, changed: _Answers) -> dict[str, float]:
        """These answers beside those to the changed dialogues."""
        pairs = list(zip(self.shown, changed.shown, strict=True))
        return {
            **changed.recall(),
            "worse": 100.0 * float(np.mean(changed.ranks_Q > self.ranks_Q)),
            "same_first": 100.0 * float(np.mean([before[0] == after[0] for before, after in pairs])),
            "shared": 100.0 * float(np.mean([len(set(before) & set(after)) / len(before) for before, after in pairs])),
        }
