"""Documents that gave no example: counted over a run, and refused when they are too many."""

from __future__ import annotations

from collections.abc import Sequence

from chatsearch.errors import TooManyRejectedError

SHOWN = 3
"""Reasons that a message or a log holds: the others are mostly the same."""
_GRACE = 10
"""Rejected documents that never stop a run: among a few documents a share says nothing."""


class Rejections:
    """Documents seen so far, of all workers together, and those of them that gave no example."""

    def __init__(self, max_fraction: float, *, num_documents: int = 0, num_rejected: int = 0) -> None:
        self._max_fraction, self._num_documents = max_fraction, num_documents
        self.num_rejected = num_rejected

    def add(self, num_documents: int, num_rejected: int) -> None:
        """Count the documents of a step."""
        self._num_documents += num_documents
        self.num_rejected += num_rejected

    @property
    def too_many(self) -> bool:
        """Whether they are more than ``max_fraction`` of the documents, and than ten."""
        return self.num_rejected > _GRACE + self._max_fraction * self._num_documents

    def error(self, where: str, reasons: Sequence[str]) -> TooManyRejectedError:
        """What to raise when they are too many.

        Args:
            where: the documents come from, for people.
            reasons: some of them.
        """
        return TooManyRejectedError(
            f"{self.num_rejected} of {self._num_documents} documents of {where} gave no example, the limit is "
            f"max_rejected_fraction={self._max_fraction:g}. Among them: {'; '.join(reasons[:SHOWN])} Repair or remove such "
            "documents and prepare the shards again, or allow more with --set max_rejected_fraction=1."
        )
