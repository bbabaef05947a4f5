"""Photos whose objects have true boxes: `labels.csv` with the columns `width`, `height` and
`boxes_xyxy`."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompress.errors import InputError

from ...runner.photo import Box
from .imagenet import class_keys, plain_name
from .photos import PhotoSet, find_photos, labelled_csv

COLUMNS = ("width", "height", "boxes_xyxy")
MAX_BOXES = 1000
_LONGEST = 10**6
_HINT = "docs/data.md says what such a table holds"


@dataclass(frozen=True)
class BoxedPhotos:
    """Photos with the true boxes of the objects of their class.

    Attributes:
        photos: files and classes.
        sizes: width and height that the boxes refer to, pixels of the upright photo.
        boxes: of each photo, x0, y0, x1, y1 in those pixels, inside the photo; may be none.
        wnids: WordNet id of each photo's class; "" where the table does not tell.
    """

    photos: PhotoSet
    sizes: tuple[tuple[int, int], ...]
    boxes: tuple[tuple[Box, ...], ...]
    wnids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.photos)

    def known(self, labels: Iterable[str]) -> tuple[bool, ...]:
        """For each photo, whether its class is among a classifier's labels.

        A class is told by its WordNet id or its name; capitals and underscores do not matter.
        """
        wanted = {key for label in labels for key in class_keys(label)}
        names = [plain_name(name) for name in self.photos.labels]
        return tuple(
            names[target] in wanted or wnid in wanted
            for target, wnid in zip(self.photos.targets, self.wnids, strict=True)
        )


def find_boxed(source: str, data_root: Path | None = None) -> BoxedPhotos:
    """A photo set with true boxes.

    Args:
        source: `imagenet-val`, or a folder with such a `labels.csv`.
        data_root: where `imagenet-val` lies; without it `EDGECOMPRESS_DATA`.

    Raises:
        InputError: it is not there, or its table is not one with boxes.
    """
    if source != "imagenet-val":
        return read_boxed(Path(source))
    find_photos(source, data_root)  # says what to set where it is not here
    return read_boxed((data_root or Path(os.environ["EDGECOMPRESS_DATA"])) / source)


def read_boxed(root: Path) -> BoxedPhotos:
    """Read a folder's `labels.csv`, nothing of which is trusted.

    `boxes_xyxy` is JSON, a list of [x0, y0, x1, y1] in pixels; boxes are cut at the photo's edges.

    Raises:
        InputError: the table is missing or damaged, or has a box that is none; the row is named.
    """
    photos = labelled_csv(root)
    path = root / "labels.csv"
    rows = list(_rows(path))
    sizes = tuple(
        (_count(row, "width", where), _count(row, "height", where)) for where, row in rows
    )
    boxes = tuple(
        _boxes(row["boxes_xyxy"], size, where)
        for (where, row), size in zip(rows, sizes, strict=True)
    )
    return BoxedPhotos(photos, sizes, boxes, tuple(row.get("wnid") or "" for _, row in rows))


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row, with its place for an error."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise InputError(f"{path} has no true boxes: no column {', '.join(lacking)}", _HINT)
            for row in reader:
                yield f"{path}, line {reader.line_num}", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _count(row: dict[str, Any], column: str, where: str) -> int:
    value = row[column] or ""
    # Digits are counted before they are read: a number of a million digits takes minutes.
    if not (value.isascii() and value.isdecimal() and len(value) < 7 and int(value) > 0):
        raise InputError(f"{where}: {column} is {value[:40]!r}, not a number of pixels", _HINT)
    return int(value)


def _boxes(cell: str | None, size: tuple[int, int], where: str) -> tuple[Box, ...]:
    if not cell:
        return ()
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        raise _wrong(where, "is not JSON") from None
    if not isinstance(value, list) or len(value) > MAX_BOXES:
        raise _wrong(where, f"is not a list of at most {MAX_BOXES} boxes")
    return tuple(_box(one, size, where) for one in value)


def _box(value: Any, size: tuple[int, int], where: str) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise _wrong(where, "has a box that is not four numbers")
    width, height = size
    x0, x1 = (min(max(float(edge), 0.0), width) for edge in (value[0], value[2]))
    y0, y1 = (min(max(float(edge), 0.0), height) for edge in (value[1], value[3]))
    if x1 <= x0 or y1 <= y0:
        raise _wrong(where, f"has a box with nothing in it: {value}")
    return x0, y0, x1, y1


def _is_number(value: Any) -> bool:
    """A number of pixels; NaN and integers too large for a float are none."""
    wanted = isinstance(value, (int, float)) and not isinstance(value, bool)
    return wanted and -_LONGEST <= value <= _LONGEST


def _wrong(where: str, what: str) -> InputError:
    return InputError(f"{where}: boxes_xyxy {what}", _HINT)
