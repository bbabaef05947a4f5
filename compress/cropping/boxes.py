"""Boxes as tensors `[n, 4]` (x0, y0, x1, y1): overlap, losses, and the best box for all photos."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..choices import BoxLoss

_EPSILON = 1e-7

L1_WEIGHT = 1.0
"""Of the edges' absolute error beside 1 - GIoU; DETR (Carion et al. 2020) has 5 beside 2."""


def _areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union."""
    near = torch.maximum(a[:, :2], b[:, :2])
    far = torch.minimum(a[:, 2:], b[:, 2:])
    common = (far - near).clamp(min=0).prod(1)
    each = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    return common, each - common


def _hull(a: Tensor, b: Tensor) -> Tensor:
    """Width and height of the smallest box round both, `[n, 2]`."""
    return torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each pair, `[n]`."""
    common, union = _areas(a, b)
    return common / union.clamp(min=_EPSILON)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of each pair (Rezatofighi et al. 2019), in -1..1, `[n]`."""
    common, union = _areas(a, b)
    hull = _hull(a, b).prod(1)
    return common / union.clamp(min=_EPSILON) - (hull - union) / hull.clamp(min=_EPSILON)


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU of each pair (Zheng et al. 2020), at most 1, `[n]`.

    IoU less the squared distance of the middles, as a share of the hull's diagonal, and less what
    the aspects differ by. The aspect's weight has no gradient, as in the authors' code.
    """
    overlap = iou(a, b)
    apart = ((a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]) / 2).square().sum(1)
    diagonal = _hull(a, b).square().sum(1).clamp(min=_EPSILON)
    aspect = 4 / math.pi**2 * (_angle(a) - _angle(b)).square()
    with torch.no_grad():
        weight = aspect / (1 - overlap + aspect).clamp(min=_EPSILON)
    return overlap - apart / diagonal - weight * aspect


def _angle(boxes: Tensor) -> Tensor:
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    return torch.atan(width / height.clamp(min=_EPSILON))


_OVERLAPS = {"iou": iou, "giou": giou, "ciou": ciou}


def box_loss(predicted: Tensor, wanted: Tensor, kind: BoxLoss) -> Tensor:
    """A scalar: `mse` on the edges as in the paper; 1 - GIoU or 1 - CIoU; or, with `l1+`, such an
    overlap and the edges' absolute error added up, `L1_WEIGHT` times (as in DETR)."""
    if kind == "mse":
        return F.mse_loss(predicted, wanted)
    overlap = _OVERLAPS[kind.removeprefix("l1+")]
    loss = (1 - overlap(predicted, wanted)).mean()
    if kind.startswith("l1+"):
        loss = loss + L1_WEIGHT * (predicted - wanted).abs().sum(1).mean()
    return loss


def best_constant(boxes: Tensor, steps: int = 200) -> Tensor:
    """The one box `[4]` that overlaps all boxes best on average, `boxes` being `[n, 4]`.

    Adam from their mean, from their median and from the whole photo; the best of the three. What
    always says this box knows where objects are on average, and sees nothing.
    """
    whole = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    found = [_climb(one, boxes, steps) for one in (boxes.mean(0), boxes.median(0).values, whole)]
    return max(found, key=lambda one: mean_iou(one, boxes))


def mean_iou(box: Tensor, boxes: Tensor) -> float:
    """Mean IoU of one box `[4]` with many `[n, 4]`."""
    return iou(box[None].expand_as(boxes), boxes).mean().item()


def _climb(start: Tensor, boxes: Tensor, steps: int) -> Tensor:
    box = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([box], lr=0.01)
    best, best_loss = start, math.inf
    for _ in range(steps):
        with torch.enable_grad():
            loss = (1 - iou(box[None].expand_as(boxes), boxes)).mean()
        if loss.item() < best_loss:
            best, best_loss = box.detach().clone(), loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return best.clamp(0, 1)
