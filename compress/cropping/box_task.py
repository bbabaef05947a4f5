"""What a foreground predictor learns: boxes round the foreground of photos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ...runner.spec import Preprocess
from ..choices import BoxLoss
from ..data.augment import ALL, Augment, cut_views, draw_regions
from ..data.pixels import normalise
from ..machine.devices import device_of, mixed_precision
from ..networks.families.predictor import EDGES
from ..recipe import Recipe
from ..training.tasks import CachedTask, Held, Views, run_batched
from .boxes import box_loss, iou
from .guided import guide_loss, guides_of


@dataclass(frozen=True)
class BoxTask(CachedTask):
    """The foreground predictor's task: the box of the whole photo, squashed.

    Attributes:
        boxes: of each photo `[n, 4]`, shares.
        maps: that they were drawn round `[n, s, s]`, for a `Guided` predictor; None: it learns
            nothing but boxes.
    """

    boxes: Tensor
    resolution: int
    preprocess: Preprocess
    augment: Augment
    kind: BoxLoss
    held: Held
    maps: Tensor | None = None

    def draw(
        self, indices: Tensor, generator: Generator, share: float = 1.0, part: slice = ALL
    ) -> Callable[[], Views]:
        """Random views, with the part of each box that is in view; always at the whole side, for
        which the regressor is made."""
        side, own = self.resolution, indices[part]
        regions = draw_regions(indices, self.augment, generator)[part]
        seen = torch.tensor(regions)
        wanted = view_boxes(self.boxes[own], seen)
        if self.maps is not None:
            guides = guides_of(self.maps[own], seen, self.cache.targets[own])
            wanted = torch.cat([wanted, guides], dim=1)
        return lambda: Views(cut_views(self.cache, own, regions, side), wanted, side)

    def ready(self, drawn: Views) -> tuple[Tensor, Any]:
        """Inputs and boxes."""
        return normalise(drawn.views.permute(0, 2, 3, 1), self.preprocess), drawn.wanted

    def loss(self, outputs: Tensor, wanted: Any, recipe: Recipe) -> Tensor:
        """See `boxes.box_loss`, and `guided.guide_loss`."""
        loss = box_loss(outputs[:, :EDGES], wanted[:, :EDGES], self.kind)
        if self.maps is not None:
            loss = loss + guide_loss(outputs, wanted, recipe.smoothing)
        return loss

    def measure(self, network: nn.Module) -> float:
        """Mean IoU on the photos held out; in float32, as edges of 8 bits are coarse."""
        with mixed_precision("float32", device_of(network)):
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
