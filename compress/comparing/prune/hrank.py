"""HRank: filters whose feature maps have the lowest rank go (Lin et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Callable
from weakref import ReferenceType, ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...machine.devices import placed
from ...networks.coupled import Channels, Coupled
from ...networks.families import Network
from ...networks.network import NetworkSpec
from .budget import Pruned, prune_to_budget

LARGEST_MAP = 16
"""Larger maps are averaged down to this side before their rank is taken."""
BATCH = 32


def prune_hrank(
    network: Network, spec: NetworkSpec, images: Tensor, macs: int, *, multiple: int = 8
) -> Pruned:
    """Prune to a budget by the average rank of feature maps.

    The filters that write the maps of lowest average rank are pruned. As far as the budget can be
    reached so, only inside blocks (the first convolution of a basic block, the first two of a
    bottleneck), where no shortcut couples channels; else coupled channels go too, by the sum of
    the ranks of all maps that they are in.

    Departures: the authors' rates of each layer were set by hand for a few networks; here all
    layers have one rate, which meets the budget. Maps are ranked where the next convolution reads
    them, behind the activation; maps above 16 x 16 positions are averaged down to that first.

    Args:
        network: trained; not changed.
        spec: its resolution is the one that MACs are counted at.
        images: normalised photos `[n, 3, r, r]`; the authors take 500.
        macs: budget of one photo.
        multiple: channels are kept in multiples of it.

    Raises:
        UsageError: the budget cannot be reached.
    """
    image = torch.zeros(1, 3, spec.resolution, spec.resolution)
    return prune_to_budget(
        network,
        image,
        macs,
        lambda channels: average_ranks(channels, images),
        multiple=multiple,
        first=lambda group: group.producers <= 1,
    )


def average_ranks(channels: Channels, images: Tensor) -> list[Tensor]:
    """For each group `[channels]`: the rank of its maps, averaged over photos, summed over maps.

    Args:
        images: normalised `[n, 3, r, r]`.
    """
    totals = [torch.zeros(group.channels) for group in channels.groups]
    seen: list[tuple[int, ReferenceType[Tensor]]] = []
    handles = []
    for index, group in enumerate(channels.groups):
        readers = _readers(group)
        for layer, places, roots in readers:

            def before(
                _: nn.Module,
                inputs: tuple[Tensor, ...],
                index: int = index,
                places: Tensor = places,
                roots: Tensor = roots,
            ) -> None:
                _add(totals[index], seen, index, inputs[0], places=places, roots=roots)

            handles.append(layer.register_forward_pre_hook(before))
        if not readers:
            handles += _watch_writers(group, _after(totals[index]))
    try:
        with torch.no_grad(), placed(channels.network) as device:
            for part in images.split(BATCH):
                channels.network(part.to(device))
                seen.clear()
    finally:
        for handle in handles:
            handle.remove()
    return [total / max(len(images), 1) for total in totals]


def _readers(group: Coupled) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """Convolutions that read the group's channels, which inputs, and which channels these are."""
    return [
        (part.layer, torch.tensor(part.channels), torch.tensor(part.roots))
        for part in group.parts
        if isinstance(part.layer, nn.Conv2d)
        and (part.inputs or part.layer.groups == part.layer.out_channels > 1)
    ]


def _add(
    total: Tensor,
    seen: list[tuple[int, ReferenceType[Tensor]]],
    index: int,
    maps: Tensor,
    *,
    places: Tensor,
    roots: Tensor,
) -> None:
    # A block and its shortcut read the same maps: they count once.
    if any(at == index and other() is maps for at, other in seen):
        return
    seen.append((index, ref(maps)))
    total.index_add_(0, roots, ranks(maps[:, places]))


def _after(total: Tensor) -> Callable[[nn.Module, object, Tensor], None]:
    def add(_: nn.Module, __: object, output: Tensor) -> None:
        if output.ndim == 4 and output.shape[1] == len(total):
            total.add_(ranks(F.relu(output)))

    return add


def _watch_writers(group: Coupled, hook: Callable[[nn.Module, object, Tensor], None]) -> list:
    """Channels that only a linear layer reads: their maps behind the last normalisation."""
    layers = [part.layer for part in group.parts if not part.inputs]
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    return [layer.register_forward_hook(hook) for layer in (norms or layers)[-1:]]


def ranks(maps: Tensor) -> Tensor:
    """Ranks of maps `[n, c, h, w]`, summed over n: `[c]`, on the CPU."""
    height, width = maps.shape[2:]
    side = (min(height, LARGEST_MAP), min(width, LARGEST_MAP))
    if side != (height, width):
        maps = F.adaptive_avg_pool2d(maps, side)
    return torch.linalg.matrix_rank(maps).sum(0).to(torch.float32).cpu()
