"""Decoded photos on disk: the same as in memory, and what a killed reading leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from edgecompress import events
from edgecompress.compress.config import CompressConfig
from edgecompress.compress.data import shards
from edgecompress.compress.data.loader import load_cache
from edgecompress.compress.data.photos import PhotoSet, image_folder
from edgecompress.compress.data.shards import mapped_cache
from edgecompress.compress.training.material import gather
from edgecompress.errors import InputError


@pytest.fixture
def photos(shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PhotoSet:
    """48 photos and one that is damaged, in shards of 20; three of other shapes."""
    monkeypatch.setattr(shards, "SHARD", 20)
    found = image_folder(shapes[0])
    odd = []
    for number, size in enumerate([(40, 90), (91, 33), (7, 5)]):
        Image.new("RGB", size, (number, 90, 200)).save(tmp_path / f"{number}.png")
        odd.append(tmp_path / f"{number}.png")
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    paths = (*found.paths[:30], tmp_path / "bad.jpg", *odd, *found.paths[30:])
    targets = (*found.targets[:30], 0, 1, 1, 1, *found.targets[30:])
    return PhotoSet("shapes", paths, targets, found.labels)


def _reading(photos: PhotoSet, folder: Path) -> tuple[int, list[str]]:
    """How many photos a reading decodes, and what it warns of."""
    seen: list[events.Event] = []
    with events.listening(seen.append):
        mapped_cache(photos, 32, folder)
    totals = [e.total or 0 for e in seen if e.kind == "begin"]
    return sum(totals), [e.text for e in seen if e.kind == "warning"]


def test_as_in_memory(photos: PhotoSet, tmp_path: Path) -> None:
    want, got = load_cache(photos, 32), mapped_cache(photos, 32, tmp_path / "p")
    assert len(got) == len(want) == 51
    assert got.positions == want.positions
    assert got.failed == want.failed
    assert torch.equal(got.targets, want.targets)
    for index, (a, b) in enumerate(zip(got.pixels, want.pixels, strict=True)):
        assert torch.equal(a, b), index
        box = (0.1, 0.2, 0.8, 0.9)
        # The same strides too: a resize then rounds alike.
        assert torch.equal(got.cut(index, box, 24), want.cut(index, box, 24))


def test_only_what_is_missing_is_read_again(photos: PhotoSet, tmp_path: Path) -> None:
    count, warnings = _reading(photos, tmp_path)
    assert count == 52 and "1 photos left out" in warnings[0]
    assert _reading(photos, tmp_path)[0] == 0
    home = next(path for path in tmp_path.iterdir() if len(path.name) == 16)
    shard = home / "00001.u8"
    shard.write_bytes(shard.read_bytes()[:-5])  # cut short
    (home / "00002.json").unlink()  # killed before the index was written
    assert _reading(photos, tmp_path)[0] == 20 + 12
    want = load_cache(photos, 32)
    for a, b in zip(mapped_cache(photos, 32, tmp_path).pixels, want.pixels, strict=True):
        assert torch.equal(a, b)


def test_other_photos_are_other_files(photos: PhotoSet, tmp_path: Path) -> None:
    _reading(photos, tmp_path)
    assert _reading(photos.take(range(40)), tmp_path)[0] == 40
    with pytest.raises(InputError, match="not one photo"):
        mapped_cache(photos.take([30]), 32, tmp_path)


def test_a_job_may_ask_for_it(photos: PhotoSet, tmp_path: Path) -> None:
    settings = CompressConfig.model_validate({"photos": "disk", "base": {"resolution": 32}})
    material = gather(settings, photos, photos, tmp_path)
    memory = gather(settings.model_copy(update={"photos": "memory"}), photos, photos, tmp_path)
    assert (tmp_path / "photos").is_dir() is False
    assert torch.equal(material.fit_cache.targets, memory.fit_cache.targets)
    assert (tmp_path / "photos").is_dir()
    assert torch.equal(
        material.fit_cache.squashed([0, 3], 16), memory.fit_cache.squashed([0, 3], 16)
    )
