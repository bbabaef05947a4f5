"""A foreign network that behaves as those of the families do."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecompress import events
from edgecompress.errors import UsageError

from ..families.registry import Family, Network
from . import source
from .anatomy import Anatomy, examine, leave_out, left_out, logits_of, maps_of, refusal

NATIVE_SIDES = tuple(sorted(range(16, 513), key=lambda side: (side % 32 != 0, side % 8 != 0, side)))
"""Sides that are tried for a network that takes one only, common ones first."""

_WHAT = {
    "width": "its channels stay",
    "depth": "its blocks stay",
    "resolution": "its resolution stays",
    "maps": 'photos cannot be cropped, set crop = "never"',
}


class Foreign(Network):
    """The user's module, with the cut that activation maps need.

    Args:
        module: `[n, 3, r, r]` to `[n, classes]`.
        side: a side that it runs at.
        fixed: it takes no other side: photos of another one are resized first.
        maps: name of the module that gives the last maps, or None.
    """

    def __init__(self, module: nn.Module, side: int, fixed: bool, maps: str | None) -> None:
        super().__init__()
        self.module = module
        self.side = side
        self.fixed = fixed
        self.maps = maps

    def forward(self, x: Tensor) -> Tensor:
        """`[n, 3, r, r]` to `[n, classes]`."""
        return self.module(self._sized(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last maps that the logits are computed from.

        Raises:
            UsageError: there are none.
        """
        return maps_of(self.module, self._cut(), self._sized(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """From those maps to the logits."""
        image = torch.zeros(len(x), 3, self.side, self.side, dtype=x.dtype, device=x.device)
        return logits_of(self.module, self._cut(), x, image)

    def _sized(self, x: Tensor) -> Tensor:
        if not self.fixed or x.shape[2] == self.side:
            return x
        return F.interpolate(x, size=(self.side, self.side), mode="bilinear", antialias=True)

    def _cut(self) -> nn.Module:
        if self.maps is None:
            raise UsageError(
                "activation maps cannot be drawn with this network",
                'set crop = "never" in [compress]',
            )
        return self.module.get_submodule(self.maps)

    def adopt(self, large: Network) -> None:
        """Begin with the important part of a wider or deeper one's weights.

        A copy of `large` loses the blocks that this network does not have, and of the channels
        those of the smallest group norm, until each layer is as wide as here.

        Raises:
            UsageError: it is not a larger one of the same network.
        """
        from ..coupled import Channels, group_norms

        if not isinstance(large, Foreign):
            raise UsageError("a foreign network can only begin with the weights of its own kind")
        copied = copy.deepcopy(large.module).cpu()
        blocks = [name for name, part in self.module.named_modules() if _is_gone(part)]
        leave_out(copied, [name for name in blocks if not _is_gone(copied.get_submodule(name))])
        width = dict(self.module.named_modules())
        if _shapes(copied) != _shapes(self.module):
            channels = Channels(copied, torch.zeros(1, 3, self.side, self.side))
            keep = [_outputs(width[group.name]) for group in channels.groups]
            channels.prune(keep, group_norms(channels))
        try:
            self.module.load_state_dict(copied.state_dict())
        except RuntimeError as error:
            raise UsageError(
                "the network is not a smaller one of the base", "use the same `family` for both"
            ) from error


def foreign_family(name: str) -> Family:
    """The family of a callable that a job names; importing it runs the user's code.

    Raises:
        UsageError: it cannot be imported, or does not run.
    """

    def build(
        width: float, depth: float, resolution: int, classes: int, multiple: int = 8
    ) -> Network:
        found = anatomy_of(name, classes, resolution)
        network = source.made(name, classes)
        if max(width, depth) > 1:
            raise UsageError(
                f"{name} can only be shrunk: width {width:g}, depth {depth:g}",
                "set `width` and `depth` in [compress.base] to at most 1",
            )
        leave_out(network, left_out(found.stages, depth))
        if width < 1 and found.width:
            _narrow(network, found.side, width, multiple)
        return Foreign(network, found.side, not found.any_side, found.maps).train()

    return Family(name, build, resolution=224, multiples=True)


@lru_cache(maxsize=64)
def anatomy_of(name: str, classes: int, resolution: int) -> Anatomy:
    """What a named network can be shrunk in; said once, as warnings.

    Raises:
        UsageError: it does not run, or cannot be shrunk at all.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        module = source.made(name, classes).eval()
        side = _running_side(module, resolution)
        found = examine(module, side)
        outputs = _classes(module, side)
    if outputs != classes:
        raise UsageError(
            f"{name}({classes}) gives {outputs} classes", "let it take the number of classes"
        )
    if not (found.width or found.stages or found.any_side):
        why = "; ".join(f"{one}: {found.reasons[one]}" for one in ("width", "depth", "resolution"))
        raise UsageError(
            f"{name} cannot be shrunk: {why}",
            'docs/families.md, "Your own module", says what helps',
        )
    for one, why in found.reasons.items():
        _say(name, f"{_WHAT[one]}: {why}")
    return found


@lru_cache(maxsize=256)
def _say(name: str, text: str) -> None:
    events.warn(f"{name}: {text}")


def require_maps(family: str, classes: int, resolution: int) -> None:
    """Refuse, before anything is trained, to crop with a network that has no activation maps.

    Raises:
        UsageError: it has none.
    """
    if not source.is_foreign(family):
        return
    found = anatomy_of(family, classes, resolution)
    if found.maps is None:
        raise UsageError(
            f"{family} cannot draw the boxes that cropping needs: {found.reasons['maps']}",
            'set crop = "never" in [compress]',
        )


def _running_side(module: nn.Module, resolution: int) -> int:
    """The resolution, or where the network does not run at it, the side that it is made for."""
    why = refusal(module, resolution)
    if not why:
        return resolution
    for side in NATIVE_SIDES:
        if not refusal(module, side):
            return side
    raise UsageError(why, "no side from 16 to 512 pixels works: see what it says")


def _classes(module: nn.Module, side: int) -> int:
    with torch.no_grad():
        return module(torch.zeros(1, 3, side, side)).shape[1]


def _narrow(network: nn.Module, side: int, width: float, multiple: int) -> None:
    """Every coupled group keeps its leading channels, a share of `width` of them."""
    from ..coupled import Channels

    weight = next(network.parameters())
    # A network that is only counted lies on the meta device; which channels go is no such question.
    with torch.device("cpu"):
        channels = Channels(network, torch.zeros(1, 3, side, side, device=weight.device))
        keep = [group.nearest(width, multiple) for group in channels.groups]
        leading = [torch.arange(group.channels, 0, -1.0) for group in channels.groups]
        channels.prune(keep, leading)


def _is_gone(part: nn.Module) -> bool:
    return type(part) is nn.Identity


def _shapes(module: nn.Module) -> Sequence[tuple[str, torch.Size]]:
    return [(name, value.shape) for name, value in module.state_dict().items()]


def _outputs(layer: nn.Module) -> int:
    return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.weight.shape[0]  # type: ignore[index]
