"""Photos as trainings and tables take them: in parts, and from memory or disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgecompress.compress.config import CompressConfig
from edgecompress.compress.data.photos import image_folder
from edgecompress.compress.data.shards import MappedPixels
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.training import material as material_module
from edgecompress.compress.training.material import Material, gather

CONFIG = CompressConfig.model_validate(
    {"held_out": 0.25, "base": {"width": 0.125, "resolution": 32}}
)


def gathered(shapes: tuple[Path, Path], work: Path, photos: str = "memory") -> Material:
    train, val = (image_folder(root) for root in shapes)
    return gather(CONFIG.model_copy(update={"photos": photos}), train, val, work)


def test_answers_in_parts_are_those_at_once(shapes, tmp_path: Path, monkeypatch) -> None:
    material = gathered(shapes, tmp_path)
    spec = NetworkSpec("resnet18", 0.125, 0.5, 32, 2)
    member = (spec, spec.build().eval())

    def corner(number: int, width: int, height: int) -> tuple[float, float, float, float]:
        """Another one for each photo."""
        return 0.0, 0.0, width / (1 + number % 7), height / (1 + number % 7)

    def answers() -> np.ndarray:
        return material.logits(material.val, material.val_cache, corner, member)

    whole = answers()
    monkeypatch.setattr(material_module, "_INPUTS", 5)
    assert whole.shape == (16, 2)
    np.testing.assert_allclose(answers(), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["fit", "held"])
def test_photos_on_disk_are_those_in_memory(kind: str, shapes, tmp_path: Path) -> None:
    here = getattr(gathered(shapes, tmp_path), f"{kind}_cache")
    there = getattr(gathered(shapes, tmp_path, "disk"), f"{kind}_cache")
    assert isinstance(there.pixels, MappedPixels)
    assert torch.equal(here.targets, there.targets)
    for one, other in zip(here.pixels, there.pixels, strict=True):
        assert torch.equal(one, other)
