"""The model a reader insists on: rows are projected with the M_Q that the gallery names, or not at all."""

from __future__ import annotations

from dataclasses import dataclass

from chatsearch.errors import FingerprintMismatchError
from chatsearch.index.live.state import Lineage
from chatsearch.index.projection import Projection


@dataclass(frozen=True)
class ModelLock:
    """What a reader was opened for."""

    gallery: str
    """URI of the gallery, for messages."""
    mq_fingerprint: str | None
    """None follows the gallery, whatever it is projected with."""
    model: str | None
    """URI of the model; None takes the one that the gallery names."""

    def open(self, lineage: Lineage) -> Projection:
        """The projection of a gallery.

        Raises:
            FingerprintMismatchError: the model or the expected M_Q is another; names both, and the command that repairs it.
        """
        self._check(self.mq_fingerprint, lineage, self.model)
        projection = Projection.open(self.model or lineage.model)
        self._check(projection.mq_fingerprint, lineage, projection.uri)
        return projection

    def _check(self, mq_fingerprint: str | None, lineage: Lineage, model: str | None) -> None:
        if mq_fingerprint not in (None, lineage.mq_fingerprint):
            raise FingerprintMismatchError(
                f"Gallery {self.gallery} is projected with M_Q {lineage.mq_fingerprint}, {f'model {model}' if model else 'yours'} has M_Q "
                f"{mq_fingerprint}. Project it anew: python -m jobs.gallery --recipe compact --set gallery={self.gallery} --set "
                f"model={model or 'BUNDLE'}"
            )
