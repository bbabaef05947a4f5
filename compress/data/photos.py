"""Labelled photos: where they are and what is on them. Nothing is decoded here.

Missing or damaged files are found when they are read (`loader`, `evaluate`), counted there, and
never end a job.
"""

from __future__ import annotations

import csv
import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgecompress import wheels
from edgecompress.errors import InputError
from edgecompress.files import cache_dir, sha256_file

from .imagenet import IMAGENETTE_NAMES, class_names

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

_PLAIN = (".bmp", ".tif", ".tiff")
"""Formats that may not compress: photos of equal sides have equal sizes."""
_MOST_DIGITS = 6
"""Of a class index; nobody has a million classes."""

FOOLBOX = wheels.Wheel(
    "foolbox==3.3.4", "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb"
)


@dataclass(frozen=True)
class PhotoSet:
    """Photos of one set, in a fixed order.

    Attributes:
        name: what the set is called in reports.
        paths: the files.
        targets: class index of each photo.
        labels: name of each class.
    """

    name: str
    paths: tuple[Path, ...]
    targets: tuple[int, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.targets):
            raise ValueError("a target for each photo")

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int]) -> PhotoSet:
        """Some of the photos, in the order of `indices`."""
        return replace(
            self,
            paths=tuple(self.paths[i] for i in indices),
            targets=tuple(self.targets[i] for i in indices),
        )

    def limit(self, count: int | None) -> PhotoSet:
        """At most `count` photos, evenly spread over the set, so that a sorted tree keeps all
        its classes; the same ones each time."""
        if count is None or count >= len(self):
            return self
        return self.take([i * len(self) // count for i in range(count)])

    def hold_out(self, share: float, seed: int) -> tuple[PhotoSet, PhotoSet]:
        """Two disjoint sets: the rest, and about `share` of each class (at least one photo of a
        class that has two)."""
        held: list[int] = []
        order = random.Random(seed)
        classes: dict[int, list[int]] = {}
        for index, target in enumerate(self.targets):
            classes.setdefault(target, []).append(index)
        for _, members in sorted(classes.items()):
            order.shuffle(members)
            count = min(max(1, round(share * len(members))), len(members) - 1)
            held += members[:count]
        chosen = set(held)
        rest = [i for i in range(len(self)) if i not in chosen]
        return self.take(rest), replace(self.take(sorted(held)), name=f"{self.name}, held out")


def shared(used: Sequence[PhotoSet], measured: PhotoSet) -> int:
    """How many photos of `measured` are also used, under whatever name: a link is no other one."""
    files = {_file(path) for path in measured.paths} - {None}
    return len(files & {_file(path) for photos in used for path in photos.paths})


def _file(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def photos_fingerprint(photos: PhotoSet) -> str:
    """A hash of names, sizes and classes, and of the content where a size says nothing of it:
    changes when photos come, go or are replaced by others than of equal size."""
    digest = hashlib.sha256()
    for path, target in zip(photos.paths, photos.targets, strict=True):
        size = path.stat().st_size if path.exists() else -1
        line = f"{path.parent.name}/{path.name} {size} {_content(path)}{target}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _content(path: Path) -> str:
    """A hash of a photo's content and a space, of formats that need it; '' if it cannot be read."""
    if path.suffix.lower() not in _PLAIN:
        return ""
    try:
        return sha256_file(path) + " "
    except OSError:
        return ""


def foolbox_photos() -> PhotoSet:
    """The twenty ImageNet photos that the `foolbox` package ships (fetched once).

    Raises:
        InputError: the package cannot be fetched, or is not the pinned one.
    """
    folder = cache_dir("photos", FOOLBOX.key)
    pattern = "foolbox/data/imagenet_*.jpg"
    if not (folder / "complete").exists():
        wheels.extract(FOOLBOX, lambda name: name.startswith("foolbox/data/imagenet_"), folder)
        (folder / "complete").touch()
    paths = sorted(folder.glob(pattern))
    targets = tuple(int(path.stem.rsplit("_", 1)[1]) for path in paths)
    return PhotoSet("foolbox", tuple(paths), targets, class_names())


def image_folder(root: Path) -> PhotoSet:
    """One folder a class, photos below it; classes in the order of their folders' names.

    Raises:
        InputError: no such folder, fewer than two classes, or a class without photos.
    """
    if not root.is_dir():
        raise InputError(
            f"no such folder: {root}", "give a folder with one folder of photos a class"
        )
    folders = sorted(
        entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not folders:
        raise InputError(
            f"no class folders in {root}", f"put the photos into {root}/<class>/<photo>.jpg"
        )
    paths: list[Path] = []
    targets: list[int] = []
    for index, folder in enumerate(folders):
        found = _photos_below(folder)
        if not found:
            raise InputError(
                f"class folder without photos: {folder}", f"put photos in, or: rmdir {folder}"
            )
        paths += found
        targets += [index] * len(found)
    if len(folders) < 2:
        raise InputError(
            f"only one class in {root}: {folders[0].name}", "a classifier needs two or more folders"
        )
    labels = tuple(IMAGENETTE_NAMES.get(folder.name, _label(folder.name)) for folder in folders)
    return PhotoSet(root.name, tuple(paths), tuple(targets), labels)


def _label(name: str) -> str:
    """A folder's name as a class's, which reports hold too: bytes that are no UTF-8 are escaped."""
    return name.encode(errors="backslashreplace").decode()


def _photos_below(folder: Path) -> list[Path]:
    """Photos at any depth, sorted. Links to folders are followed, into each folder once; what is
    hidden is left out: it is a program's own copy."""
    found: list[Path] = []
    seen: set[tuple[int, int] | None] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if (own := _file(Path(place))) in seen:
            folders.clear()
            continue
        seen.add(own)
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(place, name) for name in files if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    return sorted(found)


def labelled_csv(root: Path) -> PhotoSet:
    """A folder with `labels.csv` (columns `file`, `class_index`) and, optionally, `classes.csv`
    (columns `class_index`, `name`). Without the latter the labels are ImageNet-1K's.

    Raises:
        InputError: the table is missing, damaged or empty.
    """
    rows = _table(root / "labels.csv", ("file", "class_index"))
    if not rows:
        raise InputError(f"no photos in {root / 'labels.csv'}", "give it one row a photo")
    paths = tuple(root / row["file"] for row in rows)
    targets = tuple(_index(row, root / "labels.csv") for row in rows)
    classes = root / "classes.csv"
    if classes.exists():
        names = {
            _index(row, classes): row["name"] for row in _table(classes, ("class_index", "name"))
        }
        labels = tuple(names.get(i, str(i)) for i in range(max([*names, *targets]) + 1))
    else:
        labels = class_names()
    if max(targets) >= len(labels):
        raise InputError(f"{root / 'labels.csv'} has class {max(targets)} of {len(labels)}")
    return PhotoSet(root.name, paths, targets, labels)


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if not set(columns) <= set(reader.fieldnames or ()):
                raise InputError(f"{path} lacks a column of: {', '.join(columns)}")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    for number, row in enumerate(rows, 1):
        for column in columns:
            if not row[column]:
                raise InputError(
                    f"{path}: row {number} has no {column}", "give it one, or delete it"
                )
    return rows


def _index(row: dict[str, str], path: Path) -> int:
    value = row["class_index"]
    # Digits are counted before they are read: a number of a million digits takes minutes.
    if not (value.isdecimal() and len(value) <= _MOST_DIGITS):
        raise InputError(f"{path}: class_index is {value[:40]!r}, not a number from 0")
    return int(value)


def find_photos(source: str, data_root: Path | None = None) -> PhotoSet:
    """The photo set that a job file names.

    Args:
        source: `foolbox`, `imagenet-val`, `imagenette/train`, `imagenette/val`, or a folder: with
            a `labels.csv`, or with one folder a class.
        data_root: where `imagenet-val` and `imagenette160` lie; without it `EDGECOMPRESS_DATA`.
            Imagenette is also found where `edgecompress data get` put it.

    Raises:
        InputError: it is not there, or not a photo set.
    """
    if data_root is None and os.environ.get("EDGECOMPRESS_DATA"):
        data_root = Path(os.environ["EDGECOMPRESS_DATA"])
    if source == "foolbox":
        return foolbox_photos()
    if source == "imagenet-val":
        if data_root is None or not (data_root / source).is_dir():
            raise InputError(
                "no imagenet-val photos here", "set EDGECOMPRESS_DATA to the folder that holds them"
            )
        return labelled_csv(data_root / source)
    if source in ("imagenette/train", "imagenette/val"):
        return _imagenette(source.split("/")[1], data_root)
    root = Path(source)
    return labelled_csv(root) if (root / "labels.csv").exists() else image_folder(root)


def _imagenette(split: str, data_root: Path | None) -> PhotoSet:
    places = [cache_dir("data") / "imagenette2-160" / split]
    if data_root is not None:
        places.insert(0, data_root / "imagenette160" / split)
    for place in places:
        if place.is_dir():
            found = image_folder(place)
            return replace(found, name=f"imagenette/{split}")
    raise InputError(
        "Imagenette is not here", "edgecompress data get imagenette, or set EDGECOMPRESS_DATA"
    )
