"""Norms of a model over a feature store: all that a search of the raw features needs of the gallery beside the store.

    norms.npy    |M_Q f_CLS| of every picture, float32, in the order of the store's rows

A score is q^T M_Q f / |M_Q f|, so M_Q can go to the query: one store of raw features serves any number of models, each with its norms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from chatsearch.errors import ConfigError
from chatsearch.index.config import FoldConfig
from chatsearch.index.features import FeatureStore
from chatsearch.index.projection import Projection, check_directions
from chatsearch.kinds import FOLDED_NORMS
from chatsearch.manifest import Artefact, begin_output

NORMS = "norms.npy"


def build_norms(config: FoldConfig) -> Artefact:
    """Compute the norms that a configuration describes, or return them when they are there already.

    Raises:
        ConfigError: if a URI is not set.
        FingerprintMismatchError: if features and model do not belong together.
        CorruptArtefactError: if features are not finite.
    """
    for name in ("features", "model", "output"):
        if not getattr(config, name):
            raise ConfigError(f"{name} is not set; say where with --set {name}=URI.")
    store = FeatureStore.open(config.features)
    projection = Projection.open(config.model)
    projection.check(store)
    output = begin_output(
        config.output,
        FOLDED_NORMS,
        config,
        {"features": store.fingerprint, "model": projection.model_fingerprint},
        overwrite=config.overwrite,
    )
    if output.finished:
        return output.finished
    norms_N = projection.norms(store.matrix_ND)
    check_directions(np.isfinite(norms_N) & (norms_N > 0), store.hashes, where=store.uri)
    with output.folder.writing(NORMS) as path, open(path, "wb") as file:
        np.save(file, norms_N, allow_pickle=False)
    return output.commit(
        counts={"pictures": len(store), "items": store.artefact.manifest.counts["items"]},
        facts={
            "dimension": projection.dimension,
            "metric": "cosine",
            "features": store.uri,
            "features_fingerprint": store.fingerprint,
            "row_order": row_order(store.hashes),
            "model": projection.uri,
            "model_fingerprint": projection.model_fingerprint,
            "mq_fingerprint": projection.mq_fingerprint,
            "encoder_fingerprint": store.encoder_fingerprint,
            "preprocessing_id": store.preprocessing_id,
        },
    )


def row_order(hashes: Sequence[str]) -> str:
    """sha256 over content hashes in their order: which picture each row is, without a copy of all hashes."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
