"""A long list of photos for the long runs, from Imagenette: repeats and corrupt files among them.

    .venv/bin/python tests/long/make_photos.py $EDGECOMPRESS_DATA/imagenette160 FOLDER

FOLDER is then what a job's `photos` may name. The same arguments give the same list.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
from pathlib import Path

REPEATED = 0.07
"""Share of entries whose content is listed before: half the same file again, half a copy."""

CORRUPT = 0.03
"""Share of entries that are no photos: half cut off, a quarter empty, a quarter text."""


def make_photos(imagenette: Path, into: Path, count: int, seed: int = 0) -> Path:
    """Write `labels.csv` and `classes.csv` with `count` entries, and what files they need.

    Args:
        imagenette: the folder with `train` and `val`, a folder for each class in both.
        into: the new folder.
    """
    rng = random.Random(seed)
    found = sorted(path for path in imagenette.glob("*/*/*") if path.is_file())
    classes = sorted({path.parent.name for path in found})
    corrupt, repeated = round(CORRUPT * count), round(REPEATED * count)
    originals = rng.sample(found, count - corrupt - repeated)
    entries = [(path, classes.index(path.parent.name)) for path in originals]
    own = into / "files"
    own.mkdir(parents=True)
    for number, (path, target) in enumerate(rng.sample(entries, repeated)):
        if number % 2:
            path = shutil.copyfile(path, own / f"copy{number:05}.jpg")  # noqa: PLW2901
        entries.append((path, target))
    for number in range(corrupt):
        path = own / f"corrupt{number:05}.jpg"
        path.write_bytes(_corrupt(number, rng.choice(originals)))
        entries.append((path, rng.randrange(len(classes))))
    rng.shuffle(entries)
    rows = [("file", "class_index"), *((str(path.resolve()), target) for path, target in entries)]
    _write(into / "labels.csv", rows)
    _write(into / "classes.csv", [("class_index", "name"), *enumerate(classes)])
    return into


def _corrupt(number: int, original: Path) -> bytes:
    content = original.read_bytes()
    return (content[: len(content) // 2], b"", content[:300], f"no photo {number}\n".encode())[
        number % 4
    ]


def _write(path: Path, rows: list[tuple[object, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagenette", type=Path)
    parser.add_argument("into", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    given = parser.parse_args()
    make_photos(given.imagenette, given.into, given.count)
