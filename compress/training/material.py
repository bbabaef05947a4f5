"""The photos of a compression: split, decoded once, and looked at through predicted crops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgecompress.errors import InputError

from ...runner.photo import Box, centre_box, crop_box
from ...runner.spec import Preprocess
from ..budget import LARGEST_SHARE
from ..config import CompressConfig
from ..data.loader import Crop, PhotoCache, load_cache, runner_inputs, whole
from ..data.photos import PhotoSet, shared
from ..data.shards import mapped_cache
from ..networks.families import Network
from ..networks.network import NetworkSpec
from .tasks import Held, run_batched

# Mean and deviation of ImageNet's pixels, as everybody uses them, in 0..255.
IMAGENET_PIXELS = Preprocess((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

CACHE_MARGIN = math.sqrt(LARGEST_SHARE)
"""Cached photos are so much larger than the base's input: random crops then still have pixels."""


_INPUTS = 2048
"""Photos whose network inputs are held at a time: whole batches of `run_batched`."""


def _after(start: int, crop: Crop) -> Crop:
    """The crops of a part of a list that begins there."""
    return lambda number, width, height: crop(start + number, width, height)


def centred(_: int, width: int, height: int) -> Box:
    """The largest square in the middle: where a cascade without predictor looks."""
    return centre_box(width, height, 1.0)


@dataclass(frozen=True)
class Material:
    """Photos to train on, photos held out, and photos to report on.

    Attributes:
        fit: trained on.
        held: part of the training photos that no training sees; everything is decided on them.
        val: only reported on.
        side: short side of cached photos.
        shards: folder for the decoded photos to train on and to hold out; None keeps them in
            memory.
    """

    fit: PhotoSet
    held: PhotoSet
    val: PhotoSet
    side: int
    preprocess: Preprocess = IMAGENET_PIXELS
    shards: Path | None = None

    @cached_property
    def fit_cache(self) -> PhotoCache:
        """The photos to train on."""
        if self.shards is not None:
            return mapped_cache(self.fit, self.side, self.shards)
        return load_cache(self.fit, self.side)

    @cached_property
    def held_cache(self) -> PhotoCache:
        """The photos held out."""
        if self.shards is not None:
            return mapped_cache(self.held, self.side, self.shards)
        return load_cache(self.held, self.side)

    @cached_property
    def val_cache(self) -> PhotoCache:
        """The photos to report on; small, since only who can be read matters."""
        return load_cache(self.val, 16)

    def held_inputs(self, resolution: int, crop: Crop) -> Held:
        """The held-out photos as the runner gives them to a network, with their classes."""
        cache = self.held_cache
        inputs = runner_inputs(self.held, cache.positions, crop, resolution)
        return Held(inputs, cache.targets)

    def logits(
        self, photos: PhotoSet, cache: PhotoCache, crop: Crop, member: tuple[NetworkSpec, Network]
    ) -> np.ndarray:
        """A member's logits `[n, classes]` for the readable photos of a set."""
        return self._outputs(photos, cache, crop, member).numpy()

    def predicted(
        self,
        photos: PhotoSet,
        cache: PhotoCache,
        predictor: tuple[NetworkSpec, Network],
        sizes: tuple[float, ...],
    ) -> Crop:
        """The crops that the predictor leads to, on the runner's own path."""
        boxes = self._outputs(photos, cache, whole, predictor).tolist()
        return lambda number, width, height: crop_box(boxes[number], width, height, sizes)

    def _outputs(
        self, photos: PhotoSet, cache: PhotoCache, crop: Crop, member: tuple[NetworkSpec, Network]
    ) -> Tensor:
        """What a network says of the readable photos of a set `[n, k]`; few of its inputs are in
        memory at a time, as those of ImageNet's validation photos would take it all."""
        spec, network = member
        parts = []
        for start in range(0, len(cache.positions), _INPUTS):
            some = cache.positions[start : start + _INPUTS]
            inputs = runner_inputs(photos, some, _after(start, crop), spec.resolution)
            parts.append(run_batched(network, inputs, self.preprocess))
        return torch.cat(parts)

    def fit_crops(self, predictor: tuple[NetworkSpec, Network], sizes: tuple[float, ...]) -> Tensor:
        """Predicted crops of the photos to train on `[n, 4]`, shares of width and height."""
        spec, network = predictor
        cache = self.fit_cache
        boxes = []
        for part in torch.arange(len(cache)).split(256):
            squashed = cache.squashed(part.tolist(), spec.resolution)
            boxes.append(run_batched(network, squashed.permute(0, 2, 3, 1), self.preprocess))
        crops = []
        for photo, box in zip(cache.pixels, torch.cat(boxes).tolist(), strict=True):
            height, width = photo.shape[1:]
            left, top, right, bottom = crop_box(box, width, height, sizes)
            crops.append((left / width, top / height, right / width, bottom / height))
        return torch.tensor(crops)


def require_apart(learn: PhotoSet, report_on: PhotoSet) -> None:
    """Refuse photos to report on that have other classes, or are trained on.

    Raises:
        InputError: they have, or are.
    """
    if learn.labels != report_on.labels:
        raise InputError(
            f"{learn.name} and {report_on.name} have different classes",
            "give both the same folders",
        )
    if both := shared([learn], report_on):
        raise InputError(
            f"{both} of the {len(report_on)} photos of {report_on.name} are trained on, too: their"
            " accuracy would say nothing of others",
            "let [data] photos be photos that are not below [data] train",
        )


def gather(settings: CompressConfig, learn: PhotoSet, report_on: PhotoSet, work: Path) -> Material:
    """The photos of a compression: `learn` is split, `report_on` is only looked at in the end."""
    fit, held = learn.hold_out(settings.held_out, settings.seed)
    if not len(held):
        raise InputError(
            f"{learn.name} has one photo of each class: none can be held out to decide on",
            "give each class two photos or more",
        )
    side = round(CACHE_MARGIN * settings.base.resolution)
    shards = work / "photos" if settings.photos == "disk" else None
    return Material(fit, held, report_on, side, shards=shards)
