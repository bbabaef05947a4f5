"""DepGraph: the group norm of coupled channels decides (Fang et al., CVPR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...networks.coupled import group_norms
from ...networks.families import Network
from ...networks.network import NetworkSpec
from .budget import Pruned, prune_to_budget


def prune_depgraph(
    network: Network, spec: NetworkSpec, images: Tensor, macs: int, *, multiple: int = 8
) -> Pruned:
    """One-shot DepGraph pruning to a budget, with Torch-Pruning's graph and importance.

    Every dependency group, residual ones too, loses the same share of its channels: those of the
    smallest group norm (`GroupMagnitudeImportance`, which was `GroupNormImportance` in earlier
    releases). At an equal share these are the channels that `tp.pruner.BasePruner` with
    `global_pruning=False` takes (a test). The classifier's outputs stay.

    Args:
        network: trained; not changed.
        spec: its resolution is the one that MACs are counted at.
        images: not looked at; here so that the methods are called alike.
        macs: budget of one photo.
        multiple: channels are kept in multiples of it.

    Raises:
        UsageError: the budget cannot be reached.
    """
    image = torch.zeros(1, 3, spec.resolution, spec.resolution)
    return prune_to_budget(network, image, macs, group_norms, multiple=multiple)
