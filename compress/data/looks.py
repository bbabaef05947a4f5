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
    pixels = views.to(torch.float32)
    told = sent(looks.to(torch.float32), views.device)[..., None, None]
    brightness, contrast, saturation = (told[:, i : i + 1] for i in range(3))
    # Numbers, not tensors: a GPU would wait for these to be copied.
    red, green, blue = (share * pixels[:, c : c + 1] for c, share in enumerate(_LUMA))
    grey = red + green + blue
    # All three are linear: one product a pixel, and a shade for all three colours of it.
    mean = grey.mean((2, 3), keepdim=True)
    scale = brightness * contrast
    shade = grey * (scale * (1 - saturation)) + mean * (brightness * (1 - contrast))
    pixels.mul_(scale * saturation).add_(shade)
    centres = (torch.arange(views.shape[-1], device=views.device) + 0.5) / views.shape[-1]
    left, top, right, bottom = (told[:, i, :, 0] for i in range(3, 7))
    across, down = (left <= centres) & (centres < right), (top <= centres) & (centres < bottom)
    blank = down[:, :, None] & across[:, None, :]
    for channel, value in enumerate(filling):
        pixels[:, channel].masked_fill_(blank, value)
    return pixels.round_().clamp_(0, 255).to(torch.uint8)
