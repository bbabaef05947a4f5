"""Photos in memory as uint8, so that decoding is paid once and not every epoch.

A photo's short side is limited when it is read: 9,469 photos of 160 x 160 take 727 MB, of 96 x 96
262 MB. Batches are cut out of it by PyTorch's antialiased resize, which agrees with Pillow's, the
runner's, within a grey level.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from edgecompress import events
from edgecompress.errors import InputError

from ...runner.errors import RunnerError
from ...runner.photo import Box, decode, sample
from ..machine.devices import cores
from .photos import PhotoSet
from .resident import ResidentPhotos, on_gpu

T = TypeVar("T")

BICUBIC = Image.Resampling.BICUBIC
_COPYING = Lock()


@dataclass(frozen=True)
class PhotoCache:
    """Decoded photos of a set; those that cannot be read are left out and named.

    Attributes:
        pixels: uint8 `[3, h, w]` each.
        targets: int64 `[n]`.
        positions: of each, its index in the set.
        failed: path and cause of each photo that could not be read.
    """

    pixels: Sequence[Tensor]
    targets: Tensor
    positions: tuple[int, ...]
    failed: tuple[tuple[Path, str], ...]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def resident(self) -> ResidentPhotos | None:
        """The photos in a GPU's memory (`resident.on_gpu`), copied there once."""
        with _COPYING:  # several threads cut views
            return self._resident

    @cached_property
    def _resident(self) -> ResidentPhotos | None:
        return on_gpu(self.pixels)

    def cut(self, index: int, box: Sequence[float], resolution: int) -> Tensor:
        """Part of a photo at another size.

        Args:
            box: left, top, right, bottom as shares of width and height; rounded to whole pixels.

        Returns:
            uint8 `[3, resolution, resolution]`.
        """
        photo = self.pixels[index]
        height, width = photo.shape[1:]
        left, right = _span(box[0], box[2], width)
        top, bottom = _span(box[1], box[3], height)
        part = photo[None, :, top:bottom, left:right]
        if part.shape[-2:] == (resolution, resolution):
            return part[0]
        size = (resolution, resolution)
        return F.interpolate(part, size=size, mode="bicubic", antialias=True)[0]

    def squashed(self, indices: Sequence[int], resolution: int) -> Tensor:
        """Whole photos, squashed: uint8 `[n, 3, resolution, resolution]`, on the GPU where there is
        one."""
        if self.resident is not None:
            boxes = torch.tensor([(0.0, 0.0, 1.0, 1.0)]).expand(len(indices), 4)
            return self.resident.cut(torch.tensor(indices), boxes, resolution)
        return torch.stack([self.cut(i, (0, 0, 1, 1), resolution) for i in indices])


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """At least one pixel between two shares of `size`."""
    first = min(max(round(low * size), 0), size - 1)
    return first, min(max(round(high * size), first + 1), size)


def load_cache(photos: PhotoSet, side: int, label: str = "") -> PhotoCache:
    """Decode a set, short sides limited to `side` pixels.

    Raises:
        InputError: not one photo can be read.
    """
    pixels, positions = [], []
    failed = []
    # Pillow decodes without the interpreter's lock: two threads read twice as fast.
    with ThreadPoolExecutor(max(2, cores())) as pool:
        results = pool.map(lambda path: read_pixels(path, side), photos.paths)
        shown = events.track(results, label or f"reading {photos.name}", len(photos))
        for position, result in enumerate(shown):
            if isinstance(result, str):
                failed.append((photos.paths[position], result))
            else:
                pixels.append(result)
                positions.append(position)
    left_out(photos, failed)
    targets = torch.tensor([photos.targets[i] for i in positions])
    return PhotoCache(tuple(pixels), targets, tuple(positions), tuple(failed))


def read_pixels(path: Path, side: int) -> Tensor | str:
    """A photo with its short side limited, uint8 `[3, h, w]`; or why it cannot be read."""
    try:
        return _pixels(decode(path), side)
    except RunnerError as error:
        return error.message


def left_out(photos: PhotoSet, failed: Sequence[tuple[Path, str]]) -> None:
    """Say which photos of a set could not be read.

    Raises:
        InputError: none could.
    """
    if len(failed) == len(photos):
        cause = f": {failed[0][1]}" if failed else ""
        raise InputError(
            f"not one photo of {photos.name} can be read{cause}", "check the folder and its files"
        )
    if failed:
        events.warn(f"{photos.name}: {len(failed)} photos left out, the first: {failed[0][1]}")


def _pixels(image: Image.Image, side: int) -> Tensor:
    width, height = image.size
    short = min(width, height)
    if short > side:
        size = (round(width * side / short), round(height * side / short))
        image = image.resize(size, BICUBIC)
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)


def ahead(makers: Iterator[Callable[[], T]], workers: int) -> Iterator[T]:
    """What the makers make, in their order, up to two a worker beforehand. The makers themselves
    are taken one after the other by the caller's thread."""
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[T]] = deque()
    try:
        for make in makers:
            waiting.append(pool.submit(make))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


Crop = Callable[[int, int, int], Box]
"""(number in the list, width, height of the decoded photo) -> crop in its pixels."""


def whole(_: int, width: int, height: int) -> Box:
    """The whole photo: sampling squashes it."""
    return 0.0, 0.0, float(width), float(height)


def runner_inputs(
    photos: PhotoSet, positions: Sequence[int], crop: Crop, resolution: int
) -> Tensor:
    """The runner's own network inputs: what the board sees, for validation and calibration.

    Args:
        positions: which photos of the set; they must be readable.
        crop: where to look in each.

    Returns:
        uint8 `[n, resolution, resolution, 3]`.
    """

    inputs = np.empty((len(positions), resolution, resolution, 3), np.uint8)

    def read(item: tuple[int, int]) -> None:
        number, position = item
        image = decode(photos.paths[position])
        inputs[number] = sample(image, crop(number, *image.size), resolution)[0]

    with ThreadPoolExecutor(max(2, cores())) as pool:
        for _ in pool.map(read, enumerate(positions)):
            pass
    return torch.from_numpy(inputs)
