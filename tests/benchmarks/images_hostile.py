"""Picture files as someone would send them who means harm: a thousand, the same each time. Synthetic.

Each group aims at one thing: sizes that a header claims, bytes, frames, formats under a false name, blocks that unpack to far more
than they hold, many passes over one picture, and damage that shows only when most pixels are decoded.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator

from chatsearch.corpora.images import MAX_BYTES
from PIL import Image

NUM_FILES = 1000
_PNG = b"\x89PNG\r\n\x1a\n"
_SIDE = 5000
"""Of the largest square that is accepted."""


def hostile_files(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Group and bytes of :data:`NUM_FILES` files."""
    rng = random.Random(seed)
    small = {form: _saved(_noise(320, 240, 8, rng), form) for form in ("JPEG", "PNG", "WEBP")}
    packed = zlib.compress(bytes(100_000_000))
    large = {form: _saved(_noise(_SIDE, _SIDE, 100, rng), form) for form in ("JPEG", "PNG")}
    groups: list[tuple[str, int, Callable[[], bytes]]] = [
        ("claims too many pixels", 90, lambda: _claims(rng)),
        ("has too many pixels", 10, lambda: _png(_SIDE + rng.randrange(1, 200), _SIDE)),
        ("has too many bytes", 10, lambda: b"\xff\xd8\xff\xe0" + bytes(MAX_BYTES)),
        (
            "is thin",
            30,
            lambda: _saved(Image.new("L", (rng.randrange(30_000, 65_000), 1)), rng.choice(("JPEG", "PNG"))),
        ),
        ("has many frames", 60, lambda: _frames(rng)),
        ("is another format", 120, lambda: _other(rng)),
        ("is noise", 80, lambda: rng.randbytes(rng.randrange(20_000))),
        ("is cut off", 200, lambda: _cut(rng.choice(list(small.values())), rng.uniform(0.0, 0.95))),
        ("has flipped bits", 250, lambda: _flipped(rng.choice(list(small.values())), rng)),
        ("unpacks to more", 60, lambda: _png(8, 8, extra=_unpacking(packed, rng))),
        ("is full of blocks", 20, lambda: _png(8, 8, extra=_chunk(b"tEXt", b"a\0b") * rng.randrange(20_000, 40_000))),
        ("is passed over often", 20, lambda: _passes(rng.randrange(200, 2000))),
        ("is large and cut off", 40, lambda: _cut(rng.choice(list(large.values())), rng.uniform(0.5, 0.999))),
        ("is large and has flipped bits", 10, lambda: _flipped(rng.choice(list(large.values())), rng)),
    ]
    assert sum(number for _, number, _ in groups) == NUM_FILES
    for group, number, make in groups:
        for _ in range(number):
            yield group, make()


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _noise(width: int, height: int, grain: int, rng: random.Random) -> Image.Image:
    """Smooth noise of so many pixels a grain: files of a size that photographs have."""
    coarse = (width // grain, height // grain)
    return Image.frombytes("RGB", coarse, rng.randbytes(coarse[0] * coarse[1] * 3)).resize(
        (width, height), Image.Resampling.BICUBIC
    )


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(width: int, height: int, *, extra: bytes = b"") -> bytes:
    """A black picture in shades of grey."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = zlib.compress(bytes((width + 1) * height))
    return _PNG + header + extra + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _claims(rng: random.Random) -> bytes:
    width, height = rng.randrange(6_000, 65_000), rng.randrange(6_000, 65_000)
    which = rng.randrange(3)
    if which == 0:
        return _PNG + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    if which == 1:
        frame = struct.pack(">BHHB", 8, height, width, 3) + bytes([1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1])
        return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame
    side = (16_383).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + side + side
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _frames(rng: random.Random) -> bytes:
    frames = [Image.new("RGB", (64, 64), (number, 0, 0)) for number in range(rng.randrange(2, 40))]
    return _saved(frames[0], rng.choice(("PNG", "WEBP")), save_all=True, append_images=frames[1:])


def _other(rng: random.Random) -> bytes:
    kind = rng.choice(("GIF", "BMP", "TIFF", "ICO", "PPM", "svg", "html", "zip"))
    match kind:
        case "svg":
            return b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
        case "html":
            return _PNG[:4] + b"<html><script>alert(1)</script></html>"
        case "zip":
            return b"PK\x03\x04" + zlib.compress(bytes(10_000_000))
        case _:
            return _saved(_noise(64, 64, 8, rng), kind)


def _cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def _flipped(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.randrange(1, 30)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _unpacking(packed: bytes, rng: random.Random) -> bytes:
    """A text, a text of the newer kind or a colour profile that is far larger than it looks."""
    return rng.choice(
        (
            _chunk(b"zTXt", b"a\0\0" + packed),
            _chunk(b"iTXt", b"a\0\1\0\0\0" + packed),
            _chunk(b"iCCP", b"a\0\0" + packed),
        )
    )


def _passes(number: int) -> bytes:
    """A progressive JPEG of the largest size whose last pass is there again and again: few bytes, each pass over all pixels."""
    data = _saved(Image.new("L", (_SIDE, _SIDE)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * number + data[-2:]
