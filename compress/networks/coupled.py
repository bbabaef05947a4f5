"""Which channels of a network go together, what keeping so many of them costs, and their removal.

The dependency graph, and the removal of channels from layers, are Torch-Pruning's (Fang et al.,
"DepGraph: Towards Any Structural Pruning", CVPR 2023). What decides which channels go, and how
many, is given by the caller.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from edgecompress.errors import UsageError

LEAST_IN_A_GROUP = 2
"""Channels that each group of a grouped convolution keeps: with one it would be depthwise."""


@dataclass(frozen=True)
class Part:
    """What a coupled group holds of one layer.

    Attributes:
        inputs: its input channels belong to the group, else its outputs.
        channels: of the layer, in the group.
        roots: the group's channel that each of them goes with.
    """

    layer: nn.Module
    inputs: bool
    channels: tuple[int, ...]
    roots: tuple[int, ...]


@dataclass(frozen=True)
class Coupled:
    """Channels that can only go together, in every layer that has them.

    Attributes:
        root: the layer whose output channels number the group.
        name: of that layer.
        raw: Torch-Pruning's group of all channels.
        channels: how many there are.
        blocks: equal parts that must lose the same positions (groups of a grouped convolution).
        parts: what the group holds of each layer.
    """

    root: nn.Module
    name: str
    raw: Any
    channels: int
    blocks: int
    parts: tuple[Part, ...]

    @cached_property
    def producers(self) -> int:
        """Convolutions that write these channels; a shortcut couples several."""
        return sum(
            not part.inputs and isinstance(part.layer, nn.Conv2d) and not is_depthwise(part.layer)
            for part in self.parts
        )

    def step(self, multiple: int) -> int:
        """The number of channels that the kept ones are a multiple of."""
        if self.blocks == 1:
            return min(multiple, self.channels)
        # Of a grouped convolution every group keeps as many: a multiple of both where the groups
        # are wide enough for that, else one channel a group at a time.
        each = multiple // math.gcd(multiple, self.blocks)
        width = self.channels // self.blocks
        return self.blocks * (each if 4 * each <= width else 1)

    def least(self, multiple: int) -> int:
        """The fewest channels that can be kept."""
        step = self.step(multiple)
        least = step if self.blocks == 1 else max(step, LEAST_IN_A_GROUP * self.blocks)
        return min(least, self.channels)

    def kept(self, share: float, multiple: int) -> int:
        """How many channels a share of them is: rounded down to `step`, at least `least`."""
        if share >= 1:
            return self.channels
        step = self.step(multiple)
        count = int(share * self.channels + 1e-9) // step * step
        return max(count, self.least(multiple))

    def nearest(self, share: float, multiple: int) -> int:
        """How many channels a share of them is, as the families round it: to the nearest `step`,
        never below 90 % of the share."""
        step, wanted = self.step(multiple), share * self.channels
        count = int(wanted / step + 0.5) * step
        if count < 0.9 * wanted:
            count += step
        return min(max(count, self.least(multiple)), self.channels)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution of one group a channel."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels > 1


class Channels:
    """The coupled groups of a network, in the order in which it runs.

    Args:
        network: changed in place by `prune`; its weights are made trainable (the graph is found
            by autograd).
        image: `[1, 3, r, r]`.

    Raises:
        UsageError: the network cannot be traced.
    """

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        self.network = network.eval()
        for weight in network.parameters():
            weight.requires_grad_()
        self.positions = _positions(network, image)
        try:
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")
                self._graph = tp.DependencyGraph().build_dependency(network, image, verbose=False)
                raw = list(self._graph.get_all_groups([self.classifier]))
        except Exception as error:  # tracing runs foreign code and raises anything
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"the channels of {type(network).__name__} cannot be traced: {first}",
                "shrink its resolution only, or write it as a family (docs/families.md)",
            ) from error
        names = {layer: name for name, layer in network.named_modules()}
        self.groups: tuple[Coupled, ...] = tuple(self._coupled(group, names) for group in raw)

    @property
    def classifier(self) -> nn.Module:
        """The layer that runs last: its outputs are the classes."""
        return list(self.positions)[-1]

    def _coupled(self, group: Any, names: Mapping[nn.Module, str]) -> Coupled:
        parts, blocks = [], 1
        for item in group.items:
            layer, handler = item.dep.target.module, item.dep.handler
            inputs = not self._graph.is_out_channel_pruning_fn(handler)
            parts.append(Part(layer, inputs, tuple(item.idxs), tuple(item.root_idxs)))
            pruner = self._graph.get_pruner_of_module(layer)
            if not is_depthwise(layer) and pruner is not None:
                count = pruner.get_in_channel_groups if inputs else pruner.get_out_channel_groups
                blocks = max(blocks, count(layer))
        root = group[0].dep.target.module
        return Coupled(root, names[root], group, len(group[0].idxs), blocks, tuple(parts))

    def macs(self, keep: Sequence[int]) -> int:
        """Multiply-accumulates of one photo if each group kept so many channels."""
        inputs: dict[nn.Module, int] = {}
        outputs: dict[nn.Module, int] = {}
        for group, count in zip(self.groups, keep, strict=True):
            for part in group.parts:
                lost = len(part.channels) * (group.channels - count) // group.channels
                side = inputs if part.inputs else outputs
                side[part.layer] = side.get(part.layer, 0) + lost
        total = 0
        for layer, positions in self.positions.items():
            weight: Any = layer.weight
            out = weight.shape[0] - outputs.get(layer, 0)
            if is_depthwise(layer):
                total += positions * out * weight[0].numel()
                continue
            groups = getattr(layer, "groups", 1)
            taken = weight.shape[1] - inputs.get(layer, 0) // groups
            total += positions * out * taken * weight[0, 0].numel()
        return total

    def prune(self, keep: Sequence[int], scores: Sequence[Tensor]) -> None:
        """Keep the channels of the largest scores; the network is changed in place.

        Args:
            keep: channels to keep of each group.
            scores: `[channels]` of each group. Blocks of a group are ranked by their mean.
        """
        for group, count, score in zip(self.groups, keep, scores, strict=True):
            lost = lowest(score, group.channels - count, group.blocks)
            if lost:
                # Asked for anew: earlier removals have moved the channels of concatenations.
                handler = group.raw[0].dep.handler
                again = self._graph.get_pruning_group(group.root, handler, lost)
                again.prune(record_history=False)


def lowest(score: Tensor, count: int, blocks: int = 1) -> list[int]:
    """Indices of the `count` lowest scores, the earlier of equals; the same in all blocks."""
    mean = score.reshape(blocks, -1).mean(0)
    order = torch.argsort(mean, stable=True)[: count // blocks]
    width = len(mean)
    starts = width * torch.arange(blocks, device=order.device)
    return sorted((order[None] + starts[:, None]).flatten().tolist())


def _positions(network: nn.Module, image: Tensor) -> dict[nn.Module, int]:
    """Output positions of each convolution and linear layer, in the order they run."""
    found: dict[nn.Module, int] = {}

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        weight: Any = layer.weight
        found[layer] = found.pop(layer, 0) + output.numel() // weight.shape[0]

    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(add) for layer in layers]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return found


def group_norms(channels: Channels) -> Sequence[Tensor]:
    """Torch-Pruning's group importance (L2) of each group's channels."""
    norm = tp.importance.GroupMagnitudeImportance(p=2)

    def of(group: Coupled) -> Tensor:
        try:
            score = norm(group.raw)
        except IndexError:  # of convolutions in groups that give each channel several
            score = None
        # A group of a layer that it has no norm for keeps its leading channels.
        return torch.arange(group.channels, 0, -1.0) if score is None else score

    return [of(group) for group in channels.groups]
