"""What classifiers learn, and what a step of any task sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ...runner.spec import Preprocess
from ..data.augment import ALL, Augment, cut_views, draw_regions, mixing
from ..data.loader import PhotoCache
from ..data.looks import changed, draw_looks
from ..data.pixels import normalise
from ..machine.devices import enough_memory, placed, sent
from ..recipe import Recipe
from .teacher import Teacher, view_key


def run_batched(
    network: nn.Module, photos: Tensor, preprocess: Preprocess, batch: int = 128
) -> Tensor:
    """Outputs for uint8 NHWC photos `[n, r, r, 3]`, float32 `[n, k]` on the CPU; the network in
    evaluation mode. It runs on this process's device (`devices.placed`)."""
    with torch.inference_mode(), enough_memory("running a network"), placed(network) as device:
        parts = [network(normalise(p.to(device), preprocess)).cpu() for p in photos.split(batch)]
    return torch.cat(parts).float()


@dataclass(frozen=True)
class Held:
    """Photos held out, as the runner would give them to a network.

    Attributes:
        inputs: uint8 `[n, r, r, 3]`.
        wanted: classes int64 `[n]`, or boxes `[n, 4]`.
    """

    inputs: Tensor
    wanted: Tensor


@dataclass(frozen=True)
class Views:
    """What a step sees, before it is normalised.

    Attributes:
        views: uint8 `[n, 3, r, r]`.
        wanted: classes int64 `[n]`, or boxes `[n, 4]`.
        side: of the network's input; at most r.
        mixed: with which other each is mixed int64 `[n]`, and the share of its own; None: not.
        keys: of each view (`teacher.view_key`); None: nobody asks for them.
    """

    views: Tensor
    wanted: Tensor
    side: int
    mixed: tuple[Tensor, float] | None = None
    keys: tuple[bytes, ...] | None = None

    def to(self, device: torch.device) -> Views:
        """On a device (`devices.sent`)."""
        mixed = None if self.mixed is None else (sent(self.mixed[0], device), self.mixed[1])
        return replace(
            self, views=sent(self.views, device), wanted=sent(self.wanted, device), mixed=mixed
        )


@dataclass(frozen=True)
class CachedTask:
    """A task on photos whose pixels are at hand."""

    cache: PhotoCache

    @property
    def size(self) -> int:
        """Photos an epoch."""
        return len(self.cache)

    @property
    def resident(self) -> bool:
        """Whether views are cut on a GPU."""
        return self.cache.resident is not None


@dataclass(frozen=True)
class ClassifyTask(CachedTask):
    """Cross-entropy with label smoothing, and a teacher where there is one.

    Attributes:
        crops: predicted crops of all photos `[n, 4]` (shares); None: whole photos.
    """

    resolution: int
    preprocess: Preprocess
    augment: Augment
    held: Held
    crops: Tensor | None = None
    teacher: Teacher | None = None

    def draw(
        self, indices: Tensor, generator: Generator, share: float = 1.0, part: slice = ALL
    ) -> Callable[[], Views]:
        """Random views of some photos, at the larger of the network's and the teacher's sides."""
        side = self._side(share)
        drawn = side if self.teacher is None else max(side, self.teacher.resolution)
        regions = draw_regions(indices, self.augment, generator, self.crops)[part]
        looks = draw_looks(len(indices), self.augment, generator)
        looks = None if looks is None else looks[part]
        mixed = mixing(len(indices), self.augment.mixup, generator, part)
        own = indices[part]
        keys = None
        if self.teacher is not None and self.teacher.memory is not None and mixed is None:
            changes = [()] * len(own) if looks is None else looks.tolist()
            viewed = zip(own.tolist(), regions, changes, strict=True)
            keys = tuple(view_key(index, (*region, *look), drawn) for index, region, look in viewed)

        def make() -> Views:
            views = cut_views(self.cache, own, regions, drawn)
            if looks is not None:
                views = changed(views, looks, self.preprocess.mean)
            return Views(views, self.cache.targets[own], side, mixed, keys)

        return make

    def ready(self, drawn: Views) -> tuple[Tensor, Any]:
        """Inputs, with classes and the teacher's logits of the same views."""
        mixed, targets, taught = drawn.mixed, drawn.wanted, None
        if self.teacher is not None:
            side = self.teacher.resolution
            taught = self.teacher.answers(
                drawn.keys, lambda: _mixed(self._inputs(drawn.views, side), mixed)
            )
            taught = sent(taught, drawn.views.device)
        others = None if mixed is None else (targets[mixed[0]], mixed[1])
        return _mixed(self._inputs(drawn.views, drawn.side), mixed), (targets, others, taught)

    def _side(self, share: float) -> int:
        """A share of the resolution in whole steps of 8 pixels, not below 32."""
        if share >= 1:
            return self.resolution
        return min(max(32, 8 * round(share * self.resolution / 8)), self.resolution)

    def _inputs(self, views: Tensor, resolution: int) -> Tensor:
        if views.shape[-1] != resolution:
            size = (resolution, resolution)
            # A GPU resizes no uint8.
            source = views if views.device.type == "cpu" else views.float()
            views = F.interpolate(source, size=size, mode="bicubic", antialias=True).clamp(0, 255)
        return normalise(views.permute(0, 2, 3, 1), self.preprocess)

    def loss(self, outputs: Tensor, wanted: Any, recipe: Recipe) -> Tensor:
        """Cross-entropy, mixed with the divergence from the teacher (Hinton et al. 2015)."""
        targets, others, taught = wanted
        hard = F.cross_entropy(outputs, targets, label_smoothing=recipe.smoothing)
        if others is not None:
            second = F.cross_entropy(outputs, others[0], label_smoothing=recipe.smoothing)
            hard = others[1] * hard + (1 - others[1]) * second
        if taught is None or recipe.distil == 0:
            return hard
        t = recipe.distil_temperature
        soft = F.kl_div(
            F.log_softmax(outputs / t, 1),
            F.log_softmax(taught / t, 1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - recipe.distil) * hard + recipe.distil * t * t * soft

    def measure(self, network: nn.Module) -> float:
        """Top-1 on the photos held out."""
        logits = run_batched(network, self.held.inputs, self.preprocess)
        return (logits.argmax(1) == self.held.wanted).to(torch.float32).mean().item()


def _mixed(inputs: Tensor, mixed: tuple[Tensor, float] | None) -> Tensor:
    """Photos `[n, 3, r, r]`, each with the share that another one has of it."""
    if mixed is None:
        return inputs
    order, share = mixed
    return share * inputs + (1 - share) * inputs[order]
