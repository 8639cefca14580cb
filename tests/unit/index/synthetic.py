"""Synthetic galleries: feature stores and bundles written from plain arrays, as ``embed`` and ``train`` would write them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from chatsearch.config import Config
from chatsearch.index.build import build_index
from chatsearch.index.config import EmbedConfig, IndexConfig
from chatsearch.index.features import ITEMS, part_name, write_part
from chatsearch.index.items import write_items
from chatsearch.index.projection import Projection
from chatsearch.index.query_vectors import Lineage, write_query_vectors
from chatsearch.kinds import FEATURE_STORE, MODEL_BUNDLE, QUERY_VECTORS
from chatsearch.manifest import Artefact, begin_output
from chatsearch.model.layout import M_Q, PROJECTION
from chatsearch.storage import join
from chatsearch.types import GalleryItem
from safetensors.numpy import save_file

FEATURE_DIM = 12
RETRIEVAL_DIM = 8


class _BundleConfig(Config):
    seed: int = 0


def picture_hash(number: int) -> str:
    return hashlib.sha256(b"picture %d" % number).hexdigest()


def write_store(
    uri: str,
    matrix_ND: np.ndarray,
    items: Sequence[GalleryItem] | None = None,
    *,
    encoder: str = "encoder-a",
    tokens_NTE: np.ndarray | None = None,
    num_parts: int = 2,
) -> Artefact:
    matrix_ND = matrix_ND if matrix_ND.dtype == np.float16 else matrix_ND.astype(np.float32)
    hashes = [picture_hash(n) for n in range(len(matrix_ND))]
    if items is None:
        items = [GalleryItem(f"item-{n:04d}", h, {"number": str(n)}) for n, h in enumerate(hashes)]
    output = begin_output(
        uri, FEATURE_STORE, EmbedConfig(), {"gallery": hashlib.sha256(matrix_ND.tobytes()).hexdigest()[:16]}
    )
    bounds = np.linspace(0, len(hashes), num_parts + 1).astype(int)
    for part, (start, stop) in enumerate(itertools.pairwise(bounds)):
        with output.folder.writing(part_name(part)) as path:
            tokens = None if tokens_NTE is None else tokens_NTE[start:stop]
            write_part(path, hashes[start:stop], matrix_ND[start:stop], tokens)
    with output.folder.writing(ITEMS) as path:
        write_items(path, items)
    return output.commit(
        counts={"pictures": len(hashes), "items": len(items)},
        facts={
            "dimension": matrix_ND.shape[1],
            "token_shape": None if tokens_NTE is None else list(tokens_NTE.shape[1:]),
            "encoder_fingerprint": encoder,
            "preprocessing_id": "plain-64",
            "images": ["/data/shards"],
        },
    )


def write_bundle(uri: str, weight_dD: np.ndarray, *, encoder: str = "encoder-a", seed: int = 0) -> Artefact:
    output = begin_output(uri, MODEL_BUNDLE, _BundleConfig(seed=seed), {})
    with output.folder.writing(PROJECTION) as path:
        save_file({M_Q: np.ascontiguousarray(weight_dD, dtype=np.float32)}, path)
    return output.commit(
        counts={},
        facts={
            "mq_fingerprint": hashlib.sha256(weight_dD.tobytes()).hexdigest()[:16],
            "encoder_fingerprint": encoder,
            "preprocessing_id": "plain-64",
        },
    )


def write_queries(
    uri: str,
    vectors_Qd: np.ndarray,
    model: Projection,
    *,
    ids: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
) -> Artefact:
    """Query vectors as the ``queries`` job would write them; without targets each query has one of its own."""
    output = begin_output(uri, QUERY_VECTORS, _BundleConfig(), {"model": model.model_fingerprint}, overwrite=True)
    names = [f"dialogue-{n}" for n in range(len(vectors_Qd))] if ids is None else ids
    wanted = [picture_hash(n) for n in range(len(vectors_Qd))] if targets is None else targets
    lineage = Lineage(model.uri, model.model_fingerprint, model.mq_fingerprint, "/data/dialogues")
    return write_query_vectors(output, names, wanted, vectors_Qd, lineage)


@dataclass(frozen=True)
class Gallery:
    """A small random gallery: its arrays, and the URIs of its store and model."""

    base: str
    matrix_ND: np.ndarray
    weight_dD: np.ndarray
    items: list[GalleryItem]

    @property
    def features(self) -> str:
        return join(self.base, "features")

    @property
    def model(self) -> str:
        return join(self.base, "model")

    @property
    def projected_Nd(self) -> np.ndarray:
        """Gallery rows before they are made unit vectors, one per item."""
        rows = [self.row[item.content_hash] for item in self.items]
        return self.matrix_ND[rows].astype(np.float64) @ self.weight_dD.T.astype(np.float64)

    @property
    def row(self) -> dict[str, int]:
        return {picture_hash(n): n for n in range(len(self.matrix_ND))}

    def config(self, num_shards: int = 1, name: str = "index", **changes: object) -> IndexConfig:
        return IndexConfig(
            features=self.features, model=self.model, output=join(self.base, name), num_shards=num_shards
        ).replace(**changes)

    def index(self, num_shards: int = 1) -> Artefact:
        return build_index(self.config(num_shards, f"index-{num_shards}"))


def make_gallery(base: str, num_pictures: int = 60, *, num_twins: int = 0, seed: int = 0) -> Gallery:
    """Write the store and the model of a random gallery; the last ``num_twins`` pictures have the features of the first."""
    rng = np.random.default_rng(seed)
    matrix_ND = rng.normal(size=(num_pictures, FEATURE_DIM)).astype(np.float32)
    matrix_ND[num_pictures - num_twins :] = matrix_ND[:num_twins]
    weight_dD = rng.normal(size=(RETRIEVAL_DIM, FEATURE_DIM)).astype(np.float32)
    items = [GalleryItem(f"item-{n:04d}", picture_hash(n), {"number": str(n)}) for n in range(num_pictures)]
    gallery = Gallery(base, matrix_ND, weight_dD, items)
    write_store(gallery.features, matrix_ND, items)
    write_bundle(gallery.model, weight_dD)
    return gallery
