"""A network as data: what it takes to build it again, and what one run of it costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.errors import InputError, UsageError

from .families import Network, find_family
from .foreign import foreign_family, is_foreign
from .macs import count_macs

DEFAULT_MULTIPLE = 8


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that `build` needs.

    Attributes:
        family: registered name (`resnet18`).
        width: multiplier of channels.
        depth: multiplier of blocks.
        resolution: input side, pixels.
        classes: outputs (4 for a foreground predictor).
        multiple: what narrowed channels are a multiple of: 8 or 16.
        inner: multiplier of the channels within blocks, on top of `width`.
    """

    family: str
    width: float
    depth: float
    resolution: int
    classes: int
    multiple: int = DEFAULT_MULTIPLE
    inner: float = 1.0

    def build(self) -> Network:
        """A network with fresh weights, in training mode.

        Raises:
            UsageError: the family is unknown, cannot round to `multiple`, or knows no inner width.
        """
        name = self.family
        family = foreign_family(name) if is_foreign(name) else find_family(name)
        options: dict[str, float] = {}
        if self.multiple != DEFAULT_MULTIPLE:
            if not family.multiples:
                raise UsageError(
                    f"{name} cannot round its channels to multiples of {self.multiple}",
                    f"leave out multiple, or say {DEFAULT_MULTIPLE}",
                )
            options["multiple"] = self.multiple
        if self.inner != 1:
            if not family.inner:
                raise UsageError(f"{name} has no inner width of its own", "leave out inner")
            options["inner"] = self.inner
        return family.build(self.width, self.depth, self.resolution, self.classes, **options)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one photo (convolutions and linear layers), exact."""
        return _count(self)[0]

    @property
    def params(self) -> int:
        """Number of weights, BatchNorm's included."""
        return _count(self)[1]

    def to_json(self) -> dict[str, Any]:
        """Plain values; a `multiple` of 8 and an `inner` of 1 are left out, as before there was a
        choice."""
        values = asdict(self)
        if self.multiple == DEFAULT_MULTIPLE:
            del values["multiple"]
        if self.inner == 1:
            del values["inner"]
        return values

    @staticmethod
    def from_json(value: Any) -> NetworkSpec:
        """Read back `to_json`.

        Raises:
            InputError: it is not such a description.
        """
        try:
            return NetworkSpec(
                str(value["family"]),
                float(value["width"]),
                float(value["depth"]),
                int(value["resolution"]),
                int(value["classes"]),
                int(value.get("multiple", DEFAULT_MULTIPLE)),
                float(value.get("inner", 1.0)),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"not a network description: {error!r}") from error


@lru_cache(maxsize=1024)
def _count(spec: NetworkSpec) -> tuple[int, int]:
    # On the meta device nothing is computed and nothing allocated: only shapes flow. The weights'
    # initialisation draws no random numbers there either.
    with torch.device("meta"):
        network = spec.build().eval()
        image = torch.empty(1, 3, spec.resolution, spec.resolution)
    _shorten(network)
    params = sum(weight.numel() for weight in network.parameters())
    return count_macs(network, image), params


_KEEP_SHAPES = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Dropout)


def _shorten(network: nn.Module) -> None:
    """Let a network of which only shapes are wanted leave out what does not change them: on the
    meta device these are Python's work, and most of it."""
    for part in network.modules():
        if isinstance(part, _KEEP_SHAPES):
            part.forward = _unchanged  # type: ignore[assignment]


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor
