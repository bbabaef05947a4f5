"""Class activation maps and the boxes drawn round them: the predictor's training targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .families import Network

THRESHOLD = 0.5
"""EdgeCompress: what is above min + 0.5 (max - min) is foreground."""

FLAT = 1e-5
"""A map that varies by less than this share of its values has no foreground."""


def grad_cam(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017) on the last stage, for given classes.

    Args:
        network: in evaluation mode.
        images: normalised `[n, 3, r, r]`; r need not be the training resolution.
        targets: int64 `[n]`.

    Returns:
        `[n, h, w]`, not negative, at the last stage's size.
    """
    with torch.no_grad():
        features = network.forward_features(images)
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        scores = network.forward_head(features).gather(1, targets[:, None]).sum()
        (slope,) = torch.autograd.grad(scores, features)
    weights = slope.mean((2, 3), keepdim=True)
    return F.relu((weights * features.detach()).sum(1))


def plain_cam(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    """CAM (Zhou et al. 2016): the class's linear weights over the last stage's maps.

    For heads of global average and one linear layer. Equal to `grad_cam` up to the number of
    positions, by which the average divides; needs no gradient.

    Returns:
        as `grad_cam`.
    """
    linear = [part for part in network.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        features = network.forward_features(images)
        return F.relu(torch.einsum("nc,nchw->nhw", linear.weight[targets], features))


def cam_boxes(maps: Tensor, size: int, threshold: float = THRESHOLD) -> Tensor:
    """The tight box round what is above the threshold.

    Args:
        maps: `[n, h, w]`.
        size: maps are enlarged to size x size first (bilinear).
        threshold: share of the way from the smallest to the largest value, below 1.

    Returns:
        `[n, 4]`: x0, y0, x1, y1 as shares of the image. A flat map gives the whole image.
    """
    maps = F.interpolate(maps[:, None], size=(size, size), mode="bilinear")[:, 0]
    low = maps.amin((1, 2), keepdim=True)
    high = maps.amax((1, 2), keepdim=True)
    # Enlarging a flat map leaves differences in the last bits: they are not foreground.
    flat = high - low <= FLAT * high.abs().maximum(low.abs())
    mask = flat | (maps >= low + threshold * (high - low))
    x0, x1 = _extent(mask.any(1))
    y0, y1 = _extent(mask.any(2))
    return torch.stack([x0, y0, x1, y1], dim=1) / size


def _extent(hit: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last True along the last axis of `[n, size]`."""
    value = hit.to(torch.float32)
    first = value.argmax(1)
    last = hit.shape[1] - value.flip(1).argmax(1)
    return first.to(torch.float32), last.to(torch.float32)
