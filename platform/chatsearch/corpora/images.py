"""The one check that pictures from outside pass before anything else touches them."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageFile

from chatsearch.errors import BadImageError

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 25_000_000
MAX_ASPECT = 50
"""Longer side over shorter side. An encoder that scales the shorter side to its own size scales the longer one along: a
picture of 65,535 x 1 pixels, small as it is, would fill tens of gigabytes."""
MAX_SCANS = 100
"""Passes of a progressive JPEG; encoders make about ten. One over nothing but zeros takes some 40 bytes and still goes over all
pixels: 20 MB of them would keep a processor busy for hours."""
FORMATS = ("JPEG", "PNG", "WEBP")
_START_OF_SCAN = b"\xff\xda"
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
"""What a whole file has somewhere: one that was cut off is told apart before its pixels are decoded."""


def _open(data: bytes) -> ImageFile.ImageFile:
    """A picture whose header is within the limits; its pixels are not decoded yet."""
    if len(data) > MAX_BYTES:
        raise BadImageError(f"Picture has {len(data):,} bytes; the limit is {MAX_BYTES:,}. Send a smaller file.")
    if not data:
        raise BadImageError("Picture has 0 bytes. Send a JPEG, PNG or WebP file.")
    try:
        with warnings.catch_warnings():
            # Pillow only warns between one and two times its own pixel limit; ours is lower and is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImageError(f"Picture is over {MAX_PIXELS:,} pixels. Scale it down and send it again.") from error
    except Exception as error:  # a hostile header can make Pillow raise nearly anything
        raise BadImageError("These bytes are not a JPEG, PNG or WebP picture. Convert it to one of these.") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImageError(
            f"Picture is {width} x {height} = {width * height:,} pixels; the limit is {MAX_PIXELS:,}. Scale it down."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImageError(
            f"Picture is {width} x {height}: one side is more than {MAX_ASPECT} times the other. Crop it, or leave it out."
        )
    if getattr(image, "n_frames", 1) != 1:
        raise BadImageError("Picture has several frames; the limit is 1. Send one frame as a still picture.")
    if image.info.get("progressive") and (scans := data.count(_START_OF_SCAN)) > MAX_SCANS:
        raise BadImageError(
            f"Picture is a JPEG of {scans} scans; the limit is {MAX_SCANS}. Save it again as a plain JPEG."
        )
    if _ENDS.get(image.format or "", b"") not in data:
        raise BadImageError(_corrupt("its end is missing"))
    return image


def _corrupt(detail: str) -> str:
    return f"Picture is truncated or corrupt ({detail}). Fetch or export it again, or leave it out."


def decode_rgb(data: bytes) -> Image.Image:
    """The picture in RGB; transparency is put on white.

    Raises:
        BadImageError: not JPEG, PNG or WebP, over 20 MB, 25 megapixels, 100 scans or one frame, thinner than 1 to 50,
            truncated or corrupt.
    """
    image = _open(data)
    try:
        image.load()
        shown = _in_eight_bits(image) if image.mode.startswith("I") else image
        if shown.has_transparency_data:
            layer = shown.convert("RGBA")
            paper = Image.new("RGBA", layer.size, "white")
            return Image.alpha_composite(paper, layer).convert("RGB")
        return shown if shown.mode == "RGB" else shown.convert("RGB")  # which would copy it: 100 MB at the limit
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise BadImageError(_corrupt(detail)) from error


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits scaled to 8: Pillow's own conversion cuts off at 255, which makes nearly all of it white."""
    grey = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    transparent = image.info.get("transparency")
    grey.info = {} if transparent is None else {"transparency": transparent // 257}
    return grey


def check_image(data: bytes) -> tuple[int, int]:
    """Width and height of an acceptable picture. All pixels are decoded, so a truncated file is found here.

    Raises:
        BadImageError: as ``decode_rgb``.
    """
    return decode_rgb(data).size
