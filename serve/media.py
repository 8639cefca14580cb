"""The media type of a picture, read from its first bytes."""

from __future__ import annotations


def media_type(data: bytes) -> str:
    """``image/jpeg``, ``image/png`` or ``image/webp``; anything else is named as bytes, so that no browser renders it."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "application/octet-stream"
