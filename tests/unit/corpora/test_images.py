from __future__ import annotations

import io
import struct
import zlib

import pytest
from chatsearch.corpora.images import MAX_BYTES, check_image, decode_rgb
from chatsearch.errors import BadImageError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


NOISE = Image.effect_noise((120, 80), 60).convert("RGB")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_accepts_the_three_formats(form: str) -> None:
    assert check_image(encoded(NOISE, form)) == (120, 80)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_picture_is_refused(form: str, share: float) -> None:
    data = encoded(NOISE, form)
    with pytest.raises(BadImageError):
        check_image(data[: int(len(data) * share)])


def test_truncated_jpeg_says_what_to_do() -> None:
    data = encoded(NOISE, "JPEG")
    with pytest.raises(BadImageError, match=r"truncated or corrupt.*again"):
        check_image(data[: len(data) // 2])


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_picture_without_its_end_is_refused_undecoded(form: str) -> None:
    whole = encoded(NOISE, form)
    end = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}[form]
    with pytest.raises(BadImageError, match=r"truncated or corrupt \(its end is missing\)"):
        check_image(whole[: whole.rindex(end)])
    assert check_image(whole + b"what some cameras append") == NOISE.size


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(BadImageError, match="JPEG, PNG or WebP"):
        check_image(encoded(NOISE, form))


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_animation_is_refused(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    with pytest.raises(BadImageError, match="several frames"):
        check_image(encoded(frames[0], form, save_all=True, append_images=frames[1:]))


def test_too_many_bytes_are_refused_unread() -> None:
    with pytest.raises(BadImageError, match=f"{MAX_BYTES:,}"):
        check_image(b"\xff" * (MAX_BYTES + 1))


def test_empty_bytes_are_refused() -> None:
    with pytest.raises(BadImageError, match="0 bytes"):
        check_image(b"")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels: a decompression bomb costs its sender nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(("width", "height"), [(5001, 5000), (60_000, 60_000), (2**31 - 1, 1)])
def test_too_many_pixels_are_refused_by_the_header(width: int, height: int) -> None:
    with pytest.raises(BadImageError):
        check_image(png_header(width, height))


def test_limit_itself_is_accepted() -> None:
    assert check_image(encoded(Image.new("L", (5000, 5000)), "PNG")) == (5000, 5000)


@pytest.mark.parametrize("size", [(65_500, 1), (1, 65_500), (51, 1), (1_000, 19)])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_thread_of_a_picture_is_refused(form: str, size: tuple[int, int]) -> None:
    with pytest.raises(BadImageError, match=rf"{size[0]} x {size[1]}: one side is more than 50 times the other"):
        check_image(encoded(Image.new("L", size), form))


@pytest.mark.parametrize("size", [(50, 1), (1, 50), (1_000, 20)])
def test_a_panorama_is_accepted(size: tuple[int, int]) -> None:
    assert check_image(encoded(Image.new("L", size), "PNG")) == size


def progressive(num_more: int) -> bytes:
    """A progressive JPEG whose last pass is there so many times more."""
    data = encoded(NOISE, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (1 + num_more) + data[-2:]


def test_many_passes_over_one_picture_are_refused_before_the_first() -> None:
    assert check_image(progressive(0)) == check_image(progressive(20)) == (120, 80)
    with pytest.raises(BadImageError, match=r"JPEG of 10\d\d scans; the limit is 100"):
        check_image(progressive(1000))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP"]), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6)
)
def test_hostile_bytes_raise_nothing_else(form: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(encoded(NOISE.resize((40, 30)), form))
    for place, value in flips:
        data[int(place * len(data))] = value
    try:
        width, height = check_image(bytes(data))
    except BadImageError:
        return
    assert width * height <= 25_000_000


def test_a_grey_picture_of_16_bits_keeps_its_shades() -> None:
    """Pillow's own conversion makes all of it white that is above 255 of 65,535."""
    shades = [0, 128 * 257, 65_535]
    image = Image.new("I;16", (3, 1))
    for x, shade in enumerate(shades):
        image.putpixel((x, 0), shade)
    decoded = decode_rgb(encoded(image, "PNG"))
    assert [decoded.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]
    on_white = decode_rgb(encoded(image, "PNG", transparency=shades[0]))
    assert [on_white.getpixel((x, 0))[0] for x in range(3)] == [255, 128, 255]


def test_transparency_is_put_on_white() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode_rgb(encoded(image, "PNG")).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "1"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    form = "JPEG" if mode == "CMYK" else "PNG"
    image = Image.new(mode, (6, 5))
    assert decode_rgb(encoded(image, form)).mode == "RGB"
