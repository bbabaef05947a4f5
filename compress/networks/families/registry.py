"""Families of shrinkable networks, registered by decorator and found by name."""

from __future__ import annotations

import inspect
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

    def block_names(self) -> tuple[tuple[str, ...], ...]:
        """Names of the blocks of each stage, in order.

        Found by structure: a `Sequential` that has nothing but blocks, classes that are not
        PyTorch's own. A family that numbers its blocks through says it itself.
        """
        return tuple(
            tuple(f"{name}.{part}" for part, _ in module.named_children())
            for name, module in self.named_modules()
            if isinstance(module, nn.Sequential) and _alike(module)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[n, 3, r, r]` to `[n, classes]`."""
        return self.forward_head(self.forward_features(x))


def _alike(stage: nn.Sequential) -> bool:
    parts = list(stage)
    return bool(parts) and all(
        not type(part).__module__.startswith("torch.") and any(part.children()) for part in parts
    )


Builder = Callable[..., Network]
"""(width multiplier, depth multiplier, resolution, classes) -> network.

A builder that can round channels to something else than 8 takes the keyword `multiple`; one whose
blocks may be narrowed inside alone takes `inner`, which multiplies their inner width on top of the
width multiplier.
"""


@dataclass(frozen=True)
class Family:
    """A registered family.

    Attributes:
        build: see `Builder`.
        resolution: the input side that the unshrunk network is made for, pixels.
        multiples: whether the builder takes `multiple`.
        inner: whether it takes `inner`.
    """

    name: str
    build: Builder
    resolution: int
    multiples: bool = False
    inner: bool = False


_families: dict[str, Family] = {}


def register(name: str, resolution: int = 224) -> Callable[[Builder], Builder]:
    """Decorator: make a builder known as family `name`."""

    def add(build: Builder) -> Builder:
        if name in _families:
            raise ValueError(f"family '{name}' is registered twice")
        takes = inspect.signature(build).parameters
        _families[name] = Family(name, build, resolution, "multiple" in takes, "inner" in takes)
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
