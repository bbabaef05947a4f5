"""Parts that several families share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least `divisor`, never below 90 % of `channels`.

    The rule of MobileNetV2 and EfficientNet (Sandler et al. 2018, Tan and Le 2019).
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def scaled_channels(channels: int, width: float, multiple: int, own: float = 1.0) -> int:
    """`channels` times the multiplier `width`, rounded by `round_channels` to `multiple`.

    Narrowing never adds channels: the published number stays where it is no multiple of 16, and at
    width 1 in any case.

    Args:
        own: the published network's own multiplier (EfficientNet's variants).
    """
    published = round_channels(channels * own)
    if width == 1:
        return published
    rounded = round_channels(channels * (width * own), multiple)
    return min(rounded, published) if width < 1 else rounded


def thin_stages(blocks: Sequence[int], depth: float) -> tuple[int, ...]:
    """Blocks per stage at depth multiplier `depth`: at least one each.

    The total is `depth` times the total, rounded; blocks go (or, above 1, come) one at a time:
    each from the stage that has most of them, the earliest of equals; added where the original
    had most for each it has now.
    """
    counts = list(blocks)
    total = max(len(counts), math.floor(depth * sum(blocks) + 0.5))
    while sum(counts) > total:
        counts[counts.index(max(counts))] -= 1
    while sum(counts) < total:
        wanted = [original / count for original, count in zip(blocks, counts, strict=True)]
        counts[wanted.index(max(wanted))] += 1
    return tuple(counts)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding (before, after) for an input of `size` pixels."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, fixed for one input size.

    Where both sides are padded alike it is a plain convolution; else constant padding goes before
    it, which export folds into the convolution's own attribute.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, size: int, *, groups: int = 1
    ) -> None:
        before, after = same_padding(size, kernel, stride)
        even = before == after
        super().__init__(
            inputs, outputs, kernel, stride, before if even else 0, groups=groups, bias=False
        )
        self.before_after = None if even else (before, after)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name for it
        """Pad where needed, then convolve."""
        if self.before_after is not None:
            before, after = self.before_after
            input = F.pad(input, (before, after, before, after))  # noqa: A001
        return super().forward(input)


def init_weights(module: nn.Module) -> None:
    """He's initialisation for convolutions, small normal values for linear layers."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0.0, 0.01)
            nn.init.zeros_(part.bias)
