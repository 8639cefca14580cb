"""How a gallery that changes is told from other folders. Light: nothing heavy is imported."""

from __future__ import annotations

from chatsearch.storage import Folder

LOG = "log"
"""Folder of the entries."""


def holds_gallery(uri: str) -> bool:
    """Whether a gallery that changes lies there."""
    return bool(Folder(uri).list(LOG))
