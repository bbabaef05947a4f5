"""Trainings that an earlier version kept are found again: hours of them would be done twice.

A step's record is found by the hash of what the step depends on. What lies in `kept/` was written
by a version before; where a change of the code changes such a hash, this fails, and whoever changes
it says so in the changelog and writes the records anew:

    python tests/compress/comparing/test_compress_kept.py
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecompress.compress.comparing.comparison import ComparisonTable, compare, in_order
from edgecompress.compress.config import CompressConfig
from edgecompress.compress.data.photos import PhotoSet, image_folder
from edgecompress.errors import UsageError

KEPT = Path(__file__).parent / "kept"
CONFIG = CompressConfig.model_validate(
    {
        "held_out": 0.25,
        "base": {"family": "resnet18", "width": 0.25, "resolution": 32},
        "train": {"epochs": 1, "batch": 16, "rate": 0.02},
        "predictor": {"resolution": 32, "width": 0.5, "cam_resolution": 64, "epochs": 1},
        "shrink": {"epochs": 1, "shares": [0.5]},
        "members": {"teacher": "largest"},
    }
)
TABLE = ComparisonTable(
    seeds=(0,),
    budgets=(0.7,),
    members=(0.5, 1.0, 1.5625),
    methods=("resolution", "width", "hrank", "depgraph", "member", "member-crop"),
    epochs=1,
    rank_photos=8,
    headline=0.7,
)
WRITTEN = (".json", ".npz")


def _photos(root: Path) -> tuple[PhotoSet, PhotoSet]:
    """Noise in bitmaps: their sizes, which records depend on, are the same with every Pillow."""
    rng = np.random.default_rng(0)
    for kind, count in (("train", 16), ("val", 4)):
        for label in ("dark", "light"):
            folder = root / kind / label
            folder.mkdir(parents=True)
            for index in range(count):
                level = 64 if label == "dark" else 160
                noise = rng.integers(0, 64, (40, 40, 3), dtype=np.uint8) + np.uint8(level)
                Image.fromarray(noise).save(folder / f"{index}.bmp")
    return image_folder(root / "train"), image_folder(root / "val")


@pytest.fixture
def photos(tmp_path: Path) -> tuple[PhotoSet, PhotoSet]:
    return _photos(tmp_path / "photos")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT, tmp_path / "work"))


def test_trainings_of_an_earlier_version_are_found(photos, work: Path) -> None:
    rows = compare(CONFIG, TABLE, photos, work, so_far=True)
    wanted = {"base", "base-longer", "base-larger", *(m for m, _ in in_order(TABLE))}
    assert wanted <= {row.method for row in rows}


def test_other_photos_are_not_taken_for_these(photos, work: Path) -> None:
    first = photos[0].paths[0]
    Image.new("RGB", (41, 40)).save(first)
    with pytest.raises(UsageError, match="nothing has been trained"):
        compare(CONFIG, TABLE, photos, work, so_far=True)


def _keep() -> None:
    """Write `kept/` anew."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        compare(CONFIG, TABLE, _photos(root / "photos"), root / "work")
        shutil.rmtree(KEPT, ignore_errors=True)
        for path in sorted((root / "work").rglob("*")):
            if path.suffix in WRITTEN:
                to = KEPT / path.relative_to(root / "work")
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)


if __name__ == "__main__":
    _keep()
