"""Retrieval queries out of documents: context, target, and what simple methods read of a context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chatsearch.errors import InputError
from chatsearch.types import Document, Kind, Segment

SUB_TASKS = {"t": Kind.T, "i": Kind.I, "m": Kind.M}
"""The three ChatSearch sub-tasks."""


@dataclass(frozen=True, slots=True)
class Query:
    """One context and the picture it asks for."""

    query_id: str
    context: tuple[Segment, ...]
    target: str
    """Content hash."""
    pipeline: str = ""
    """How the sample was made."""

    @property
    def text(self) -> str:
        """The text of all rounds, joined."""
        return " ".join(s.text for s in self.context if s.text is not None)

    @property
    def images(self) -> tuple[str, ...]:
        """Content hashes of the context's pictures, in reading order."""
        return tuple(s.image for s in self.context if s.image is not None)


def query_of(document: Document) -> Query:
    """The query of a document that ends in an image answer.

    Raises:
        InputError: it does not, or nothing stands before the answer.
    """
    context, target = document.query()
    if not context:
        raise InputError(
            f"Document {document.document_id!r} has nothing before its image: there is nothing to search by."
        )
    return Query(document.document_id, context, target, document.attributes.get("pipeline", ""))


def queries_by_sub_task(documents: Iterable[Document]) -> dict[str, list[Query]]:
    """Queries of the sub-tasks that occur, in the order t, i, m.

    Raises:
        InputError: there is none at all.
    """
    name_of = {kind: name for name, kind in SUB_TASKS.items()}
    found: dict[str, list[Query]] = {name: [] for name in SUB_TASKS}
    for document in documents:
        if document.kind in name_of:
            found[name_of[document.kind]].append(query_of(document))
    present = {name: queries for name, queries in found.items() if queries}
    if not present:
        raise InputError(
            "These shards hold no t, i or m dialogue, so there is nothing to ask. Prepare some, or use protocol=text_to_image."
        )
    return present


def targets_of(queries: Sequence[Query]) -> list[str]:
    """The distinct targets, in the order of the queries: the gallery of the paper."""
    return list(dict.fromkeys(query.target for query in queries))
