"""MobileNetV2 (Sandler et al. 2018) with depth and width multipliers; torchvision's names."""

from __future__ import annotations

import math

from torch import Tensor, nn

from .layers import init_weights, scaled_channels
from .registry import Network, register

# Expansion, channels, blocks, stride of the first block (the paper's table 2).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _unit(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise 3x3, project (1x1); a shortcut where shapes allow.

    Args:
        inner: channels between the two 1x1; None: the inputs are not expanded.
    """

    def __init__(self, inputs: int, inner: int | None, outputs: int, stride: int) -> None:
        super().__init__()
        expand = [] if inner is None else [_unit(inputs, inner, 1, 1)]
        wide = inputs if inner is None else inner
        self.conv = nn.Sequential(
            *expand,
            _unit(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, h, w]` to `[n, outputs, h/stride, w/stride]`."""
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(Network):
    """Stem, seven stages of inverted residuals, 1x1 convolution, global average, linear layer.

    `depth` multiplies the blocks of stages that have more than one, rounded up; `width` multiplies
    all channels, the last convolution's only above 1 (as in the paper); `inner` what blocks expand
    to.
    """

    def __init__(
        self, width: float, depth: float, classes: int, *, multiple: int = 8, inner: float = 1.0
    ) -> None:
        super().__init__()
        channels = scaled_channels(32, width, multiple)
        layers: list[nn.Module] = [_unit(3, channels, 3, 2)]
        stages: list[tuple[str, ...]] = []
        for expansion, outputs, blocks, stride in STAGES:
            wide = scaled_channels(outputs, width, multiple)
            count = math.ceil(blocks * depth) if blocks > 1 else 1
            stages.append(tuple(f"features.{len(layers) + step}" for step in range(count)))
            for step in range(count):
                expanded = scaled_channels(channels * expansion, inner, multiple)
                by = stride if step == 0 else 1
                layers.append(
                    InvertedResidual(channels, expanded if expansion > 1 else None, wide, by)
                )
                channels = wide
        last = scaled_channels(1280, max(1.0, width), multiple)
        layers.append(_unit(channels, last, 1, 1))
        self.features = nn.Sequential(*layers)
        self._stages = tuple(stages)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))
        init_weights(self)

    def block_names(self) -> tuple[tuple[str, ...], ...]:
        """All blocks are numbered through, as torchvision has them."""
        return self._stages

    def forward_features(self, x: Tensor) -> Tensor:
        """The last convolution's maps."""
        return self.features(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Global average, then the linear layer."""
        return self.classifier(x.mean((2, 3)))


@register("mobilenet_v2")
def _mobilenet_v2(
    width: float,
    depth: float,
    resolution: int,
    classes: int,
    *,
    multiple: int = 8,
    inner: float = 1.0,
) -> MobileNetV2:
    return MobileNetV2(width, depth, classes, multiple=multiple, inner=inner)
