"""Decoded photos on disk, for sets that memory cannot hold: written once, mapped afterwards.

They lie in shards, so that a reading that was killed goes on with the shard that it was in, and are
mapped into memory: the operating system keeps what fits, and several processes share it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from edgecompress import events
from edgecompress.errors import InputError
from edgecompress.files import read_json, sha256_json, write_json, writing

from .loader import PhotoCache, left_out, read_pixels
from .photos import PhotoSet, photos_fingerprint

SHARD = 8192
"""Photos a shard."""
_NOTHING = np.zeros(0, np.uint8)
_AHEAD = 256
"""Photos that are decoded before the first of them is written: bounds the memory."""


@dataclass(frozen=True)
class MappedPixels(Sequence[Tensor]):
    """Photos as `PhotoCache.pixels` has them, read where they lie.

    Attributes:
        files: mapped shards, uint8.
        places: int64 `[n, 4]`: shard, offset, height and width of each photo.
    """

    files: tuple[np.ndarray, ...]
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return MappedPixels(self.files, self.places[index])
        shard, offset, height, width = (int(value) for value in self.places[index])
        flat = self.files[shard][offset : offset + 3 * height * width]
        return torch.from_numpy(flat).view(height, width, 3).permute(2, 0, 1)


def mapped_cache(photos: PhotoSet, side: int, folder: Path, label: str = "") -> PhotoCache:
    """`loader.load_cache`, with the pixels in files below `folder`.

    Args:
        side: limit of the short side, pixels.

    Raises:
        InputError: not one photo can be read, or the disk is full.
    """
    home = folder / sha256_json(["shards", photos_fingerprint(photos), side, SHARD])[:16]
    home.mkdir(parents=True, exist_ok=True)
    parts = range(0, len(photos), SHARD)
    with FileLock(home / ".lock"):
        found = [_index(home, number) for number in range(len(parts))]
        todo = [number for number, one in enumerate(found) if one is None]
        total = sum(min(SHARD, len(photos) - number * SHARD) for number in todo)
        if todo:
            pixels = _decoded(photos, side, todo)
            shown = events.track(pixels, label or f"reading {photos.name}", total)
            for number in todo:
                count = min(SHARD, len(photos) - number * SHARD)
                found[number] = _write(home, number, [number * SHARD, count], shown)
    return _open(photos, home, [one for one in found if one is not None])


def _decoded(photos: PhotoSet, side: int, shards: Sequence[int]) -> Iterator[Tensor | str]:
    paths = [p for n in shards for p in photos.paths[n * SHARD : (n + 1) * SHARD]]
    with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
        for start in range(0, len(paths), _AHEAD):
            yield from pool.map(lambda path: read_pixels(path, side), paths[start : start + _AHEAD])


def _write(home: Path, number: int, span: list[int], pixels: Iterator[Tensor | str]) -> dict:
    """One shard, then its index: a shard without index is written again."""
    start, count = span
    places, failed, offset = [], [], 0
    try:
        with writing(home / f"{number:05d}.u8") as temporary, temporary.open("wb") as file:
            for position in range(start, start + count):
                photo = next(pixels)
                if isinstance(photo, str):
                    failed.append([position, photo])
                    continue
                height, width = photo.shape[1:]
                places.append([position, offset, height, width])
                offset += file.write(photo.permute(1, 2, 0).contiguous().numpy().data)
    except OSError as error:
        raise InputError(
            f"cannot write decoded photos to {home}: {error.strerror}",
            'free some space, or keep them in memory: photos = "memory"',
        ) from error
    index = {"size": offset, "places": places, "failed": failed}
    write_json(home / f"{number:05d}.json", index)
    return index


def _index(home: Path, number: int) -> dict | None:
    shard = home / f"{number:05d}.u8"
    try:
        index = read_json(home / f"{number:05d}.json", "index of decoded photos")
        return index if shard.stat().st_size == index["size"] else None
    except (InputError, OSError, KeyError, TypeError):
        return None


def _open(photos: PhotoSet, home: Path, found: Sequence[dict]) -> PhotoCache:
    failed = [(photos.paths[i], cause) for one in found for i, cause in one["failed"]]
    left_out(photos, failed)
    files = tuple(
        np.memmap(home / f"{number:05d}.u8", np.uint8, mode="c")
        if one["size"]
        else np.zeros(0, "u1")
        for number, one in enumerate(found)
    )
    rows = [[n, *place[1:]] for n, one in enumerate(found) for place in one["places"]]
    positions = tuple(place[0] for one in found for place in one["places"])
    return PhotoCache(
        MappedPixels(files, np.array(rows, np.int64)),
        torch.tensor([photos.targets[i] for i in positions]),
        positions,
        tuple(failed),
    )
