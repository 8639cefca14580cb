"""Adding what the ``embed`` job made, batch by batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from chatsearch.index.features import FeatureStore
from chatsearch.index.live.batch import Features
from chatsearch.index.live.writer import GalleryWriter


def add_store(
    writer: GalleryWriter, uri: str, items_per_batch: int, on_items: Callable[[int], None] | None = None
) -> int:
    """Add all items of a feature store, replacing those that are there. Returns the last version.

    Interrupted, it is run again: what was added is added once more, to no effect.

    Raises:
        ArtefactError: the store is damaged, or was made by another encoder.
        Others as :meth:`GalleryWriter.upsert`.
    """
    store = FeatureStore.open(uri)
    items = store.items()
    for start in range(0, len(items), items_per_batch):
        some = items[start : start + items_per_batch]
        rows_N = np.array([store.row_of(item.content_hash) for item in some], dtype=np.int64)
        writer.upsert(some, Features(store.matrix_ND[rows_N], store.encoder_fingerprint, store.preprocessing_id))
        if on_items:
            on_items(len(some))
    return writer.version
