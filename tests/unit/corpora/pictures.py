"""Pictures for reader tests."""

from __future__ import annotations

import io

from PIL import Image


def picture(colour: str = "red", size: tuple[int, int] = (32, 24), form: str = "JPEG") -> bytes:
    """The bytes of a one-coloured picture."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, form)
    return buffer.getvalue()
