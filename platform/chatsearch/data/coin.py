"""Random choices that depend on (seed, document, epoch) and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Coin:
    """Draws for one document in one epoch: the same on every worker, in every order, after every resume."""

    seed: int
    document_id: str
    epoch: int

    def draw(self, purpose: str, num_choices: int) -> int:
        """A uniform choice out of ``num_choices``; different purposes draw independently."""
        assert num_choices > 0, purpose
        text = f"{self.seed}|{self.epoch}|{purpose}|{self.document_id}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % num_choices
