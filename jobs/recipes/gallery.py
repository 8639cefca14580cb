"""Changes of a gallery that is searched meanwhile; each recipe is one action."""

from __future__ import annotations

from chatsearch.index.live.config import GalleryConfig


def create() -> GalleryConfig:
    """Make a gallery that can change, over a built index or empty."""
    return GalleryConfig(action="create")


def add() -> GalleryConfig:
    """Add the items of a feature store, replacing those that are there."""
    return GalleryConfig(action="add")


def delete() -> GalleryConfig:
    """Take items out; versions and snapshots keep them until they are collected or forgotten."""
    return GalleryConfig(action="delete")


def compact() -> GalleryConfig:
    """Build new shards of what is live; with a model, project the gallery anew."""
    return GalleryConfig(action="compact")


def snapshot() -> GalleryConfig:
    """Keep the newest version under a name."""
    return GalleryConfig(action="snapshot")


def drop() -> GalleryConfig:
    """Let go of a snapshot."""
    return GalleryConfig(action="drop")


def rollback() -> GalleryConfig:
    """Make the gallery what it was at a snapshot or version."""
    return GalleryConfig(action="rollback")


def collect() -> GalleryConfig:
    """Delete what no version of the last hour and no snapshot needs."""
    return GalleryConfig(action="collect")


def forget() -> GalleryConfig:
    """Remove a picture from every version and object, and print a receipt."""
    return GalleryConfig(action="forget")


def describe() -> GalleryConfig:
    """Say what is there: version, items, log, base, snapshots."""
    return GalleryConfig(action="describe")
