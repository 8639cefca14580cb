"""Bytes that end in their own sha256: what is read is what was written, or a named error."""

from __future__ import annotations

import hashlib

from chatsearch.errors import CorruptArtefactError

DIGEST_BYTES = 32


def seal(data: bytes) -> bytes:
    """The bytes with their sha256 behind them."""
    return data + hashlib.sha256(data).digest()


def unseal(data: bytes, where: str) -> bytes:
    """The bytes in front of the sha256.

    Raises:
        CorruptArtefactError: naming the place, if it does not hold.
    """
    body, digest = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    actual = hashlib.sha256(body).digest()
    if actual != digest:
        raise CorruptArtefactError(
            f"{where} is damaged: sha256 {actual.hex()[:12]}, its end says {digest.hex()[:12]} ({len(data)} bytes). "
            "Restore this object from a copy of the store, or roll back to a version before it."
        )
    return body
