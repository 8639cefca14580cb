"""Features as they are, where an index would have their projections: what a folded search takes proposals from.

Shape suffixes: N pictures, D width of f_CLS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chatsearch.index.features import FeatureStore
from chatsearch.index.projection import Projection
from chatsearch.index.vectors import Float32, unit_rows

RAW = "none: raw features"
"""M_Q fingerprint of an index over raw features. No model has it, so that none takes such an index for its own."""


@dataclass(frozen=True)
class RawFeatures:
    """Stands where a :class:`~chatsearch.index.projection.Projection` would: a picture's vector is the direction of its f_CLS."""

    encoder_fingerprint: str
    preprocessing_id: str
    dimension: int
    uri: str = ""
    model_fingerprint: str = RAW
    mq_fingerprint: str = RAW

    def apply(self, cls_ND: Float32) -> Float32:
        """unit(f_CLS), (N, D)."""
        return unit_rows(cls_ND) if len(cls_ND) else np.empty((0, self.dimension), np.float32)


def projection_of(model: str, store: FeatureStore) -> Projection | RawFeatures:
    """What turns features of a store into vectors of an index.

    Args:
        model: URI of a model bundle; empty for none.
        store: the features.

    Raises:
        ArtefactError: if there is no finished bundle, or its projection is damaged.
        FingerprintMismatchError: if features and model do not belong together.
    """
    if not model:
        return RawFeatures(store.encoder_fingerprint, store.preprocessing_id, store.dimension)
    projection = Projection.open(model)
    projection.check(store)
    return projection
