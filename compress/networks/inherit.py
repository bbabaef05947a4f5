"""A smaller network begins with what matters most of the larger one's weights.

Of a stage that loses blocks, the first one stays and those whose branch is largest; of channels,
those that are worth most (`relevance.py`), the same ones in every layer that writes or reads them.
Only where a network cannot be traced are they the leading ones. It is a start for training, not a
result: a narrowed network is far from the large one until it is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.errors import UsageError

from .families import Network
from .relevance import block_worth, channel_worth, observe

Picks = Mapping[tuple[str, bool], Tensor]
"""(layer, whether its inputs are meant) to the channels that stay, ascending."""

BIAS_LIKE = 1


@dataclass(frozen=True)
class Inherited:
    """What a network has from another.

    Attributes:
        filled: names of the tensors that were filled.
        fresh: names of those that were not.
        blocks: of the smaller network's blocks, the larger one's that each was.
        by_importance: channels were chosen by what they are worth, else the leading ones.
    """

    filled: tuple[str, ...]
    fresh: tuple[str, ...]
    blocks: Mapping[str, str]
    by_importance: bool


def inherit(
    small: nn.Module,
    large: nn.Module,
    *,
    blocks: Mapping[str, float] | None = None,
    side: int = 64,
) -> Inherited:
    """Fill `small` with the part of `large`'s weights that matters most.

    Args:
        small: the same family, narrower, shallower or both; changed in place.
        large: trained; not changed.
        blocks: what each block of `large` is worth, by name, where that was measured on photos
            (`relevance.measure_blocks`); else `relevance.block_worth`.
        side: of an image that both can take, pixels.
    """
    names = _Names(small, large, blocks or {}, side)
    source, target = large.state_dict(), small.state_dict()
    picks: Picks | None = {}
    if any(
        names.has(name) and source[names.of(name)].shape != target[name].shape for name in target
    ):
        picks = _picks(small, large, names, side)
    filled = []
    with torch.no_grad():
        for name, value in target.items():
            if not names.has(name):
                continue
            given = _part(source[names.of(name)], names.of(name), value, picks)
            if given is not None:
                value.copy_(given)
                filled.append(name)
    fresh = tuple(name for name in target if name not in filled)
    return Inherited(tuple(filled), fresh, names.blocks, picks is not None)


def _part(given: Tensor, name: str, value: Tensor, picks: Picks | None) -> Tensor | None:
    """What of a tensor stays, or None if it cannot have `value`'s shape."""
    if picks is not None:
        layer = name.rpartition(".")[0]
        outputs, inputs = picks.get((layer, False)), picks.get((layer, True))
        if outputs is not None and given.ndim:
            given = given[outputs]
        if inputs is not None and given.ndim > BIAS_LIKE:
            given = given[:, inputs]
        return given if given.shape == value.shape else None
    if given.ndim != value.ndim or any(
        a < b for a, b in zip(given.shape, value.shape, strict=True)
    ):
        return None
    return given[tuple(slice(size) for size in value.shape)]


class _Names:
    """From the smaller network's names to the larger one's.

    Attributes:
        blocks: of the smaller network's blocks, the larger one's.
    """

    def __init__(
        self, small: nn.Module, large: nn.Module, worth: Mapping[str, float], side: int
    ) -> None:
        self._known = set(large.state_dict())
        self.blocks = _blocks(small, large, worth, side)
        self._prefixes: dict[str, str | None] = dict(self.blocks)
        if isinstance(small, Network) and isinstance(large, Network):
            ours = {name for stage in small.block_names() for name in stage}
            theirs = {name for stage in large.block_names() for name in stage}
            for name in ours - set(self.blocks):
                self._prefixes[name] = None
            # What stands beside blocks in a list may be numbered through with them.
            for parent in {name.rpartition(".")[0] for name in ours}:
                beside = [
                    _children(one, parent, but) for one, but in ((small, ours), (large, theirs))
                ]
                self._prefixes.update(zip(*beside, strict=False))

    def has(self, name: str) -> bool:
        return self.of(name) in self._known

    def of(self, name: str) -> str:
        parts = name.split(".")
        for end in range(len(parts) - 1, 0, -1):
            prefix = ".".join(parts[:end])
            if prefix in self._prefixes:
                other = self._prefixes[prefix]
                return "" if other is None else ".".join([other, *parts[end:]])
        return name


