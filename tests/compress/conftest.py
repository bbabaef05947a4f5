"""Fixtures of the compress room."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from edgecompress.compress.comparing.comparison import ComparisonTable, Row, compare
from edgecompress.compress.config import CompressConfig
from edgecompress.compress.data.photos import PhotoSet, image_folder

CONFIG = CompressConfig.model_validate(
    {
        "held_out": 0.25,
        "base": {"family": "resnet18", "width": 0.25, "resolution": 32},
        "train": {"epochs": 4, "batch": 16, "rate": 0.02, "decay": 0.01, "scale": 0.6},
        "predictor": {"resolution": 32, "width": 0.5, "cam_resolution": 64, "epochs": 1},
        "shrink": {"epochs": 1, "shares": [0.5]},
        "members": {"teacher": "largest"},
    }
)
TABLE = ComparisonTable(
    seeds=(0, 1), budgets=(0.5,), members=(0.3, 1.0, 1.5625), epochs=1, rank_photos=16, headline=0.6
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@dataclass(frozen=True)
class Compared:
    """A comparison on a set small enough for seconds, and what it was made of."""

    config: CompressConfig
    table: ComparisonTable
    photos: tuple[PhotoSet, PhotoSet]
    work: Path
    rows: list[Row]


@pytest.fixture(scope="session")
def compared(shapes, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    train, val = (image_folder(path) for path in shapes)
    work = tmp_path_factory.mktemp("comparison")
    return Compared(CONFIG, TABLE, (train, val), work, compare(CONFIG, TABLE, (train, val), work))
