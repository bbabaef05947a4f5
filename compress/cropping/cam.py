"""Class activation maps and the boxes drawn round them: the predictor's training targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecompress.errors import UsageError

from ..choices import CAM_THRESHOLD, CamKind
from ..networks.families import Network

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

    Raises:
        UsageError: the network's head is another one.
    """
    linear = [part for part in network.modules() if isinstance(part, nn.Linear)][-1:]
    with torch.no_grad():
        features = network.forward_features(images)
        if not linear or linear[0].in_features != features.shape[1]:
            raise UsageError(
                "plain activation maps need a network that averages its last maps and has one"
                " linear layer",
                'leave out [compress.predictor] cam, or say cam = "grad"',
            )
        weight = linear[0].weight
        return F.relu(torch.einsum("nc,nchw->nhw", weight[targets], features))


_MAPS = {"grad": grad_cam, "plain": plain_cam}


def mean_maps(
    network: Network,
    views: Sequence[Tensor],
    targets: Tensor,
    size: int,
    kind: CamKind = "grad",
    *,
    mirrored: bool = False,
) -> Tensor:
    """The mean of the maps drawn at several sizes of the photos.

    One map has few positions and changes much with what should not matter, such as mirroring. A
    mean of several changes less, so that the box round it is one that can be learnt.

    Args:
        views: the same photos normalised `[n, 3, r, r]`, for each r that is looked at.
        targets: int64 `[n]`.
        size: side of the result.
        mirrored: look at the mirrored photos, and turn their maps back.

    Returns:
        `[n, size, size]`. Each map counts alike: it is divided by its largest value first.
    """
    drawn = []
    for photos in views:
        maps = _MAPS[kind](network, photos.flip(3) if mirrored else photos, targets)
        drawn.append(_even(maps.flip(2) if mirrored else maps, size))
    return torch.stack(drawn).mean(0)


def _even(maps: Tensor, size: int) -> Tensor:
    """Maps `[n, h, w]` enlarged, their largest value 1; what is flat stays so."""
    maps = maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    return F.interpolate(maps[:, None], size=(size, size), mode="bilinear")[:, 0]


def cam_boxes(maps: Tensor, size: int, threshold: float = CAM_THRESHOLD) -> Tensor:
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
