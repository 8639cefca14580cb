"""A dialogue as the token positions that a model reads.

An image block is ``[IMG] <CLS> q1 .. qN [/IMG]``: the slots between hold the padding id and are filled with
picture features by the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatsearch.data.example import assemble
from chatsearch.data.template import render_prompt
from chatsearch.data.tokenizer import ChatTokenizer
from chatsearch.errors import LimitExceededError
from chatsearch.types import Segment


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and where the pictures stand among them."""

    input_ids: tuple[int, ...]
    image_positions: tuple[int, ...]
    """Position of each picture's ``<CLS>`` slot, in reading order."""
    image_hashes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.input_ids)

    def followed_by(self, token: int) -> Prompt:
        """The same prompt with one more token."""
        return Prompt((*self.input_ids, token), self.image_positions, self.image_hashes)


def build_prompt(
    segments: Sequence[Segment], tokenizer: ChatTokenizer, num_queries: int, *, max_positions: int
) -> Prompt:
    """The prompt of a context, left open for the assistant.

    Raises:
        LimitExceededError: it takes more than ``max_positions`` positions.
    """
    example = assemble("prompt", render_prompt(segments, tokenizer), tokenizer, num_queries)
    if len(example) > max_positions:
        raise LimitExceededError(
            f"The dialogue takes {len(example)} positions ({len(example.image_hashes)} pictures of {num_queries + 3} each, the rest words); "
            f"the limit is {max_positions}. Undo some turns, shorten the text, or begin a new conversation."
        )
    return Prompt(tuple(example.input_ids.tolist()), tuple(example.image_positions.tolist()), example.image_hashes)
