"""A smaller network begins with the larger one's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def inherit(small: nn.Module, large: nn.Module) -> int:
    """Copy, for each weight that both have by name, the leading part that fits.

    Blocks that depth took away are simply missing; where width is less, the first channels are
    kept, the same ones on both sides of every layer. It is a start for training, not a result: a
    narrowed network is far from the large one until it is trained.

    Returns:
        how many of `small`'s tensors were filled.
    """
    source = large.state_dict()
    target = small.state_dict()
    filled = 0
    with torch.no_grad():
        for name, value in target.items():
            given = source.get(name)
            if given is not None and given.ndim == value.ndim and _fits(value, given):
                value.copy_(given[tuple(slice(size) for size in value.shape)])
                filled += 1
    return filled


def _fits(small: Tensor, large: Tensor) -> bool:
    return all(a <= b for a, b in zip(small.shape, large.shape, strict=True))
