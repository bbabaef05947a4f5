"""Families of shrinkable networks, registered by decorator and found by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from edgecompress.errors import UsageError, unknown_name


class Network(nn.Module):
    """What every family builds: features of the last stage, then a head.

    `forward_features` maps a normalised image `[n, 3, r, r]` to the last stage's maps
    `[n, c, h, w]`; `forward_head` maps those to logits (`[n, classes]`). CAM needs the cut.
    """

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's feature maps."""
        raise NotImplementedError

    def forward_head(self, x: Tensor) -> Tensor:
        """From feature maps to the output."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """`[n, 3, r, r]` to `[n, classes]`."""
        return self.forward_head(self.forward_features(x))


Builder = Callable[[float, float, int, int], Network]
"""(width multiplier, depth multiplier, resolution, classes) -> network."""


@dataclass(frozen=True)
class Family:
    """A registered family.

    Attributes:
        build: see `Builder`.
        resolution: the input side that the unshrunk network is made for, pixels.
    """

    name: str
    build: Builder
    resolution: int


_families: dict[str, Family] = {}


def register(name: str, resolution: int = 224) -> Callable[[Builder], Builder]:
    """Decorator: make a builder known as family `name`."""

    def add(build: Builder) -> Builder:
        if name in _families:
            raise ValueError(f"family '{name}' is registered twice")
        _families[name] = Family(name, build, resolution)
        return build

    return add


def find_family(name: str) -> Family:
    """The family called `name`.

    Raises:
        UsageError: there is none; near names are offered.
    """
    if name not in _families:
        raise unknown_name("network family", name, family_names(), UsageError)
    return _families[name]


def family_names(pattern: str = "*") -> list[str]:
    """Names of all families that match a shell pattern (`resnet*`), sorted."""
    return sorted(name for name in _families if fnmatchcase(name, pattern))
