"""What an engine says while it answers. An answer is any number of text deltas, at most one Candidates, one Done."""

from __future__ import annotations

from dataclasses import dataclass

from chatsearch.converse.dialogue import Dialogue, EndReason, Retrieval


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the answer: whole characters only."""

    text: str


@dataclass(frozen=True, slots=True)
class Candidates:
    """The answer reached ``[IMG]``: these pictures are offered."""

    retrieval: Retrieval


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is complete or waits for a pick. ``dialogue`` holds it."""

    dialogue: Dialogue
    reason: EndReason
    model: str
    """Fingerprint of the model that answered."""
    num_prompt_tokens: int
    num_new_tokens: int


Event = TextDelta | Candidates | Done
