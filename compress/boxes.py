"""Boxes as tensors `[n, 4]` (x0, y0, x1, y1): overlap and losses."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

BoxLoss = Literal["giou", "mse"]
_EPSILON = 1e-7


def _areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union."""
    near = torch.maximum(a[:, :2], b[:, :2])
    far = torch.minimum(a[:, 2:], b[:, 2:])
    common = (far - near).clamp(min=0).prod(1)
    each = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    return common, each - common


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each pair, `[n]`."""
    common, union = _areas(a, b)
    return common / union.clamp(min=_EPSILON)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of each pair (Rezatofighi et al. 2019), in -1..1, `[n]`."""
    common, union = _areas(a, b)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    return common / union.clamp(min=_EPSILON) - (hull - union) / hull.clamp(min=_EPSILON)


def box_loss(predicted: Tensor, wanted: Tensor, kind: BoxLoss) -> Tensor:
    """`mse` on the edges as in the paper, or `giou` (1 - GIoU), averaged."""
    if kind == "mse":
        return F.mse_loss(predicted, wanted)
    return (1 - giou(predicted, wanted)).mean()
