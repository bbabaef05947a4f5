"""How many channels each coupled group keeps, so that a network meets a budget in MACs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecompress.errors import UsageError

from ...networks.coupled import Channels, Coupled
from ...networks.families import Network
from ...networks.macs import count_macs

Score = Callable[[Channels], Sequence[Tensor]]
"""The groups of a network to a score of each channel, `[channels]` each; the lowest go."""

Choice = Callable[[Coupled], bool]
"""Whether a group may lose channels."""


@dataclass(frozen=True)
class Pruned:
    """A network that has lost channels.

    Attributes:
        network: a copy, with the kept channels' weights as they were; it can be trained on.
        macs: of one photo at the resolution it was pruned for.
        params: number of weights.
        channels: output channels of each convolution, by name.
    """

    network: Network
    macs: int
    params: int
    channels: Mapping[str, int]


def prune_to_budget(
    network: Network,
    image: Tensor,
    macs: int,
    score: Score,
    *,
    multiple: int = 8,
    first: Choice | None = None,
) -> Pruned:
    """A copy of `network` within a budget: the lowest-scored channels are gone.

    Args:
        image: `[1, 3, r, r]`, sets the resolution.
        macs: budget.
        multiple: kept channels are a multiple of it.
        first: groups to prune; the others follow only where these cannot reach the budget.

    Raises:
        UsageError: the budget cannot be reached, or the network cannot be traced.
    """
    copied = copy.deepcopy(network)
    channels = Channels(copied, image)
    keep = solve(channels, macs, multiple, first)
    channels.prune(keep, score(channels))
    return described(copied, image)


def solve(
    channels: Channels, macs: int, multiple: int = 8, first: Choice | None = None
) -> list[int]:
    """Channels that each group keeps: one uniform rate, as small as the budget allows.

    The rate is found by bisection. What rounding down to the multiple leaves of the budget is
    given back, one step a group, to the groups that rounding took most from.

    Raises:
        UsageError: even the narrowest network costs more.
    """
    groups = channels.groups
    free = [first is None or first(group) for group in groups]

    def counts(share: float) -> list[int]:
        return [
            group.kept(share, multiple) if may else group.channels
            for group, may in zip(groups, free, strict=True)
        ]

    if channels.macs(counts(0.0)) > macs and first is not None:
        free = [True] * len(groups)
    least = channels.macs(counts(0.0))
    if least > macs:
        raise UsageError(
            f"pruning cannot bring the network to {macs / 1e6:.1f} M MACs: "
            f"the narrowest takes {least / 1e6:.1f}",
            "raise the budget, or lower the resolution",
        )
    if channels.macs(counts(1.0)) <= macs:
        return counts(1.0)
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        if channels.macs(counts(middle)) <= macs:
            low = middle
        else:
            high = middle
    return _filled(channels, counts(low), low, macs, multiple=multiple, free=free)


def _filled(
    channels: Channels,
    keep: list[int],
    share: float,
    macs: int,
    *,
    multiple: int,
    free: Sequence[bool],
) -> list[int]:
    def taken(index: int) -> float:
        group = channels.groups[index]
        return (share * group.channels - keep[index]) / group.step(multiple)

    order = sorted((index for index, may in enumerate(free) if may), key=taken, reverse=True)
    for index in order:
        group = channels.groups[index]
        more = list(keep)
        more[index] = min(keep[index] + group.step(multiple), group.channels)
        if channels.macs(more) <= macs:
            keep = more
    return keep


def described(network: Network, image: Tensor) -> Pruned:
    """What a network costs now."""
    with torch.no_grad():
        macs = count_macs(network.eval(), image)
    return Pruned(
        network=network,
        macs=macs,
        params=sum(weight.numel() for weight in network.parameters()),
        channels={
            name: part.out_channels
            for name, part in network.named_modules()
            if isinstance(part, nn.Conv2d)
        },
    )
