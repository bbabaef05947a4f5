"""Decoding, crop geometry and the golden tensor."""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from edgecompress.runner.errors import RunnerError
from edgecompress.runner.photo import (
    MAX_PIXELS,
    centre_box,
    crop_box,
    decode,
    sample,
    size_index,
)

SIZES = (0.25, 0.5, 0.75, 1.0)
sides = st.integers(1, 5000)
shares = st.floats(-0.5, 1.5)


def _pixels(height: int, width: int) -> np.ndarray:
    count = np.arange(height * width * 3, dtype=np.uint64)
    return ((count * 2654435761 >> 7) & 255).astype(np.uint8).reshape(height, width, 3)


def test_golden_tensor_from_png(tmp_path: Path) -> None:
    """The same bits on every machine and with every Pillow from 8 on: tall, wide and odd photos."""
    digest = hashlib.sha256()
    for height, width in ((150, 46), (46, 150), (100, 100), (300, 200), (301, 217), (500, 375)):
        path = tmp_path / "photo.png"
        Image.fromarray(_pixels(height, width)).save(path)
        image = decode(path)
        for resolution in (24, 48, 96, 224, 260):
            for box in (
                (0, 0, width, height),
                (3, 3, 30, 30),
                (0, 0, 40, 40),
                (1, 1, width - 1, height - 1),
            ):
                digest.update(sample(image, box, resolution).tobytes())
    assert digest.hexdigest() == "4ff9de5769f9eaa4bcd645fa9e0a101a4ced8568df6de09ee6c290e9dce2d481"


def test_sample_layout_and_identity() -> None:
    pixels = _pixels(40, 40)
    tensor = sample(Image.fromarray(pixels), (4, 8, 36, 40), 32)
    assert tensor.shape == (1, 32, 32, 3)
    assert tensor.dtype == np.uint8
    assert tensor.flags.c_contiguous
    np.testing.assert_array_equal(tensor[0], pixels[8:40, 4:36])


def test_decode_applies_orientation(tmp_path: Path) -> None:
    pixels = _pixels(4, 6)
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        Image.fromarray(pixels).save(path, exif=exif.tobytes())
        np.testing.assert_array_equal(np.asarray(decode(path)), expected, err_msg=str(orientation))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_a_tiff_is_turned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None
) -> None:
    """Its decoder does it; Pillow 9.4 leaves the tag where it was then."""
    original = TiffImageFile.load

    def load(image: Any) -> Any:
        tag, loaded = image.tag_v2.get(0x0112), original(image)
        image.getexif = lambda: {0x0112: tag}
        return loaded

    monkeypatch.setattr(TiffImageFile, "load", load)
    path = tmp_path / "photo.tif"
    image = Image.fromarray(_pixels(16, 24))
    image.save(path, compression=compression, tiffinfo={0x0112: 1})
    plain = np.asarray(decode(path))
    image.save(path, compression=compression, tiffinfo={0x0112: 6})
    np.testing.assert_array_equal(np.asarray(decode(path)), np.rot90(plain, -1))


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_an_orientation_in_xmp_alone_is_not_followed(tmp_path: Path, suffix: str) -> None:
    """Some Pillows do and some do not: a board would see another photo than the host."""
    path = tmp_path / f"photo.{suffix}"
    said = b'<rdf:Description tiff:Orientation="6"/>'
    Image.fromarray(_pixels(4, 6)).save(path, xmp=said)
    assert said in path.read_bytes()
    assert decode(path).size == (6, 4)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_decode_gives_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    Image.fromarray(_pixels(16, 20)).convert("RGB").convert(mode.replace("LA", "L")).convert(
        mode
    ).save(path)
    image = decode(path)
    assert (image.mode, image.size) == ("RGB", (20, 16))


