"""The foreground predictor's network: a light CNN and a regressor that gives a box.

The paper's is a ResNet-like network, 2-2-2-2 blocks of widths 16-32-32-64, stride 2 each, with one
hidden layer of 256. Ours has its block counts and widths in basic blocks, and a 3x3 stem of stride
2, with which the last stage keeps its size: the regressor reads a map of a sixteenth of the input
side, position by position (an average over the map would forget where things are).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgecompress.errors import UsageError

from .layers import init_weights, round_channels, thin_stages
from .registry import Network, register
from .resnet import BasicBlock

WIDTHS = (16, 32, 32, 64)
STRIDES = (2, 2, 2, 1)
HIDDEN = 256
EDGES = 4
STEEP = (0.05, 0.95)
"""Shares of a first box: outside, a sigmoid has little slope to learn with."""


class ForegroundPredictor(Network):
    """`[n, 3, r, r]` to boxes `[n, 4]`: x0, y0, x1, y1 in 0..1, x0 <= x1, y0 <= y1."""

    def __init__(self, width: float, depth: float, resolution: int) -> None:
        super().__init__()
        widths = [round_channels(channels * width) for channels in WIDTHS]
        channels = widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, 2, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        stages = []
        for count, outputs, stride in zip(
            thin_stages((2, 2, 2, 2), depth), widths, STRIDES, strict=True
        ):
            for step in range(count):
                stages.append(BasicBlock(channels, outputs, outputs, stride if step == 0 else 1))
                channels = outputs
        self.stages = nn.Sequential(*stages)
        side = resolution
        for _ in range(4):  # the stem and three stages halve it
            side = math.ceil(side / 2)
        self.regressor = nn.Sequential(
            nn.Linear(channels * side * side, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, EDGES),
        )
        init_weights(self)

    def begin_at(self, box: Sequence[float]) -> None:
        """Make the fresh network give this box (x0, y0, x1, y1), nearly, whatever it sees.

        From fresh weights the box is "x from 0.5 to 0.75", and losses by overlap drive the sigmoids
        into "the whole photo", where they have no slope any more.
        """
        x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in box)
        shares = torch.tensor(
            [x0, y0, (x1 - x0) / max(1 - x0, 0.02), (y1 - y0) / max(1 - y0, 0.02)]
        )
        last = self.regressor[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.copy_(torch.logit(shares.clamp(*STEEP)))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's maps."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """The box."""
        return self.boxes(self.hidden(x.flatten(1)))

    def hidden(self, features: Tensor) -> Tensor:
        """The hidden layer `[n, 256]`, of maps in one row each."""
        return self.regressor[:-1](features)

    def boxes(self, hidden: Tensor) -> Tensor:
        """Boxes of the hidden layer. The far edges are a share of what the near ones leave, so
        that order holds."""
        shares = torch.sigmoid(self.regressor[-1](hidden))
        near, rest = shares[:, :2], shares[:, 2:]
        return torch.cat([near, near + (1 - near) * rest], dim=1)


@register("foreground_predictor", resolution=64)
def _foreground_predictor(
    width: float, depth: float, resolution: int, classes: int
) -> ForegroundPredictor:
    if classes != EDGES:
        raise UsageError(f"a foreground predictor gives {EDGES} edges, not {classes} outputs")
    return ForegroundPredictor(width, depth, resolution)
