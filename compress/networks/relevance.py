"""How much a trained network would miss a channel or a block, told by its weights alone.

A channel is worth what its readers get through it: its mean square, times the squared weights it is
read with. Behind a BatchNorm a channel has the mean `bias` and the deviation `weight`, whatever the
filter's own norm is, so that the scale says more than the filter (Liu et al. 2017, "network
slimming"); what the readers make of it is counted as well (Li et al. 2017 count filters only). All
channels that a shortcut ties together are judged as one, over all layers that write and read them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

if TYPE_CHECKING:
    from .coupled import Coupled, Part

TINY = 1e-12


@dataclass(frozen=True)
class Pass:
    """What a forward pass shows of each layer that has weights.

    Attributes:
        turn: when it ran first: 0, 1, 2, ...
        positive: it read nothing below 0, as behind a ReLU.
    """

    turn: Mapping[nn.Module, int]
    positive: Mapping[nn.Module, bool]


def observe(network: nn.Module, image: Tensor) -> Pass:
    """Run `network` on one image `[1, 3, r, r]`."""
    turn: dict[nn.Module, int] = {}
    positive: dict[nn.Module, bool] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        turn.setdefault(layer, len(turn))
        positive[layer] = bool(inputs[0].min() >= 0) and positive.get(layer, True)

    kinds = nn.Conv2d | nn.Linear | nn.BatchNorm2d
    handles = [
        part.register_forward_pre_hook(note)
        for part in network.modules()
        if isinstance(part, kinds)
    ]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return Pass(turn, positive)


def channel_worth(group: Coupled, seen: Pass, without: Collection[nn.Module] = ()) -> Tensor:
    """What each channel of a group is worth, `[channels]`, not below 0.

    Args:
        without: layers that are left out, and count neither as writers nor as readers.
    """
    parts = [part for part in group.parts if part.layer in seen.turn and part.layer not in without]
    readers = [
        part
        for part in parts
        if part.inputs and isinstance(part.layer, nn.Conv2d | nn.Linear) and not _mixed(part.layer)
    ]
    mean, deviation = _statistics(group, parts, seen)
    worth = torch.zeros(group.channels)
    for part in readers:
        size = _mean_square(mean, deviation, seen.positive[part.layer])
        weights = _reading(part.layer)[list(part.channels)]
        roots = torch.tensor(part.roots)
        worth.index_add_(0, roots, size[roots] * weights / weights.sum().clamp(min=TINY))
    return worth if readers else _mean_square(mean, deviation, False)


def _mixed(layer: nn.Module) -> bool:
    # A grouped convolution hands channels on within the group; what counts is who reads it then.
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


def _reading(layer: nn.Module) -> Tensor:
    """Squared weights of each input channel, over all outputs."""
    weight: Any = layer.weight
    return weight.detach().square().transpose(0, 1).flatten(1).sum(1)


def _statistics(group: Coupled, parts: list[Part], seen: Pass) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel; branches that are added up count as independent."""
    writers = [part for part in parts if not part.inputs]
    # Whatever was before a grouped convolution is seen through it only.
    hidden = max((seen.turn[part.layer] for part in writers if _mixed(part.layer)), default=-1)
    norms = [
        part
        for part in writers
        if isinstance(part.layer, nn.BatchNorm2d) and seen.turn[part.layer] > hidden
    ]
    mean, variance = torch.zeros(group.channels), torch.zeros(group.channels)
    for part in norms or writers:
        layer: Any = part.layer
        channels, roots = list(part.channels), torch.tensor(part.roots)
        scale = (
            layer.weight.detach().flatten(1).norm(dim=1)
            if layer.weight.ndim > 1
            else layer.weight.detach()
        )
        variance.index_add_(0, roots, scale.square()[channels])
        if layer.bias is not None:
            mean.index_add_(0, roots, layer.bias.detach()[channels])
    return mean, variance.sqrt()


def _mean_square(mean: Tensor, deviation: Tensor, positive: bool) -> Tensor:
    """Of a normal variable, or of what a ReLU leaves of it."""
    square = mean.square() + deviation.square()
    if not positive:
        return square
    standard, at = Normal(0.0, 1.0), mean / deviation.clamp(min=TINY)
    density = standard.log_prob(at).exp()
    return (square * standard.cdf(at) + mean * deviation * density).clamp(min=0)


def block_worth(block: nn.Module) -> float:
    """How large a residual block's branch is: the mean square of its last BatchNorm's output.

    A branch of 0 is one that the block can go without. Infinite if there is no BatchNorm to tell.
    """
    norms = [part for part in block.modules() if isinstance(part, nn.BatchNorm2d)]
    if not norms:
        return float("inf")
    return float((norms[-1].weight.detach().square() + norms[-1].bias.detach().square()).mean())


def measure_blocks(
    network: nn.Module, names: Collection[str], images: Tensor, batch: int = 64
) -> dict[str, float]:
    """How much each block changes photos' maps: `|after - before| / |after|`, on average.

    Args:
        network: in evaluation mode.
        names: blocks whose outputs have the shape of their inputs; others are left out.
        images: normalised, `[n, 3, r, r]`.
    """
    changes: dict[str, list[Tensor]] = {}
    handles = []
    for name in names:

        def note(_: nn.Module, inputs: Any, after: Tensor, name: str = name) -> None:
            before = inputs[0]
            if before.shape == after.shape:
                change = (after - before).flatten(1).norm(dim=1)
                whole = after.flatten(1).norm(dim=1).clamp(min=TINY)
                changes.setdefault(name, []).append(change / whole)

        handles.append(network.get_submodule(name).register_forward_hook(note))
    try:
        with torch.no_grad():
            for part in images.split(batch):
                network(part)
    finally:
        for handle in handles:
            handle.remove()
    return {name: float(torch.cat(found).mean()) for name, found in changes.items()}
