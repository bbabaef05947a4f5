"""ResNet (He et al. 2016) with depth and width multipliers; torchvision's state-dict names.

Also ResNet-D (He et al. 2018, "Bag of tricks"), by timm's names: three 3x3 convolutions in place of
the first one, 7x7, and shortcuts that average pixels where the others skip three of four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from .layers import init_weights, scaled_channels, thin_stages
from .registry import Network, register

# The paper's depth multipliers for ResNet-50 and the blocks that each leaves (its section on
# compound shrinking).
RESNET50_DEPTHS: dict[float, tuple[int, ...]] = {
    1.0: (3, 4, 6, 3),
    0.9: (3, 4, 5, 3),
    0.8: (3, 3, 4, 3),
    0.7: (2, 3, 4, 2),
    0.6: (2, 3, 3, 2),
    0.5: (2, 2, 2, 2),
    0.4: (1, 2, 2, 1),
    0.3: (1, 1, 2, 1),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, *, pooled: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride, pooled)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, h, w]` to `[n, outputs, h/stride, w/stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as in torchvision), 1x1 and a shortcut."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, stride: int, *, pooled: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride, pooled)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, inputs, h, w]` to `[n, outputs, h/stride, w/stride]`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


def _shortcut(inputs: int, outputs: int, stride: int, pooled: bool) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    if not pooled:
        convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
    # Maps of an odd side end with a pixel of its own, as the 3x3 convolution beside this one has.
    pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(
        nn.Identity() if stride == 1 else pool,
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )


def _deep_stem(inner: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, inner, 3, 2, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, inner, 3, 1, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, outputs, 3, 1, 1, bias=False),
    )


class ResNet(Network):
    """Stem, four stages, global average and a linear layer.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        blocks: blocks per stage.
        stem: channels after the first convolution.
        inner: inner channels of each stage's blocks.
        outer: output channels of each stage.
        deep: channels within a stem of three convolutions: the network is a ResNet-D.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        *,
        stem: int,
        inner: Sequence[int],
        outer: Sequence[int],
        classes: int,
        deep: int | None = None,
    ) -> None:
        super().__init__()
        pooled = deep is not None
        seven = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.conv1 = seven if deep is None else _deep_stem(deep, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages = []
        inputs = stem
        for index, count in enumerate(blocks):
            parts = []
            for step in range(count):
                stride = 2 if index > 0 and step == 0 else 1
                parts.append(block(inputs, inner[index], outer[index], stride, pooled=pooled))
                inputs = outer[index]
            stages.append(nn.Sequential(*parts))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(inputs, classes)
        init_weights(self)
        for part in self.modules():  # residual branches start at zero (Goyal et al. 2017)
            if isinstance(part, BasicBlock):
                nn.init.zeros_(part.bn2.weight)
            elif isinstance(part, Bottleneck):
                nn.init.zeros_(part.bn3.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's maps."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward_head(self, x: Tensor) -> Tensor:
        """Global average, then the linear layer."""
        return self.fc(x.mean((2, 3)))


CHANNELS = (64, 128, 256, 512)
DEEP_CHANNELS = 32


def resnet50_blocks(depth: float) -> tuple[int, ...]:
    """Blocks per stage: the paper's table's row nearest to `depth`; above 1 as `thin_stages`."""
    if depth > 1:
        return thin_stages(RESNET50_DEPTHS[1.0], depth)
    return RESNET50_DEPTHS[min(RESNET50_DEPTHS, key=lambda row: abs(row - depth))]


_BLOCKS: dict[str, Callable[[float], tuple[int, ...]]] = {
    "resnet18": partial(thin_stages, (2, 2, 2, 2)),
    "resnet34": partial(thin_stages, (3, 4, 6, 3)),
    "resnet50": resnet50_blocks,
}


def _register(name: str, *, deep: bool) -> None:
    bottlenecks = name == "resnet50"

    @register(f"{name}d" if deep else name)
    def build(
        width: float,
        depth: float,
        resolution: int,
        classes: int,
        *,
        multiple: int = 8,
        inner: float = 1.0,
    ) -> ResNet:
        wide = [scaled_channels(channels, width, multiple) for channels in CHANNELS]
        return ResNet(
            Bottleneck if bottlenecks else BasicBlock,
            _BLOCKS[name](depth),
            stem=wide[0],
            inner=[scaled_channels(channels, inner, multiple) for channels in wide],
            outer=[4 * channels for channels in wide] if bottlenecks else wide,
            classes=classes,
            deep=scaled_channels(DEEP_CHANNELS, width * inner, multiple) if deep else None,
        )


for _name in _BLOCKS:
    _register(_name, deep=False)
    _register(_name, deep=True)
