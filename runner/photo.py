"""From a photo's file to a network's input tensor: one code path for host, training and board.

Every step is integer arithmetic or Pillow's fixed-point resampling, so that one decoded photo gives
the same tensor, bit for bit, with every Pillow from 8 on (held by a golden test). Decoding is as
exact where Pillow uses libjpeg-turbo, as Debian's packages and the newer wheels do (9.5 and 13
agree on 500 photos); the IJG library of the wheels of 8 rounds JPEGs differently.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Union

import numpy as np
from PIL import Image

from .errors import RunnerError

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels of the decoded photo."""

MAX_PIXELS = 50_000_000
"""Larger photos are refused from their header, before a pixel is decoded. Pillow takes 4 bytes a
pixel, and a copy where a photo is cropped, turned or has a palette: with 48 megapixels the process
had peaks of 328, 403 and 452 MiB (x86-64), which a board with 512 MB has where little else runs."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""The only decoders that are tried: Pillow has some that start other programs (EPS)."""

BICUBIC = 3  # PIL.Image.BICUBIC, whose home has moved between Pillow 8 and now

_ORIENTATION = 0x0112  # the EXIF tag; its values mapped to arguments of Image.transpose
_TRANSPOSE = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


def decode(path: Union[str, "os.PathLike[str]"]) -> Image.Image:
    """The photo as RGB, upright.

    EXIF orientation is applied; alpha is dropped, as `convert("RGB")` does in the usual training
    loaders; of an animation the first frame counts; 16-bit samples keep their high byte.

    Raises:
        RunnerError: (`input`) missing, damaged, truncated, larger than `MAX_PIXELS`, or of a format
            not in `FORMATS`.
    """
    name = Path(path).name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a photo is used or refused: no third way
            with Image.open(path, formats=FORMATS) as image:
                _refuse_bomb(image, name)
                image.load()
                return _rgb(_upright(image))
    except RunnerError:
        raise
    except FileNotFoundError:
        raise RunnerError("input", f"no such photo: {name}") from None
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise RunnerError("input", f"cannot decode {name}: {_first_line(error)}") from error


def _refuse_bomb(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(name)
    if width < 1 or height < 1:
        raise RunnerError("input", f"{name} is empty: {width}x{height} pixels")


def _too_large(name: str) -> RunnerError:
    return RunnerError(
        "input", f"{name} has more than {MAX_PIXELS // 10**6} megapixels", "scale it down first"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    # load() has turned a TIFF, with every Pillow; some (9.4) leave the tag in place all the same.
    if image.format == "TIFF":
        return image
    # Not getexif(): newer Pillows take an orientation from XMP too, older ones do not.
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        orientation = exif.get(_ORIENTATION)
    except Exception:  # a damaged EXIF block does not spoil the photo
        return image
    method = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)  # type: ignore[arg-type]


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # 16-bit gray: convert() would clip it to white, differently from version to version.
        samples = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        image = Image.fromarray(samples.astype(np.uint8))
    elif image.mode == "F":
        raise RunnerError("input", "photos of floating-point samples are not supported")
    elif image.mode == "P":
        image = image.convert("RGBA")  # resolves a transparent colour without a warning
    return image if image.mode == "RGB" else image.convert("RGB")


def centre_box(width: int, height: int, share: float) -> Box:
    """The square in the middle of a `width` x `height` photo.

    Args:
        share: its side as a share of the photo's short side; rounded to whole pixels.
    """
    side = _side(width, height, share)
    return _square(width / 2, height / 2, side, width, height)


def size_index(predicted: Sequence[float], width: int, height: int, sizes: Sequence[float]) -> int:
    """Which of `sizes` the crop for a predicted box takes; arguments as in `crop_box`."""
    edges = _edges(predicted, width, height)
    if edges is None:
        return len(sizes) - 1
    need = max(edges[2] - edges[0], edges[3] - edges[1])
    for index, share in enumerate(sizes):
        if need <= _side(width, height, share):
            return index
    return len(sizes) - 1


def crop_box(predicted: Sequence[float], width: int, height: int, sizes: Sequence[float]) -> Box:
    """The square to crop for a predicted foreground box.

    The box is made square (its shorter side grows), its side is raised to the next of a few sizes,
    and the square is moved inside the photo (EdgeCompress, section on dynamic image cropping).
    Where the box is wider than the photo is high, the square is the largest there is, round the
    box's middle. A box that is empty or not finite counts as "all of it": the largest centred
    square.

    Corners are rounded to whole pixels, so that the last bits of a prediction, which differ between
    machines, do not change the crop.

    Args:
        predicted: x0, y0, x1, y1 as shares of width and height.
        width: of the photo, pixels.
        height: of the photo, pixels.
        sizes: allowed sides as shares of the short side, ascending, the last one 1.
    """
    side = _side(width, height, sizes[size_index(predicted, width, height, sizes)])
    edges = _edges(predicted, width, height)
    if edges is None:
        return _square(width / 2, height / 2, side, width, height)
    left, top, right, bottom = edges
    return _square((left + right) / 2, (top + bottom) / 2, side, width, height)


def _edges(predicted: Sequence[float], width: int, height: int) -> Union[Box, None]:
    """The predicted box in pixels, cut at the photo's edges; None where nothing is left of it."""
    values = [float(value) for value in predicted]
    if len(values) != 4 or not all(math.isfinite(value) for value in values):
        return None
    x0, y0, x1, y1 = (min(max(value, 0.0), 1.0) for value in values)
    if x1 <= x0 or y1 <= y0:
        return None
    return x0 * width, y0 * height, x1 * width, y1 * height


def _side(width: int, height: int, share: float) -> int:
    short = min(width, height)
    return min(max(math.floor(share * short + 0.5), 1), short)


def _square(x: float, y: float, side: int, width: int, height: int) -> Box:
    left = min(max(math.floor(x - side / 2 + 0.5), 0), width - side)
    top = min(max(math.floor(y - side / 2 + 0.5), 0), height - side)
    return float(left), float(top), float(left + side), float(top + side)


def sample(image: Image.Image, box: Box, resolution: int) -> np.ndarray:
    """The part `box` of an RGB photo, resampled once (Pillow's antialiased bicubic).

    The box may have any aspect: `(0, 0, width, height)` squashes the whole photo. What lies outside
    it is not seen.

    Rows and columns are resampled by a call each: with both in one, Pillow 13 begins with the
    columns where a photo is tall, older versions always with the rows, and the rounding between
    the two passes shows in the result.

    Args:
        box: whole pixels, inside the photo.

    Returns:
        uint8 `[1, resolution, resolution, 3]` (NHWC).
    """
    left, top, right, bottom = (int(edge) for edge in box)
    part = image
    if (left, top, right, bottom) != (0, 0, *image.size):
        part = image.crop((left, top, right, bottom))
    part = part.resize((resolution, bottom - top), BICUBIC)  # type: ignore[arg-type]
    part = part.resize((resolution, resolution), BICUBIC)  # type: ignore[arg-type]
    return np.array(part, dtype=np.uint8)[np.newaxis]
