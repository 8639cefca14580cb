"""The documents of each step of a baseline: the same plan for every baseline, as the model's own steps are planned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chatsearch.data.coin import Coin
from chatsearch.data.plan import StepPlan
from chatsearch.data.shards import DocumentShards
from chatsearch.data.steps import taken
from chatsearch.errors import ConfigError
from chatsearch.evaluate.config import PhaseConfig
from chatsearch.evaluate.pairs import PAIRED, Draw


@dataclass(frozen=True)
class Phase:
    """One phase with its shards opened."""

    config: PhaseConfig
    shards: Sequence[DocumentShards]
    rows: Sequence[Sequence[int]]
    """Indices of each stream's paired documents."""

    @classmethod
    def open(cls, config: PhaseConfig) -> Phase:
        """Open the shards of a phase.

        Raises:
            ConfigError: a stream holds no document with a text and its picture.
            InputError: a document is of another split than ``train``.
            ArtefactError: shards are not there, not finished or damaged.
        """
        shards = [DocumentShards.open(stream.shards) for stream in config.streams]
        rows = []
        for stream, opened in zip(config.streams, shards, strict=True):
            opened.require_split("train")
            paired = [kind for kind in (stream.kinds or PAIRED) if kind in PAIRED]
            shares = {kind: share for kind, share in stream.fractions.items() if kind in PAIRED}
            found = taken(opened, stream.replace(kinds=paired, fractions=shares)).tolist() if paired else []
            if not found:
                raise ConfigError(
                    f"{stream.shards} holds no document with a text and its picture for the baseline. Leave the stream out."
                )
            rows.append(found)
        return cls(config, shards, rows)

    def steps(self, seed: int) -> Iterator[list[Draw]]:
        """The documents of each step."""
        sizes = tuple((len(rows), stream.per_step) for rows, stream in zip(self.rows, self.config.streams, strict=True))
        plan = StepPlan(seed, sizes)
        for step in range(self.config.steps):
            draws = []
            for sample in plan.step(step):
                document = self.shards[sample.stream].document(self.rows[sample.stream][sample.document])
                draws.append(Draw(document, Coin(seed, document.document_id, sample.epoch)))
            yield draws
