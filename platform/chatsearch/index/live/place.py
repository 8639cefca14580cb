"""How a gallery that changes is told from other folders. Light: nothing heavy is imported."""

from __future__ import annotations

from chatsearch.storage import Folder

LOG = "log"
"""Folder of the entries."""
SUFFIX = ".entry"
"""How their names end."""


def holds_gallery(uri: str) -> bool:
    """Whether a gallery that changes lies there."""
    return any(name.endswith(SUFFIX) for name in Folder(uri).list(LOG))
