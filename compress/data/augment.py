"""Random views of cached photos: which part of a photo a training step sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from .loader import PhotoCache


@dataclass(frozen=True)
class Augment:
    """How views are drawn.

    Attributes:
        scale: smallest and largest area of a random-resized crop, as a share of its region.
        ratio: largest aspect (and 1 / smallest) of it.
        predicted: probability that the region is the photo's predicted crop, where there are some;
            half of the rest are predicted crops shifted by up to a quarter of their side, half are
            the whole photo (the paper mixes the same three).
        mixup: each photo is mixed with another by a share from Beta(mixup, mixup) (Zhang et al.
            2018); 0 is not at all.
        jitter: brightness, contrast and saturation of a view are multiplied by a factor each,
            between 1 - jitter and 1 + jitter.
        erase: probability that a part of a view is blank (random erasing, Zhong et al. 2020).
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: float = 4 / 3
    predicted: float = 0.6
    mixup: float = 0.0
    jitter: float = 0.0
    erase: float = 0.0


ALL = slice(None)

Region = tuple[float, float, float, float]
"""left, top, right, bottom as shares of width and height."""


def random_region(region: Region, augment: Augment, generator: Generator) -> Region:
    """A random-resized crop (Szegedy et al. 2015) of a region."""
    area, aspect, x, y = torch.rand(4, generator=generator).tolist()
    low, high = augment.scale
    share = low + area * (high - low)
    ratio = math.exp((2 * aspect - 1) * math.log(augment.ratio))
    width = min(math.sqrt(share * ratio), 1.0)
    height = min(math.sqrt(share / ratio), 1.0)
    left, top, right, bottom = region
    x0 = left + x * (1 - width) * (right - left)
    y0 = top + y * (1 - height) * (bottom - top)
    return x0, y0, x0 + width * (right - left), y0 + height * (bottom - top)


def mixed_region(crop: Region, augment: Augment, generator: Generator) -> Region:
    """The predicted crop, a shifted one, or the whole photo."""
    choice, dx, dy = torch.rand(3, generator=generator).tolist()
    if choice < augment.predicted:
        return crop
    if choice < (1 + augment.predicted) / 2:
        return _shift(crop, (dx - 0.5) / 2, (dy - 0.5) / 2)
    return 0.0, 0.0, 1.0, 1.0


def _shift(crop: Region, dx: float, dy: float) -> Region:
    left, top, right, bottom = crop
    width, height = right - left, bottom - top
    x = min(max(left + dx * width, 0.0), 1 - width)
    y = min(max(top + dy * height, 0.0), 1 - height)
    return x, y, x + width, y + height


def mixing(
    count: int, mixup: float, generator: Generator, part: slice = ALL
) -> tuple[Tensor, float] | None:
    """With which other each of `count` photos is mixed, and the share of its own; None: not.

    Args:
        part: of the photos; they are mixed among themselves.
    """
    if not mixup:
        return None
    order = torch.randperm(count, generator=generator)
    if part != ALL:
        # Ranks of a part's random numbers are a random order of it.
        order = order[part].argsort().argsort()
    # PyTorch has no beta distribution that takes a generator.
    seed = int(torch.randint(2**31, (), generator=generator))
    return order, float(np.random.default_rng(seed).beta(mixup, mixup))


def draw(
    cache: PhotoCache,
    indices: Tensor,
    resolution: int,
    augment: Augment,
    generator: Generator,
    *,
    crops: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A batch of random views, mirrored half of the time.

    Args:
        indices: int64 `[n]` into the cache.
        crops: predicted crops of all photos `[len(cache), 4]`, shares; None: whole photos.

    Returns:
        uint8 `[n, 3, resolution, resolution]`, and the regions `[n, 4]` that were seen.
    """
    regions = draw_regions(indices, augment, generator, crops)
    return cut_views(cache, indices, regions, resolution), torch.tensor(regions)


def draw_regions(
    indices: Tensor, augment: Augment, generator: Generator, crops: Tensor | None = None
) -> list[Region]:
    """What each of `draw`'s views shows; a mirrored one has its x edges swapped (left > right)."""
    return [_region(index, augment, generator, crops) for index in indices.tolist()]


def cut_views(
    cache: PhotoCache, indices: Tensor, regions: Sequence[Region], resolution: int
) -> Tensor:
    """Views of photos, uint8 `[n, 3, resolution, resolution]`, on the GPU where there is one.
    Nothing is random in it, and several threads may cut at once."""
    if cache.resident is not None:
        return cache.resident.cut(indices, torch.tensor(regions, dtype=torch.float64), resolution)
    views = []
    for index, (x0, y0, x1, y1) in zip(indices.tolist(), regions, strict=True):
        view = cache.cut(index, (min(x0, x1), y0, max(x0, x1), y1), resolution)
        views.append(view.flip(-1) if x0 > x1 else view)
    return torch.stack(views)


def _region(index: int, augment: Augment, generator: Generator, crops: Tensor | None) -> Region:
    region: Region = (0.0, 0.0, 1.0, 1.0)
    if crops is not None:
        left, top, right, bottom = crops[index].tolist()
        region = mixed_region((left, top, right, bottom), augment, generator)
    x0, y0, x1, y1 = random_region(region, augment, generator)
    mirrored = torch.rand((), generator=generator).item() < 0.5
    return (x1, y0, x0, y1) if mirrored else (x0, y0, x1, y1)
