"""What compression is compared with: how each method makes a smaller network out of a trained one.

Each gives a network that is ready to be fine-tuned; how long and how is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from edgecompress.errors import UsageError

from ..data.pixels import normalise
from ..networks.families import Network
from ..networks.network import NetworkSpec
from ..shrinking.law import Law
from ..shrinking.shrink import at_side, propose, widest
from ..training.learn import Compression, inherited

if TYPE_CHECKING:
    from .prune.budget import Pruned

Method = Literal["resolution", "width", "hrank", "depgraph", "member", "member-crop"]

TITLES: Mapping[str, str] = {
    "base": "uncompressed",
    "base-longer": "uncompressed, trained on as long as the others",
    "base-larger": "uncompressed, at a larger resolution (the last member alone)",
    "resolution": "resolution only, centre crop (RCC)",
    "width": "uniform width",
    "hrank": "HRank",
    "depgraph": "DepGraph (Torch-Pruning)",
    "member": "compound shrinking, one member",
    "member-crop": "one member on predicted crops",
    "cascade": "cascade, no cropping",
    "cascade-crop": "cascade on predicted crops",
    "edgecompress": "EdgeCompress (chosen on held-out photos)",
}
"""What people call the methods, in the order of a table."""

RCC_STEP = 2
"""Pixels between the sides that lower resolution alone may have."""

OTHERS: tuple[Method, ...] = ("resolution", "width", "hrank", "depgraph")
"""The methods that are not our own."""

COUNTED_AGAINST = (*OTHERS, "member", "cascade")
"""The methods that the full one is to lie on or above."""


@dataclass(frozen=True)
class Start:
    """A network before its fine-tuning.

    Attributes:
        spec: what it was made from; its resolution is the network's own.
        macs: of the network as it is.
        whole: whether `spec` alone can build it again (pruned ones cannot be).
    """

    network: Network
    spec: NetworkSpec
    macs: int
    params: int
    whole: bool = True


def built(one: Compression, spec: NetworkSpec) -> Start:
    """A network of a family, with the base's weights."""
    base_spec, base = one.load("base")
    network = base if spec == base_spec else inherited(one, spec)
    return Start(network, spec, spec.macs, spec.params)


def only_resolution(base: NetworkSpec, budget: float) -> NetworkSpec:
    """The base at the largest side (an even one) that the budget allows: the paper's RCC.

    Members have sides of multiples of 8, and their width takes up the rest of a budget. Here is
    nothing that would.

    Raises:
        UsageError: even the smallest side costs more.
    """
    spec = at_side(base, budget * base.macs, base.resolution, step=RCC_STEP)
    if spec is not None:
        return spec
    raise UsageError(
        f"no input side brings {base.family} to {budget:g} of its MACs", "raise the budget"
    )


def only_width(base: NetworkSpec, budget: float) -> NetworkSpec:
    """The base with all widths multiplied alike.

    Raises:
        UsageError: even the narrowest costs more.
    """
    spec = widest(base, budget * base.macs, most=base.width)
    if spec is not None:
        return spec
    raise UsageError(f"no width brings {base.family} to {budget:g} of its MACs", "raise the budget")


def start(
    one: Compression,
    method: Method,
    budget: float,
    *,
    law: Law | None,
    rank_photos: int,
) -> Start:
    """The network of a method within a budget, before fine-tuning.

    Args:
        budget: share of the base's MACs.
        law: as compound shrinking has measured it; only members below the base need it.
        rank_photos: how many training photos HRank looks at.

    Raises:
        UsageError: the method cannot meet the budget.
    """
    spec, base = one.load("base")
    if budget == 1:
        return built(one, spec)
    if method == "resolution":
        return built(one, only_resolution(spec, budget))
    if method == "width":
        return built(one, only_width(spec, budget))
    if method in ("member", "member-crop"):
        return built(one, propose(spec, law or Law({}), budget))
    images = _images(one, spec.resolution, rank_photos)
    limit = int(budget * spec.macs)
    pruned = _pruner(method)(base, spec, images, limit, multiple=spec.multiple)
    return Start(pruned.network, spec, pruned.macs, pruned.params, whole=False)


def _pruner(method: Method) -> Callable[..., Pruned]:
    # Torch-Pruning takes seconds to import.
    if method == "hrank":
        from .prune.hrank import prune_hrank

        return prune_hrank
    from .prune.depgraph import prune_depgraph

    return prune_depgraph


def _images(one: Compression, resolution: int, count: int) -> Tensor:
    """Training photos, spread evenly over them, as the base sees them `[n, 3, r, r]`."""
    cache = one.material.fit_cache
    places = torch.linspace(0, len(cache) - 1, min(count, len(cache))).round().long().tolist()
    squashed = cache.squashed(places, resolution).permute(0, 2, 3, 1)
    return normalise(squashed, one.material.preprocess)
