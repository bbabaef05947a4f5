"""EfficientNet-Lite0..4 (Tan and Le 2019; the Lite variants, Liu 2020) with timm's names.

Lite means: no squeeze-and-excitation, ReLU6, and a stem, head, first and last stage that keep
their size whatever the multipliers are. The weights that PyPI packages ship were converted from
TensorFlow, so that convolutions pad as TensorFlow's SAME does: more behind than in front where the
stride is 2 and the input even.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor, nn

from .layers import SameConv2d, init_weights, scaled_channels
from .registry import Network, register

# Blocks, kernel, stride, expansion, output channels of EfficientNet-B0's seven stages.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280

# Width multiplier, depth multiplier, resolution, dropout of the five Lite networks.
VARIANTS = (
    (1.0, 1.0, 224, 0.2),
    (1.0, 1.1, 240, 0.2),
    (1.1, 1.2, 260, 0.3),
    (1.2, 1.4, 280, 0.3),
    (1.4, 1.8, 300, 0.3),
)


def _norm(channels: int) -> nn.BatchNorm2d:
    # TensorFlow's epsilon. Its decay of 0.99 would leave a fine-tuning of an epoch or two with
    # statistics of weights from hundreds of steps before: PyTorch's 0.9 it is.
    return nn.BatchNorm2d(channels, eps=1e-3)


class DepthwiseSeparable(nn.Module):
    """Depthwise convolution, then a 1x1 projection."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, size: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(inputs, inputs, kernel, stride, size, groups=inputs)
        self.bn1 = _norm(inputs)
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = _norm(outputs)
        self.act = nn.ReLU6(inplace=True)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, h, w]` to `[n, outputs, h/stride, w/stride]`."""
        y = self.act(self.bn1(self.conv_dw(x)))
        y = self.bn2(self.conv_pw(y))
        return x + y if self.shortcut else y


class InvertedResidual(nn.Module):
    """Expand to `inner` (1x1), depthwise convolution, project (1x1); a shortcut if shapes allow."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, size: int, *, inner: int
    ) -> None:
        super().__init__()
        self.conv_pw = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = _norm(inner)
        self.conv_dw = SameConv2d(inner, inner, kernel, stride, size, groups=inner)
        self.bn2 = _norm(inner)
        self.conv_pwl = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = _norm(outputs)
        self.act = nn.ReLU6(inplace=True)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, h, w]` to `[n, outputs, h/stride, w/stride]`."""
        y = self.act(self.bn1(self.conv_pw(x)))
        y = self.act(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.shortcut else y


class EfficientNetLite(Network):
    """Stem, seven stages, 1x1 convolution, global average, linear layer.

    Args:
        width: multiplies the stages' channels (stem and head keep theirs).
        own_width: the same, of the variant unshrunk.
        depth: multiplies the blocks of the five middle stages, rounded up.
        resolution: input side, pixels; padding is fixed for it.
        dropout: probability before the linear layer.
        inner: multiplies what blocks expand to.
    """

    def __init__(
        self,
        width: float,
        depth: float,
        resolution: int,
        classes: int,
        dropout: float,
        *,
        own_width: float = 1.0,
        multiple: int = 8,
        inner: float = 1.0,
    ) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, STEM, 3, 2, resolution)
        self.bn1 = _norm(STEM)
        self.act = nn.ReLU6(inplace=True)
        size = math.ceil(resolution / 2)
        channels = STEM
        stages = []
        for index, (count, kernel, stride, expansion, outputs) in enumerate(STAGES):
            fixed = index in (0, len(STAGES) - 1)
            wide = scaled_channels(outputs, width, multiple, own_width)
            blocks = []
            for step in range(count if fixed else max(1, math.ceil(count * depth))):
                by = stride if step == 0 else 1
                expanded = scaled_channels(channels * expansion, inner, multiple)
                blocks.append(
                    DepthwiseSeparable(channels, wide, kernel, by, size)
                    if expansion == 1
                    else InvertedResidual(channels, wide, kernel, by, size, inner=expanded)
                )
                channels, size = wide, math.ceil(size / by)
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(channels, HEAD, 1, bias=False)
        self.bn2 = _norm(HEAD)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(HEAD, classes)
        init_weights(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """The head convolution's maps."""
        x = self.blocks(self.act(self.bn1(self.conv_stem(x))))
        return self.act(self.bn2(self.conv_head(x)))

    def forward_head(self, x: Tensor) -> Tensor:
        """Global average, then the linear layer."""
        return self.classifier(self.dropout(x.mean((2, 3))))


def _variant(number: int) -> None:
    own_width, own_depth, own_resolution, dropout = VARIANTS[number]

    @register(f"efficientnet_lite{number}", own_resolution)
    def build(
        width: float,
        depth: float,
        resolution: int,
        classes: int,
        *,
        multiple: int = 8,
        inner: float = 1.0,
    ) -> EfficientNetLite:
        return EfficientNetLite(
            width,
            depth * own_depth,
            resolution,
            classes,
            dropout,
            own_width=own_width,
            multiple=multiple,
            inner=inner,
        )


for _number in range(len(VARIANTS)):
    _variant(_number)

_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_UNEXPANDED = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"} | {
    "_bn2": "bn2"
}
_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def rename_flat_blocks(state: Mapping[str, Tensor], network: EfficientNetLite) -> dict[str, Tensor]:
    """Weights named as in EfficientNet-PyTorch (`_blocks.7._bn1.weight`), renamed to ours.

    Args:
        state: the state dict to rename.
        network: tells how many blocks each stage has.

    Raises:
        KeyError: a name that no block or layer has.
    """
    where = [(i, j) for i, stage in enumerate(network.blocks) for j in range(len(stage))]  # type: ignore[arg-type]
    renamed = {}
    for name, value in state.items():
        block = re.match(r"_blocks\.(\d+)\.(\w+)\.(.+)", name)
        if block is None:
            layer, rest = name.split(".", 1)
            renamed[f"{_OUTER[layer]}.{rest}"] = value
            continue
        if int(block[1]) >= len(where):
            raise KeyError(name)
        stage, step = where[int(block[1])]
        names = _UNEXPANDED if STAGES[stage][3] == 1 else _EXPANDED
        renamed[f"blocks.{stage}.{step}.{names[block[2]]}.{block[3]}"] = value
    return renamed
