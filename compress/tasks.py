"""What networks learn: classes of photos, and boxes round their foreground."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..runner.spec import Preprocess
from .augment import Augment, draw, mixing
from .boxes import BoxLoss, box_loss, iou
from .evaluate import normalise
from .loader import PhotoCache
from .train import Recipe


def run_batched(
    network: nn.Module, photos: Tensor, preprocess: Preprocess, batch: int = 128
) -> Tensor:
    """Outputs for uint8 NHWC photos `[n, r, r, 3]`, `[n, k]`; the network in evaluation mode."""
    with torch.inference_mode():
        parts = [network(normalise(part, preprocess)) for part in photos.split(batch)]
    return torch.cat(parts)


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
class Teacher:
    """A trained network that sees what the student sees, at its own resolution.

    Attributes:
        logits: normalised `[n, 3, r, r]` to logits `[n, classes]`.
        resolution: r.
    """

    logits: Callable[[Tensor], Tensor]
    resolution: int


@dataclass(frozen=True)
class ClassifyTask:
    """Cross-entropy with label smoothing, and a teacher where there is one.

    Attributes:
        crops: predicted crops of all photos `[n, 4]` (shares); None: whole photos.
    """

    cache: PhotoCache
    resolution: int
    preprocess: Preprocess
    augment: Augment
    held: Held
    crops: Tensor | None = None
    teacher: Teacher | None = None

    @property
    def size(self) -> int:
        """Photos an epoch."""
        return len(self.cache)

    def batch(
        self, indices: Tensor, generator: Generator, share: float = 1.0
    ) -> tuple[Tensor, Any]:
        """Random views, with classes and the teacher's logits of the same views."""
        side = self._side(share)
        drawn = side if self.teacher is None else max(side, self.teacher.resolution)
        views, _ = draw(self.cache, indices, drawn, self.augment, generator, crops=self.crops)
        targets = self.cache.targets[indices]
        mixed = mixing(len(indices), self.augment.mixup, generator)
        taught = None
        if self.teacher is not None:
            seen = self._inputs(views, self.teacher.resolution)
            with torch.no_grad():
                taught = self.teacher.logits(_mixed(seen, mixed))
        others = None if mixed is None else (targets[mixed[0]], mixed[1])
        return _mixed(self._inputs(views, side), mixed), (targets, others, taught)

    def _side(self, share: float) -> int:
        """A share of the resolution in whole steps of 8 pixels, not below 32."""
        if share >= 1:
            return self.resolution
        return min(max(32, 8 * round(share * self.resolution / 8)), self.resolution)

    def _inputs(self, views: Tensor, resolution: int) -> Tensor:
        if views.shape[-1] != resolution:
            size = (resolution, resolution)
            views = F.interpolate(views, size=size, mode="bicubic", antialias=True)
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


@dataclass(frozen=True)
class BoxTask:
    """The foreground predictor's task: the box of the whole photo, squashed.

    Attributes:
        boxes: of each photo `[n, 4]`, shares.
    """

    cache: PhotoCache
    boxes: Tensor
    resolution: int
    preprocess: Preprocess
    augment: Augment
    kind: BoxLoss
    held: Held

    @property
    def size(self) -> int:
        """Photos an epoch."""
        return len(self.cache)

    def batch(
        self, indices: Tensor, generator: Generator, share: float = 1.0
    ) -> tuple[Tensor, Any]:
        """Random views, with the part of each box that is in view; always at the whole side, for
        which the regressor is made."""
        views, regions = draw(self.cache, indices, self.resolution, self.augment, generator)
        inputs = normalise(views.permute(0, 2, 3, 1), self.preprocess)
        return inputs, view_boxes(self.boxes[indices], regions)

    def loss(self, outputs: Tensor, wanted: Any, recipe: Recipe) -> Tensor:
        """See `boxes.box_loss`."""
        return box_loss(outputs, wanted, self.kind)

    def measure(self, network: nn.Module) -> float:
        """Mean IoU on the photos held out."""
        found = run_batched(network, self.held.inputs, self.preprocess)
        return iou(found, self.held.wanted).mean().item()


def view_boxes(boxes: Tensor, regions: Tensor) -> Tensor:
    """Boxes of photos in the coordinates of views of them, cut at the views' edges.

    Args:
        boxes: `[n, 4]`, shares of the photo.
        regions: `[n, 4]`, what each view shows; left > right where it is mirrored.
    """
    near, far = regions[:, :2], regions[:, 2:]
    corners = torch.stack([boxes[:, :2], boxes[:, 2:]], dim=1)
    inside = ((corners - near[:, None]) / (far - near)[:, None]).clamp(0, 1)
    return torch.cat([inside.amin(1), inside.amax(1)], dim=1)
