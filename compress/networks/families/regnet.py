"""RegNet-X and RegNet-Y (Radosavovic et al. 2020) with multipliers; torchvision's names.

Y is X with squeeze-and-excitation (Hu et al. 2018). `w` multiplies the widths of stem and stages;
a group of the grouped convolutions keeps its width, so that narrowing takes whole groups.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from torch import Tensor, nn

from .layers import init_weights, round_channels, scaled_channels, thin_stages
from .registry import Network, register

STEM = 32
QUANTUM = 8
SQUEEZE = 0.25


@dataclass(frozen=True)
class Design:
    """The parameters of the paper's linear rule.

    Attributes:
        depth: blocks.
        start: width of the first one (w_0).
        slope: what each block adds to it (w_a).
        step: quantised widths are powers of it times `start` (w_m).
        group: channels of a group.
    """

    depth: int
    start: int
    slope: float
    step: float
    group: int


DESIGNS = {
    "x_200mf": Design(13, 24, 36.44, 2.49, 8),
    "x_400mf": Design(22, 24, 24.48, 2.54, 16),
    "x_600mf": Design(16, 48, 36.97, 2.24, 24),
    "x_800mf": Design(16, 56, 35.73, 2.28, 16),
    "x_1_6gf": Design(18, 80, 34.01, 2.25, 24),
    "y_200mf": Design(13, 24, 36.44, 2.49, 8),
    "y_400mf": Design(16, 48, 27.89, 2.09, 8),
    "y_600mf": Design(15, 48, 32.54, 2.32, 16),
    "y_800mf": Design(14, 56, 38.84, 2.4, 16),
    "y_1_6gf": Design(27, 48, 20.71, 2.65, 24),
}
"""Of the paper's networks; those that torchvision has are as there."""


def stage_widths(design: Design) -> tuple[tuple[int, int], ...]:
    """Width and blocks of each stage: the linear rule, quantised (the paper's equations 2 to 4).

    Widths are then made multiples of the group's, never below 90 %, as torchvision does.
    """
    counts: Counter[int] = Counter()
    for index in range(design.depth):
        linear = design.start + design.slope * index
        power = round(math.log(linear / design.start, design.step))
        counts[round(design.start * design.step**power / QUANTUM) * QUANTUM] += 1
    return tuple(
        (round_channels(width, min(design.group, width)), blocks)
        for width, blocks in sorted(counts.items())
    )


def _whole_groups(full: int, width: float, group: int, multiple: int) -> int:
    if width == 1:
        return full
    scaled = round_channels(full * width, math.lcm(group, multiple))
    return min(scaled, full) if width < 1 else scaled


def _unit(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs)
    return nn.Sequential(conv, norm, nn.ReLU(inplace=True)) if relu else nn.Sequential(conv, norm)


class SqueezeExcitation(nn.Module):
    """A factor for each channel, from all channels' averages."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """`[n, c, h, w]`, each channel multiplied by its factor."""
        squeezed = self.relu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * self.sigmoid(self.fc2(squeezed))


class Block(nn.Module):
    """1x1, grouped 3x3 with the stride, squeeze-and-excitation in Y, 1x1, and a shortcut.

    Args:
        inner: channels between the 1x1; in the paper, with its bottleneck ratio of 1, the outputs'.
    """

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, group: int, *, squeeze: bool
    ) -> None:
        super().__init__()
        self.proj = (
            None
            if stride == 1 and inputs == outputs
            else _unit(inputs, outputs, 1, stride, relu=False)
        )
        self.f = nn.Sequential()
        self.f.add_module("a", _unit(inputs, inner, 1))
        self.f.add_module("b", _unit(inner, inner, 3, stride, groups=inner // group))
        if squeeze:
            # A share of the block's inputs, as published.
            self.f.add_module("se", SqueezeExcitation(inner, max(1, round(SQUEEZE * inputs))))
        self.f.add_module("c", _unit(inner, outputs, 1, relu=False))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, h, w]` to `[n, outputs, h/stride, w/stride]`."""
        shortcut = x if self.proj is None else self.proj(x)
        return self.relu(shortcut + self.f(x))


class RegNet(Network):
    """Stem, four stages that halve the side each, global average, linear layer.

    Args:
        design: the unshrunk network.
        squeeze: Y, with squeeze-and-excitation.
        width: multiplies the channels of stem and stages, rounded to whole groups.
        inner: the same for the channels within blocks, on top of it.
        depth: multiplies the blocks, as `thin_stages` does.
    """

    def __init__(
        self,
        design: Design,
        *,
        squeeze: bool,
        width: float,
        depth: float,
        classes: int,
        multiple: int = QUANTUM,
        inner: float = 1.0,
    ) -> None:
        super().__init__()
        channels = scaled_channels(STEM, width, multiple)
        self.stem = _unit(3, channels, 3, 2)
        self.trunk_output = nn.Sequential()
        stages = stage_widths(design)
        counts = thin_stages([blocks for _, blocks in stages], depth)
        for index, ((full, _), count) in enumerate(zip(stages, counts, strict=True), 1):
            group = min(design.group, full)
            outputs = _whole_groups(full, width, group, multiple)
            within = _whole_groups(outputs, inner, group, multiple)
            stage = nn.Sequential()
            for step in range(count):
                stride = 2 if step == 0 else 1
                block = Block(channels, within, outputs, stride, group, squeeze=squeeze)
                stage.add_module(f"block{index}-{step}", block)
                channels = outputs
            self.trunk_output.add_module(f"block{index}", stage)
        self.fc = nn.Linear(channels, classes)
        init_weights(self)
        for part in self.modules():  # residual branches start at zero (Goyal et al. 2017)
            if isinstance(part, Block):
                nn.init.zeros_(part.f.get_submodule("c.1").weight)  # type: ignore[arg-type]

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's maps."""
        return self.trunk_output(self.stem(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """Global average, then the linear layer."""
        return self.fc(x.mean((2, 3)))


def _variant(name: str) -> None:
    @register(f"regnet_{name}")
    def build(
        width: float,
        depth: float,
        resolution: int,
        classes: int,
        *,
        multiple: int = QUANTUM,
        inner: float = 1.0,
    ) -> RegNet:
        return RegNet(
            DESIGNS[name],
            squeeze=name.startswith("y"),
            width=width,
            depth=depth,
            classes=classes,
            multiple=multiple,
            inner=inner,
        )


for _name in DESIGNS:
    _variant(_name)
