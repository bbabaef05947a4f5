"""crops.html: the numbers of `crops`, and some photos with their boxes; nothing outside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from edgecompress.files import write_text

from ..compress.data.true_boxes import BoxedPhotos
from ..runner.errors import RunnerError
from ..runner.photo import Box, decode
from .crops import CROP, HEAD, Looked, Overlap, Sight, overlap, rows_of, sentences
from .template import environment

PICTURES = 12
SIDE = 240

Rect = tuple[float, float, float, float]
"""x, y, width, height in a picture's pixels."""


@dataclass(frozen=True)
class Picture:
    """A small photo with its boxes, in its own pixels.

    Attributes:
        uri: the JPEG as a data URI.
        width: pixels.
        height: pixels.
        objects: true boxes.
        found: the predicted box; None where there was none.
        crop: what the members see.
        truth: name of the photo's class.
        overlap: of the crop.
    """

    uri: str
    width: int
    height: int
    objects: tuple[Rect, ...]
    found: Rect | None
    crop: Rect
    truth: str
    overlap: Overlap


def choose(looked: Looked, photos: BoxedPhotos, count: int = PICTURES) -> list[Picture]:
    """Photos evenly spread from the worst crop to the best, by the share of the objects in it,
    then by IoU: nobody has picked them."""

    def quality(sight: Sight) -> tuple[float, float, int]:
        met = _met(sight)
        return met.recall, met.iou, sight.index

    ordered = sorted(looked.sights, key=quality)
    last, count = len(ordered) - 1, min(count, len(ordered))
    steps = [round(i * last / max(count - 1, 1)) for i in range(count)]
    drawn = (_picture(ordered[step], photos) for step in steps)
    return [one for one in drawn if one is not None]


def _met(sight: Sight) -> Overlap:
    return overlap(sight.regions[CROP], sight.objects, sight.width, sight.height)


def _picture(sight: Sight, photos: BoxedPhotos) -> Picture | None:
    try:
        image = decode(photos.photos.paths[sight.index])
    except RunnerError:
        return None  # it was readable a moment ago
    scale = SIDE / max(image.size)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))

    def drawn(box: Box) -> Rect:
        left, top, right, bottom = (round(edge * scale, 1) for edge in box)
        return left, top, right - left, bottom - top

    return Picture(
        uri=_data_uri(small),
        width=small.width,
        height=small.height,
        objects=tuple(map(drawn, sight.objects)),
        found=None if sight.predicted is None else drawn(sight.predicted),
        crop=drawn(sight.regions[CROP]),
        truth=photos.photos.labels[photos.photos.targets[sight.index]].replace("_", " "),
        overlap=_met(sight),
    )


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_crops(told: Mapping[str, Any], pictures: Sequence[Picture], path: Path) -> None:
    """Write the page. Everything that comes from a cascade or a table is escaped."""
    page = (
        environment().get_template("crops.html.j2").render(**page_values(told), pictures=pictures)
    )
    write_text(path, page)


def page_values(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the template's part with the numbers needs."""
    return {
        "crops": told,
        "crops_head": HEAD,
        "crops_rows": rows_of(told),
        "crops_sentences": sentences(told),
    }
