"""A synthetic gallery for the probe: clustered directions, and a feature store and a bundle made of them. It is called synthetic.

Shape suffixes: N vectors, d retrieval dimension, D width of f_CLS.
"""

from __future__ import annotations

import hashlib

import numpy as np
from safetensors.numpy import save_file

from chatsearch.config import Config
from chatsearch.index.config import EmbedConfig
from chatsearch.index.features import ITEMS, part_name, write_part
from chatsearch.index.items import write_items
from chatsearch.index.vectors import Float32, unit_rows
from chatsearch.kinds import FEATURE_STORE, MODEL_BUNDLE
from chatsearch.manifest import begin_output
from chatsearch.model.layout import M_Q, PROJECTION
from chatsearch.types import GalleryItem

ROWS_PER_PART = 1 << 12
"""Pictures in a part of its feature store."""


class _SampleConfig(Config):
    seed: int = 0


def clustered(num_vectors: int, dimension: int, seed: int) -> Float32:
    """Unit vectors around random centres, about a hundred each, as far from them as the centres' own length, (N, d)."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, num_vectors // 100), dimension), dtype=np.float32)
    vectors_Nd = rng.standard_normal((num_vectors, dimension), dtype=np.float32)
    vectors_Nd += centres[rng.integers(len(centres), size=num_vectors)]
    return unit_rows(vectors_Nd)


def write_sample_store(uri: str, features_ND: Float32, metadata_bytes: int) -> None:
    """A feature store over the rows, as ``embed`` would write it."""
    hashes = [hashlib.sha256(b"synthetic %d" % n).hexdigest() for n in range(len(features_ND))]
    metadata = {"text": "x" * max(0, metadata_bytes - len('{"text": ""}'))}
    items = [GalleryItem(f"synthetic-{n:014d}", h, metadata) for n, h in enumerate(hashes)]
    output = begin_output(uri, FEATURE_STORE, EmbedConfig(), {"gallery": "synthetic"})
    for part, start in enumerate(range(0, len(hashes), ROWS_PER_PART)):
        with output.folder.writing(part_name(part)) as path:
            write_part(path, hashes[start : start + ROWS_PER_PART], features_ND[start : start + ROWS_PER_PART])
    with output.folder.writing(ITEMS) as path:
        write_items(path, items)
    output.commit(
        counts={"pictures": len(hashes), "items": len(items)},
        facts={"dimension": features_ND.shape[1], "token_shape": None, "images": ["synthetic"], **_ENCODER},
    )


def write_sample_bundle(uri: str, weight_dD: Float32) -> None:
    """A bundle of which only M_Q is there, which is all that building an index reads."""
    output = begin_output(uri, MODEL_BUNDLE, _SampleConfig(), {})
    with output.folder.writing(PROJECTION) as path:
        save_file({M_Q: np.ascontiguousarray(weight_dD)}, path)
    output.commit(counts={}, facts={"mq_fingerprint": "synthetic", **_ENCODER})


_ENCODER = {"encoder_fingerprint": "synthetic", "preprocessing_id": "synthetic"}