def _children(network: nn.Module, parent: str, without: set[str]) -> list[str]:
    names = [f"{parent}.{name}" for name, _ in network.get_submodule(parent).named_children()]
    return [name for name in names if name not in without]


def _blocks(
    small: nn.Module, large: nn.Module, worth: Mapping[str, float], side: int
) -> dict[str, str]:
    """The blocks of `large` that stay, by their names in `small`."""
    if not (isinstance(small, Network) and isinstance(large, Network)):
        return {}
    ours, theirs = small.block_names(), large.block_names()
    if [len(stage) for stage in ours] != [len(stage) for stage in theirs]:
        ours, theirs = (_split(one, side) for one in (small, large))
    if len(ours) != len(theirs):
        return {name: name for stage in ours for name in stage}
    found = {}
    for short, long in zip(ours, theirs, strict=True):
        rest = sorted(
            long[1:],
            key=lambda name: worth.get(name, block_worth(large.get_submodule(name))),
            reverse=True,
        )
        kept = {long[0], *rest[: len(short) - 1]}
        found.update(zip(short, [name for name in long if name in kept], strict=False))
    return found


def _split(network: Network, side: int) -> list[tuple[str, ...]]:
    """The stages, each of blocks after whose first none changes the shape of its maps."""
    changes: set[str] = set()
    handles = []
    for name in (name for stage in network.block_names() for name in stage):

        def note(_: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
            if inputs[0].shape != output.shape:
                changes.add(name)

        handles.append(network.get_submodule(name).register_forward_hook(note))
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, side, side))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    stages: list[tuple[str, ...]] = []
    for stage in network.block_names():
        start = 0
        for index in range(1, len(stage)):
            if stage[index] in changes:
                stages.append(stage[start:index])
                start = index
        stages.append(stage[start:])
    return stages


def _picks(small: nn.Module, large: nn.Module, names: _Names, side: int) -> Picks | None:
    """The channels that stay in each of `large`'s layers; None if it cannot be traced."""
    from .coupled import Channels

    traced = copy.deepcopy(large).eval()
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        channels = Channels(traced, image)
    except UsageError:
        return None
    # What each layer has become, by the larger network's names.
    became = {
        names.of(f"{name}.weight").rpartition(".")[0]: layer
        for name, layer in small.named_modules()
        if isinstance(getattr(layer, "weight", None), Tensor)
    }
    layers = {layer: name for name, layer in traced.named_modules()}
    without = {layer for layer, name in layers.items() if name not in became}
    seen = observe(traced, image)
    chosen: dict[tuple[str, bool], Tensor] = {}
    for group in channels.groups:
        worth = channel_worth(group, seen, without)
        for part in group.parts:
            name = layers.get(part.layer, "")
            # A grouped convolution's weights have the inputs of one group only, and keep these.
            if name not in became or (part.inputs and getattr(part.layer, "groups", 1) > 1):
                continue
            weight: Any = became[name].weight
            inputs = part.inputs and weight.ndim > BIAS_LIKE  # a BatchNorm has but one side
            size = weight.shape[int(inputs)]
            found = _best(worth, size * group.channels // len(part.channels), group.blocks)
            places = torch.tensor(part.channels)[found[torch.tensor(part.roots)]]
            chosen[name, inputs] = places.sort().values
    return chosen


def _best(worth: Tensor, count: int, blocks: int) -> Tensor:
    """A mask of the `count` channels that are worth most, the earlier of equals; whole blocks."""
    sums = worth.reshape(blocks, -1).sum(1) if blocks > 1 else worth
    best = sums.argsort(descending=True, stable=True)[: count * len(sums) // len(worth)]
    mask = torch.zeros(len(sums), dtype=torch.bool)
    mask[best] = True
    return mask.repeat_interleave(len(worth) // len(sums))
