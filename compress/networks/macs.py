"""What a network computes, counted layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def count_macs(network: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates of one forward pass: convolutions and linear layers.

    Args:
        image: `[1, 3, r, r]` on the network's device.
    """
    total = 0

    def add(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        weight: Any = module.weight
        total += output.numel() * weight[0].numel()

    handles = [
        part.register_forward_hook(add)
        for part in network.modules()
        if isinstance(part, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        network(image)
    for handle in handles:
        handle.remove()
    return total
