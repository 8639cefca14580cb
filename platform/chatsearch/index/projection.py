"""What a model makes of stored features: M_Q of its bundle, one matrix product, no picture decoded.

Shape suffixes: N pictures, D width of f_CLS, d retrieval dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from chatsearch.errors import CorruptArtefactError, FingerprintMismatchError
from chatsearch.index.features import FeatureStore
from chatsearch.index.vectors import Float32, Float64, unit_rows
from chatsearch.kinds import MODEL_BUNDLE
from chatsearch.manifest import open_artefact
from chatsearch.model.layout import M_Q, PROJECTION

_MAX_PROJECTED = 1 << 16
"""Rows projected at a time in float64."""


@dataclass(frozen=True)
class Projection:
    """M_Q of a model bundle, read without torch."""

    uri: str
    model_fingerprint: str
    mq_fingerprint: str
    encoder_fingerprint: str
    preprocessing_id: str
    weight_dD: Float32

    @classmethod
    def open(cls, uri: str) -> Projection:
        """Read the projection of the bundle at a URI.

        Raises:
            ArtefactError: if there is no finished bundle, or its projection is damaged.
        """
        bundle = open_artefact(uri, MODEL_BUNDLE)
        path = bundle.checked_path(PROJECTION)
        try:
            weight_dD = load_file(path)[M_Q]
        except (SafetensorError, KeyError) as error:
            raise CorruptArtefactError(f"{path} does not hold {M_Q}: {error}. Export the model again.") from error
        facts = bundle.manifest.facts
        return cls(
            bundle.uri,
            bundle.fingerprint,
            facts["mq_fingerprint"],
            facts["encoder_fingerprint"],
            facts["preprocessing_id"],
            weight_dD,
        )

    def check(self, store: FeatureStore) -> None:
        """Check that the features come from this model's vision encoder.

        Raises:
            FingerprintMismatchError: naming both sides and the command that makes fitting features.
        """
        for what, ours, theirs in (
            ("encoder", self.encoder_fingerprint, store.encoder_fingerprint),
            ("preprocessing", self.preprocessing_id, store.preprocessing_id),
            ("feature width", str(self.weight_dD.shape[1]), str(store.dimension)),
        ):
            if ours != theirs:
                gallery = ",".join(f'"{uri}"' for uri in store.images)
                raise FingerprintMismatchError(
                    f"Features {store.uri} were made with {what} {theirs}, model {self.uri} has {what} {ours}. Embed the gallery with "
                    f"this model: python -m jobs.embed --set 'gallery=[{gallery}]' --set model={self.uri} --set output=NEW_URI"
                )

    @property
    def dimension(self) -> int:
        """d."""
        return len(self.weight_dD)

    def apply(self, cls_ND: Float32) -> Float32:
        """unit(f_CLS M_Q), (N, d)."""
        # In float64 and rounded once: the order in which a BLAS sums does not show in float32.
        parts = [unit_rows(block_Nd) for block_Nd in self._projected(cls_ND)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.weight_dD)), np.float32)

    def norms(self, cls_ND: Float32) -> Float32:
        """|f_CLS M_Q|, (N,)."""
        with np.errstate(invalid="ignore", over="ignore"):
            parts = [np.sqrt((b_Nd * b_Nd).sum(axis=1)).astype(np.float32) for b_Nd in self._projected(cls_ND)]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _projected(self, cls_ND: Float32) -> Iterator[Float64]:
        """f_CLS M_Q in blocks of rows."""
        weight_Dd = self.weight_dD.T.astype(np.float64)
        for start in range(0, len(cls_ND), _MAX_PROJECTED):
            block_ND = cls_ND[start : start + _MAX_PROJECTED].astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found, and named, afterwards
                projected_Nd = block_ND @ weight_Dd
            yield projected_Nd


def check_directions(has_direction_N: NDArray[np.bool_], hashes: Sequence[str], *, where: str) -> None:
    """Check that every picture has a direction after projection.

    Args:
        has_direction_N: whether a picture has.
        hashes: their content hashes.
        where: the store that holds them, for the message.

    Raises:
        CorruptArtefactError: naming the first that has none.
    """
    bad = np.flatnonzero(~has_direction_N)
    if len(bad):
        raise CorruptArtefactError(
            f"{len(bad)} of {len(has_direction_N)} pictures in {where} have no direction after projection (NaN, infinite or zero), "
            f"first {hashes[bad[0]][:16]}. Check the model, then embed again with --set overwrite=true."
        )
