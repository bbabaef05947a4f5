"""A foreground predictor while it learns: its features also draw the map that its box was drawn
round, and name the class. Four numbers a photo say little of why they are so; the map has a number
for each place, and what is foreground hangs on what is shown. Both heads are gone afterwards.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.families.predictor import EDGES, HIDDEN, ForegroundPredictor

KEPT_SIDE = 16
"""Of the maps that are kept for training."""
CELLS = 8
"""A view's map has so many cells on each side."""
MAP_WEIGHT, CLASS_WEIGHT = 1.0, 0.3
"""Of the cells' and the classes' cross-entropy beside the loss of the box."""


class Guided(nn.Module):
    """The predictor with its guides: in training boxes, cells' logits and classes' logits in one
    row `[n, 4 + CELLS**2 + classes]`; else boxes alone, `[n, 4]`."""

    def __init__(self, predictor: ForegroundPredictor, classes: int) -> None:
        super().__init__()
        self.predictor = predictor
        first = predictor.regressor[0]
        assert isinstance(first, nn.Linear)
        self.cells = nn.Linear(first.in_features, CELLS**2)
        self.classes = nn.Linear(HIDDEN, classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if not self.training:
            return self.predictor(x)
        features = self.predictor.forward_features(x).flatten(1)
        hidden = self.predictor.hidden(features)
        boxes = self.predictor.boxes(hidden)
        guides = torch.cat([self.cells(features), self.classes(hidden)], dim=1)
        return torch.cat([boxes, guides.to(boxes.dtype)], dim=1)


def guides_of(maps: Tensor, regions: Tensor, targets: Tensor) -> Tensor:
    """What the guides of some views are to say, `[n, CELLS**2 + 1]`: cells in 0..1, and the class.

    Args:
        maps: of the photos `[n, s, s]`, in 0..1.
        regions: `[n, 4]`, what each view shows; left > right where it is mirrored.
        targets: classes `[n]`.
    """
    places = (torch.arange(CELLS) + 0.5) / CELLS
    near, far = regions[:, :2, None], regions[:, 2:, None]
    x, y = (near + (far - near) * places).unbind(1)
    grid = torch.stack(
        [x[:, None, :].expand(-1, CELLS, -1), y[:, :, None].expand(-1, -1, CELLS)], dim=-1
    )
    seen = F.grid_sample(
        maps.float()[:, None], 2 * grid - 1, padding_mode="border", align_corners=False
    )
    return torch.cat([seen.flatten(1).clamp(0, 1), targets[:, None].float()], dim=1)


def guide_loss(outputs: Tensor, wanted: Tensor, smoothing: float) -> Tensor:
    """A scalar: cross-entropy of cells and of classes, weighted.

    Args:
        outputs: `Guided`'s, in training.
        wanted: boxes and `guides_of`, in one row.
    """
    cells = slice(EDGES, EDGES + CELLS**2)
    maps = F.binary_cross_entropy_with_logits(outputs[:, cells], wanted[:, cells])
    named = F.cross_entropy(
        outputs[:, cells.stop :], wanted[:, cells.stop].long(), label_smoothing=smoothing
    )
    return MAP_WEIGHT * maps + CLASS_WEIGHT * named
