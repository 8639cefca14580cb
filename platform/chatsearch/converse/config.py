"""What one answer may be told. Light: nothing heavy is imported."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chatsearch.config import Config

RetrieveMode = Literal["auto", "always", "never"]
"""``auto``: the model decides. ``always``: ``[IMG]`` is forced as the first token. ``never``: words only."""


class AnswerOptions(Config):
    """How one answer is decoded and ranked."""

    retrieve: RetrieveMode = "auto"
    num_candidates: int = Field(default=10, ge=1)
    exclude_context_images: bool = True
    """Leave the pictures of the dialogue out of the ranking, as evaluation does."""
    temperature: float = Field(default=0.0, ge=0.0, le=5.0)
    """0 is greedy; above, words are sampled."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the sampling: the same dialogue, options and seed give the same answer."""
    max_new_tokens: int = Field(default=256, ge=1)
    max_prompt_tokens: int = Field(default=8192, ge=1)
    """Positions of the prompt, image blocks included."""
