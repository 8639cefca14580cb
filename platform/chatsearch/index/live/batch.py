"""One change of a gallery: items with their raw features to add or replace, and ids to delete.

Shape suffixes: N items of the batch, D width of f_CLS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatsearch.errors import FingerprintMismatchError, GalleryError, InputError, LimitExceededError
from chatsearch.index.live.state import Lineage
from chatsearch.index.projection import Projection
from chatsearch.index.vectors import Float32
from chatsearch.types import GalleryItem

MAX_CHANGES = 65_536
"""Items and deletions of one batch: it is one object and is held in memory whole."""
MAX_ID_BYTES = 4096
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Features:
    """Raw f_CLS of pictures, and what made them."""

    cls_ND: Float32
    encoder_fingerprint: str
    preprocessing_id: str


@dataclass(frozen=True)
class Batch:
    """A checked change. No id appears twice in it, so its parts apply in any order."""

    items: tuple[GalleryItem, ...]
    cls_ND: Float32
    deleted: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items) + len(self.deleted)


def make_batch(
    items: Sequence[GalleryItem], features: Features | None, deleted: Iterable[str], lineage: Lineage
) -> Batch:
    """Check a change against the gallery it is for.

    Args:
        items: what to add or replace.
        features: their raw features, a row an item; None where there are no items.
        deleted: item ids to take out.
        lineage: the gallery's encoder and dimension.

    Raises:
        FingerprintMismatchError: the features were made by another encoder.
        InputError: rows of another number or width, not finite or zero; ids, hashes or metadata that are none.
        GalleryError: an id appears twice.
        LimitExceededError: more than ``MAX_CHANGES``.
    """
    deleted = tuple([deleted] if isinstance(deleted, str) else deleted)
    num_changes = len(items) + len(deleted)
    if not num_changes:
        raise InputError("The batch holds neither items nor deletions; there is nothing to write.")
    if num_changes > MAX_CHANGES:
        raise LimitExceededError(f"The batch holds {num_changes} changes; write at most {MAX_CHANGES} at a time.")
    _check_ids([*(item.item_id for item in items), *deleted])
    for item in items:
        _check_item(item)
    if features is None:
        if items:
            raise InputError(f"{len(items)} items came without features; give one row of f_CLS an item.")
        return Batch((), np.empty((0, lineage.feature_dimension), np.float32), deleted)
    _check_lineage(features, lineage)
    return Batch(tuple(items), _check_rows(features.cls_ND, items, lineage.feature_dimension), deleted)


def check_directions(batch: Batch, projection: Projection) -> None:
    """Check that every item can be found by a query. One that cannot would stop every later compaction.

    Raises:
        InputError: naming the first item whose projected features have no direction.
    """
    lost_N = ~np.isfinite(projection.apply(batch.cls_ND)).all(axis=1)
    if lost_N.any():
        raise InputError(
            f"Features of item {batch.items[int(np.flatnonzero(lost_N)[0])].item_id!r} have no direction after projection with "
            f"{projection.uri}: they are zero, or M_Q maps them to zero. Embed its picture again."
        )


def _check_lineage(features: Features, lineage: Lineage) -> None:
    for what, ours, theirs in (
        ("encoder", lineage.encoder_fingerprint, features.encoder_fingerprint),
        ("preprocessing", lineage.preprocessing_id, features.preprocessing_id),
    ):
        if ours != theirs:
            raise FingerprintMismatchError(
                f"The features were made with {what} {theirs}, the gallery holds features of {what} {ours}. Embed the pictures with "
                f"its model: python -m jobs.embed --set gallery=SHARDS --set model={lineage.model} --set tokens=false --set output=NEW_URI"
            )


def _check_rows(rows_ND: NDArray[np.floating], items: Sequence[GalleryItem], dimension: int) -> Float32:
    try:
        with np.errstate(over="ignore"):
            cls_ND = np.ascontiguousarray(rows_ND, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"Features must be an array of numbers of shape (items, {dimension}): {error}.") from error
    if cls_ND.shape != (len(items), dimension):
        raise InputError(
            f"Features have shape {cls_ND.shape} for {len(items)} items; this gallery takes ({len(items)}, {dimension})."
        )
    finite_N = np.isfinite(cls_ND).all(axis=1)
    if not finite_N.all():
        row = int(np.flatnonzero(~finite_N)[0])
        column = int(np.flatnonzero(~np.isfinite(cls_ND[row]))[0])
        raise InputError(
            f"Features of item {items[row].item_id!r} hold {cls_ND[row, column]} at position {column}; all values must be finite. "
            "Embed its picture again."
        )
    row_of: dict[str, int] = {}
    for row, item in enumerate(items):
        first = row_of.setdefault(item.content_hash, row)
        if first != row and not np.array_equal(cls_ND[first], cls_ND[row]):
            raise InputError(
                f"Items {items[first].item_id!r} and {item.item_id!r} show the same picture {item.content_hash[:16]} with different "
                "features; a picture has one f_CLS. Check which row belongs to it."
            )
    return cls_ND


def _check_ids(item_ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for item_id in item_ids:
        if not isinstance(item_id, str) or not item_id:
            raise InputError(f"{item_id!r} is no item id; give a text that is not empty.")
        try:
            num_bytes = len(item_id.encode())
        except UnicodeEncodeError as error:
            raise InputError(f"Item id {item_id!r} is not valid Unicode: {error.reason}.") from error
        if num_bytes > MAX_ID_BYTES:
            raise InputError(f"Item id {item_id[:40]!r}... has {num_bytes} bytes; use at most {MAX_ID_BYTES}.")
        if item_id in seen:
            raise GalleryError(
                f"Item id {item_id!r} appears more than once in the batch, so it is not clear which counts. Keep one of them, or write "
                "them in batches one after the other."
            )
        seen.add(item_id)


def _check_item(item: GalleryItem) -> None:
    if not isinstance(item.content_hash, str) or not _HASH.fullmatch(item.content_hash):
        raise InputError(
            f"Item {item.item_id!r} has content hash {item.content_hash!r}; it is the sha256 of the picture's bytes, 64 hex digits."
        )
    for name, value in item.metadata.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InputError(
                f"Metadata of item {item.item_id!r} holds {name!r}: {value!r}; names and values are texts."
            )
        try:
            (name + value).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"Metadata {name!r} of item {item.item_id!r} is not valid Unicode: {error.reason}."
            ) from error
