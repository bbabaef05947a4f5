"""Views that are cut on a GPU are those that the CPU cuts. Where no GPU is, the same products are
computed on the CPU."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.compress.data.augment import Augment, cut_views, draw_regions
from edgecompress.compress.data.loader import PhotoCache
from edgecompress.compress.data.resident import ResidentPhotos, _fit, on_gpu

SIZES = ((40, 56), (61, 40), (40, 40))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _photos() -> tuple[torch.Tensor, ...]:
    """Smooth and hard edges, of several sizes; rows of pixels apart, as decoded photos lie."""
    random = np.random.default_rng(0)
    made = []
    for height, width in SIZES:
        photo = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        photo[: height // 2] = np.linspace(0, 255, width, dtype=np.uint8)[:, None]
        made.append(torch.from_numpy(photo).permute(2, 0, 1))
    return tuple(made)


@pytest.fixture(scope="module")
def cache() -> PhotoCache:
    photos = _photos()
    cached = PhotoCache(photos, torch.arange(len(photos)), tuple(range(len(photos))), ())
    object.__setattr__(cached, "_resident", None)  # the CPU's own way, on a machine with GPUs too
    return cached


@pytest.fixture(scope="module")
def resident() -> ResidentPhotos:
    return ResidentPhotos.of(_photos(), DEVICE)


def _apart(resident, cache, indices, regions, side) -> int:
    """Largest difference from what the CPU cuts, grey levels."""
    seen = torch.tensor(regions, dtype=torch.float64)
    got = resident.cut(indices, seen, side).cpu().int()
    return int((got - cut_views(cache, indices, regions, side).int()).abs().max())


@given(seed=st.integers(0, 10_000), side=st.sampled_from((16, 24, 40, 64)))
def test_views_are_within_a_grey_level_of_the_cpus(cache, resident, seed: int, side: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(len(cache), (7,), generator=generator)
    regions = draw_regions(indices, Augment((0.05, 1.0), ratio=3.0), generator)
    assert _apart(resident, cache, indices, regions, side) <= 1


@given(x=st.tuples(st.floats(0, 1), st.floats(0, 1)), y=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_any_region_gives_at_least_a_pixel(cache, resident, x, y) -> None:
    region = (x[0], min(y), x[1], max(y))
    assert _apart(resident, cache, torch.arange(3), [region] * 3, 8) <= 1


def test_a_part_of_the_wanted_size_is_copied_as_it_is(cache, resident) -> None:
    whole = (0.0, 0.0, 1.0, 1.0)
    assert torch.equal(
        resident.cut(torch.tensor([2]), torch.tensor([whole]), 40)[0].cpu(), cache.pixels[2]
    )


def test_photos_stay_where_they_are_without_a_gpu(monkeypatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_DEVICE", "cpu")
    assert on_gpu(_photos()) is None


def test_photos_that_are_too_many_are_not_all_looked_at() -> None:
    photos = _photos()
    size = sum(photo.numel() for photo in photos)
    assert _fit(photos, size)
    assert not _fit(photos, size - 1)

    class Endless(list):
        def __iter__(self):
            return itertools.repeat(photos[0])

    assert not _fit(Endless(), size)


@pytest.mark.gpu
def test_photos_are_cut_on_the_gpu_where_there_is_one(cache) -> None:
    fresh = PhotoCache(cache.pixels, cache.targets, cache.positions, ())
    views = cut_views(fresh, torch.arange(3), [(0.1, 0.1, 0.9, 0.8)] * 3, 24)
    assert views.device.type == "cuda"
    assert views.dtype == torch.uint8