def test_decode_16_bit_keeps_the_high_byte(tmp_path: Path) -> None:
    samples = (np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000).astype(np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(samples).save(path)
    np.testing.assert_array_equal(np.asarray(decode(path))[..., 0], samples >> 8)


def test_decode_takes_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert decode(path).getpixel((4, 4)) == (255, 0, 0)


def _png_header(width: int, height: int) -> bytes:
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + content
        + struct.pack(">I", zlib.crc32(content))
        + b"\0\0\0\0IEND\xaeB`\x82"
    )


def _broken(kind: str, folder: Path) -> Path:
    path = folder / kind
    whole = folder / "whole.jpg"
    Image.fromarray(_pixels(64, 64)).save(whole)
    contents = {
        "empty": b"",
        "text": b"not a photo at all",
        "truncated": whole.read_bytes()[:700],
        "bomb": _png_header(MAX_PIXELS // 1000, 1001),
        "huge bomb": _png_header(60000, 60000),
        "no pixels": _png_header(8, 8),
        "script": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    "kind",
    ["missing", "empty", "text", "truncated", "bomb", "huge bomb", "no pixels", "script"],
)
def test_decode_refuses(tmp_path: Path, kind: str) -> None:
    with pytest.raises(RunnerError) as caught:
        decode(_broken(kind, tmp_path))
    assert caught.value.kind == "input"
    assert "\n" not in caught.value.message
    if "bomb" in kind:
        assert "megapixels" in caught.value.message


@given(st.tuples(shares, shares, shares, shares), sides, sides)
def test_crop_box_is_an_allowed_square_inside(
    box: tuple[float, ...], width: int, height: int
) -> None:
    left, top, right, bottom = crop_box(box, width, height, SIZES)
    assert right - left == bottom - top
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert all(edge == int(edge) for edge in (left, top, right, bottom))
    short = min(width, height)
    assert right - left in {max(1, math.floor(share * short + 0.5)) for share in SIZES}


corner = st.tuples(st.floats(0, 0.9), st.floats(0, 0.9))
extent = st.tuples(st.floats(0.02, 1), st.floats(0.02, 1))


@given(corner, extent, sides, sides)
def test_crop_box_contains_the_prediction_where_it_fits(
    start: tuple[float, float], spread: tuple[float, float], width: int, height: int
) -> None:
    x0, y0 = start
    x1, y1 = min(1.0, x0 + spread[0]), min(1.0, y0 + spread[1])
    left, top, right, bottom = crop_box((x0, y0, x1, y1), width, height, SIZES)
    if max((x1 - x0) * width, (y1 - y0) * height) > min(width, height):
        assert right - left == min(width, height)
        return
    # Corners are rounded to whole pixels: half a pixel may be lost on a side.
    assert left <= x0 * width + 0.5
    assert top <= y0 * height + 0.5
    assert right >= x1 * width - 0.5
    assert bottom >= y1 * height - 0.5


@pytest.mark.parametrize(
    "box",
    [
        (math.nan, 0, 1, 1),
        (0, 0, math.inf, 1),
        (0.5, 0.5, 0.5, 0.9),
        (0.9, 0.1, 0.1, 0.9),
        (2, 2, 3, 3),
    ],
)
def test_degenerate_boxes_count_as_the_whole_photo(box: tuple[float, ...]) -> None:
    assert crop_box(box, 300, 200, SIZES) == (50, 0, 250, 200)
    assert size_index(box, 300, 200, SIZES) == 3


def test_crop_takes_the_smallest_size_that_holds_the_box() -> None:
    assert size_index((0.4, 0.4, 0.5, 0.5), 200, 200, SIZES) == 0
    assert size_index((0.25, 0.25, 0.5, 0.76), 200, 200, SIZES) == 2
    assert crop_box((0.0, 0.0, 0.1, 0.1), 200, 200, SIZES) == (0, 0, 50, 50)


@given(sides, sides, st.floats(0.05, 1))
def test_centre_box(width: int, height: int, share: float) -> None:
    left, top, right, bottom = centre_box(width, height, share)
    assert right - left == bottom - top >= 1
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1
