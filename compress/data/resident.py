"""Decoded photos in a GPU's memory, and views cut out of them there: a CPU that cuts and resizes
keeps a fast GPU waiting.

All views of a batch are resized by two matrix products, whose weights are those of the antialiased
bicubic resize (Pillow's, and PyTorch's): within a grey level of what `PhotoCache.cut` cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ..machine.devices import chosen_device, sent

LARGEST_SHARE_OF_MEMORY = 0.5
"""Of a GPU's free memory: the rest is for networks."""
_CUBIC = -0.5
"""Pillow's; Keys (1981)."""


@dataclass(frozen=True)
class ResidentPhotos:
    """Photos on a device, one after the other.

    Attributes:
        pixels: uint8 `[bytes]`, each photo as `[3, h, w]`.
        places: int64 `[n, 3]`: offset, height and width of each, on the CPU.
    """

    pixels: Tensor
    places: Tensor

    @staticmethod
    def of(photos: Sequence[Tensor], device: torch.device) -> ResidentPhotos:
        """Photos, uint8 `[3, h, w]` each, copied to a device."""
        sizes = torch.tensor([photo.shape[1:] for photo in photos])
        counts = 3 * sizes.prod(1)
        offsets = counts.cumsum(0) - counts
        pixels = torch.empty(int(counts.sum()), dtype=torch.uint8, device=device)
        for photo, start, count in zip(photos, offsets.tolist(), counts.tolist(), strict=True):
            pixels[start : start + count] = photo.reshape(-1).to(device)
        return ResidentPhotos(pixels, torch.cat([offsets[:, None], sizes], dim=1))

    def cut(self, indices: Tensor, regions: Tensor, resolution: int) -> Tensor:
        """Parts of photos at another size.

        Args:
            indices: int64 `[n]`, on the CPU.
            regions: `[n, 4]` left, top, right, bottom as shares of width and height, on the CPU;
                left > right where the view is mirrored. Edges are rounded to whole pixels.

        Returns:
            uint8 `[n, 3, resolution, resolution]`, on the device.
        """
        places = self.places[indices]
        _, heights, widths = places.unbind(1)
        left, top, right, bottom = regions.to(torch.float64).unbind(1)
        x, width = _spans(torch.minimum(left, right), torch.maximum(left, right), widths)
        y, height = _spans(top, bottom, heights)
        largest = int(width.max()), int(height.max())
        drawn = torch.stack([x, y, width, height, (left > right).long(), *places.T])
        x, y, width, height, mirrored, *place = sent(drawn, self.pixels.device).unbind(0)
        parts = self._parts(place, (x, y), largest)
        across = _weights(width, parts.shape[3], resolution)
        across = torch.where(mirrored[:, None, None] > 0, across.flip(1), across)
        down = _weights(height, parts.shape[2], resolution)
        # Between the two passes Pillow keeps 8 bits, which hold no overshoot.
        narrow = (parts @ across[:, None].mT).clamp(0, 255)
        views = down[:, None] @ narrow
        return views.round().clamp(0, 255).to(torch.uint8)

    def _parts(
        self, place: Sequence[Tensor], corners: tuple[Tensor, Tensor], largest: tuple[int, int]
    ) -> Tensor:
        """float32 `[n, 3, h, w]`, from each photo's corner on; what lies beyond its edge is any
        pixel's value, and has no weight."""
        offset, height, width = (value[:, None, None, None] for value in place)
        x, y = (corner[:, None, None, None] for corner in corners)
        device = self.pixels.device
        columns = torch.arange(largest[0], device=device)
        rows = torch.arange(largest[1], device=device)[:, None]
        plane = torch.arange(3, device=device)[:, None, None] * (height * width)
        across = (x + columns).minimum(width - 1)
        down = (y + rows).minimum(height - 1)
        return self.pixels[offset + plane + down * width + across].to(torch.float32)


def _spans(low: Tensor, high: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """First pixels and lengths, at least 1, between two shares of `size` each, as `loader` has
    them."""
    last = size - 1
    first = (low * size).round().long().clamp(min=0).minimum(last)
    end = (high * size).round().long().maximum(first + 1).minimum(size)
    return first, end - first


def _weights(length: Tensor, most: int, resolution: int) -> Tensor:
    """What each of `most` pixels counts in each of `resolution` ones, `[n, resolution, most]`: the
    first `length` pixels are resized, and the others count nothing."""
    scale = length.to(torch.float32)[:, None, None] / resolution
    wide = scale.clamp(min=1)
    place = torch.arange(most, device=length.device)
    centre = (torch.arange(resolution, device=length.device)[:, None] + 0.5) * scale
    weights = _cubic((place + 0.5 - centre) / wide) * (place < length[:, None, None])
    return weights / weights.sum(2, keepdim=True)


def _cubic(at: Tensor) -> Tensor:
    at = at.abs()
    near = ((_CUBIC + 2) * at - (_CUBIC + 3)) * at * at + 1
    far = _CUBIC * (((at - 5) * at + 8) * at - 4)
    return torch.where(at < 1, near, torch.where(at < 2, far, torch.zeros_like(at)))


def on_gpu(photos: Sequence[Tensor]) -> ResidentPhotos | None:
    """Photos in the memory of this process's GPU; None where it has none, or they are too many for
    it."""
    device = chosen_device()
    if device.type == "cpu":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if not _fit(photos, int(LARGEST_SHARE_OF_MEMORY * free)):
        return None
    return ResidentPhotos.of(photos, device)


def _fit(photos: Sequence[Tensor], room: int) -> bool:
    """Whether photos take at most so many bytes; of far too many, not all are looked at."""
    return all(taken <= room for taken in accumulate(photo.numel() for photo in photos))
