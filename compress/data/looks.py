"""The looks of views: colours that are not the photo's own, and a part that is blank. What a
network learns from few photos should not hang on either."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from ..machine.devices import sent
from .augment import Augment

BLANK_AREA = (0.02, 0.33)
"""Of a view, smallest and largest (Zhong et al. 2020)."""
BLANK_RATIO = 10 / 3
"""Largest aspect of a blank part, and 1 / smallest (as above)."""
_LUMA = (0.299, 0.587, 0.114)
"""What red, green and blue count in grey (ITU-R BT.601)."""


def draw_looks(count: int, augment: Augment, generator: Generator) -> Tensor | None:
    """Random looks, float64 `[count, 7]`: factors of brightness, contrast and saturation, then the
    blank part's left, top, right and bottom as shares of the view, all 0 where there is none. None
    where views keep their looks: then nothing random is drawn."""
    if not (augment.jitter or augment.erase):
        return None
    drawn = torch.rand(count, 8, generator=generator, dtype=torch.float64)
    colours, area, aspect, place, blank = drawn.split((3, 1, 1, 2, 1), dim=1)
    smallest, largest = BLANK_AREA
    share = smallest + area * (largest - smallest)
    ratio = torch.exp((2 * aspect - 1) * math.log(BLANK_RATIO))
    sides = torch.cat([share * ratio, share / ratio], dim=1).sqrt().clamp(max=1)
    corner = place * (1 - sides)
    edges = torch.cat([corner, corner + sides], dim=1) * (blank < augment.erase)
    return torch.cat([1 + augment.jitter * (2 * colours - 1), edges], dim=1)


def changed(views: Tensor, looks: Tensor, filling: tuple[float, float, float]) -> Tensor:
    """Views with other looks. Saturation is changed first, then brightness, then contrast.

    Args:
        views: uint8 `[n, 3, r, r]`.
        looks: `[n, 7]` of `draw_looks`, on the CPU.
        filling: what blank pixels are, red, green and blue in 0..255.
    """
    side = views.shape[-1]
    pixels = views.to(torch.float32).flatten(2)
    told = sent(torch.cat(_linear(looks), dim=2).to(torch.float32), views.device)
    matrix, of_means = told.split(3, dim=2)
    offset = torch.bmm(of_means, pixels.mean(2, keepdim=True)) + 0.5  # fractions are cut off below
    pixels = torch.baddbmm(offset, matrix, pixels).clamp_(0, 255)
    result = pixels.to(torch.uint8).view_as(views)
    # Pixels whose centre is in the part.
    corners = (looks[:, 3:] * side - 0.5).ceil().int().tolist()
    for view, (left, top, right, bottom) in zip(result, corners, strict=True):
        if right > left and bottom > top:
            for channel, value in zip(view, filling, strict=True):
                channel[top:bottom, left:right] = round(value)
    return result


def _linear(looks: Tensor) -> tuple[Tensor, Tensor]:
    """What makes a view's new colours out of its own, `[n, 3, 3]`, and what is added to them out of
    its mean colours, `[n, 3, 3]`: all three changes are linear."""
    brightness, contrast, saturation = (looks[:, i, None, None] for i in range(3))
    grey = looks.new_tensor(_LUMA).expand(3, 3)
    colours = saturation * torch.eye(3, dtype=looks.dtype) + (1 - saturation) * grey
    return brightness * contrast * colours, brightness * (1 - contrast) * grey
