"""What a photo costs before the first network: decoding, and cropping with its resampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgecompress.runner.photo import crop_box, decode, sample

SIZES = (0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG of half a megapixel with smooth and busy parts, as photos have them."""
    across = np.linspace(0, 255, 800)[None, :, None]
    down = np.linspace(0, 255, 600)[:, None, None]
    noise = np.random.default_rng(0).normal(0, 12, (600, 800, 3))
    pixels = np.clip((across + down * [1, 0.5, 0.2]) / 2 + noise, 0, 255)
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=85)
    return path


def test_decode(benchmark: Any, photo: Path) -> None:
    image = benchmark(decode, photo)
    assert image.size == (800, 600)


@pytest.mark.parametrize("resolution", [96, 224])
def test_crop(benchmark: Any, photo: Path, resolution: int) -> None:
    image = decode(photo)
    box = crop_box((0.2, 0.1, 0.6, 0.7), *image.size, SIZES)
    tensor = benchmark(sample, image, box, resolution)
    assert tensor.shape == (1, resolution, resolution, 3)
