"""Live galleries for tests: pictures whose features follow from their number, and the oracle that knows what must be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from chatsearch.index.build import build_index
from chatsearch.index.config import IndexConfig
from chatsearch.index.exact import ExactIndex
from chatsearch.index.filters import Filter
from chatsearch.index.live.batch import Features
from chatsearch.index.live.create import create_gallery
from chatsearch.index.live.reader import LiveGallery
from chatsearch.index.live.writer import GalleryWriter
from chatsearch.storage import join
from chatsearch.types import GalleryItem, Hit

from tests.unit.index.synthetic import FEATURE_DIM, RETRIEVAL_DIM, picture_hash, write_bundle, write_store

NUM_DISTINCT = 7
"""Pictures whose numbers agree modulo this have equal features: scores tie often."""


def rows(numbers: Sequence[int]) -> np.ndarray:
    """Raw f_CLS of pictures, (N, D)."""
    drawn = [np.random.default_rng(1000 + n % NUM_DISTINCT).normal(size=FEATURE_DIM) for n in numbers]
    return np.array(drawn, np.float32).reshape(len(numbers), FEATURE_DIM)


def features(numbers: Sequence[int], *, encoder: str = "encoder-a") -> Features:
    return Features(rows(numbers), encoder, "plain-64")


def item(item_id: str, number: int) -> GalleryItem:
    return GalleryItem(item_id, picture_hash(number), {"number": str(number)})


def weights(seed: int = 0) -> np.ndarray:
    """M_Q, (d, D)."""
    return np.random.default_rng(seed).normal(size=(RETRIEVAL_DIM, FEATURE_DIM)).astype(np.float32)


def write_model(uri: str, seed: int = 0, *, encoder: str = "encoder-a") -> str:
    write_bundle(uri, weights(seed), encoder=encoder, seed=seed)
    return uri


def empty_gallery(base: str, num_shards: int = 1) -> str:
    """A gallery with no items, projected with the model of seed 0."""
    uri = join(base, "gallery")
    create_gallery(uri, model=write_model(join(base, "model")), num_shards=num_shards)
    return uri


def gallery_over_index(base: str, num_items: int, num_shards: int = 2) -> tuple[str, dict[str, int]]:
    """A gallery over a built index, and what it holds: picture number by item id."""
    uri, store, index = join(base, "gallery"), join(base, "features"), join(base, "index")
    write_store(store, rows(range(num_items)), [item(f"item-{n:04d}", n) for n in range(num_items)])
    model = write_model(join(base, "model"))
    build_index(IndexConfig(features=store, model=model, output=index, num_shards=num_shards))
    create_gallery(uri, index=index)
    return uri, {f"item-{n:04d}": n for n in range(num_items)}


def expected(
    live: Mapping[str, int],
    queries_BD: np.ndarray,
    k: int,
    exclude: Sequence[set[str]] = (),
    *,
    seed: int = 0,
    filter: Filter | None = None,
    unique: bool = False,
) -> list[list[Hit]]:
    """What an exact search over these items finds."""
    if not live:
        return [[] for _ in queries_BD]
    projected_Nd = rows(list(live.values())).astype(np.float64) @ weights(seed).T.astype(np.float64)
    oracle = ExactIndex([item(i, n) for i, n in live.items()], projected_Nd)
    return oracle.search(queries_BD, k, exclude, filter=filter, unique=unique)


def found(gallery: LiveGallery, k: int = 50) -> set[str]:
    """Ids that a search for anything finds."""
    (hits,) = gallery.search(np.ones((1, RETRIEVAL_DIM)), k)
    return {hit.item_id for hit in hits}


def put(writer: GalleryWriter, **pictures: int) -> int:
    """Add pictures by id and number. Returns the version."""
    return writer.upsert([item(i, n) for i, n in pictures.items()], features(list(pictures.values())))
