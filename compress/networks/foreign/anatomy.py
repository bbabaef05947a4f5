"""What a foreign network can be shrunk in, found out by running it.

Nothing is asked of the network but that it maps `[n, 3, r, r]` to `[n, classes]`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.errors import UsageError

from ..families.layers import thin_stages
from ..macs import count_macs

MAPS_SIDE = 224
"""Side at which the last map is looked for: at the job's own it may have one position."""
OTHER_SIDES = (0.5, 2.0)
"""A network that runs at these shares of its side takes any."""


@dataclass(frozen=True)
class Stage:
    """Blocks one after the other in one container that keep their input's shape.

    Attributes:
        blocks: names, in order; any may be left out, the last ones are.
        least: how many must stay.
    """

    blocks: tuple[str, ...]
    least: int


@dataclass(frozen=True)
class Anatomy:
    """What was found out about a network.

    Attributes:
        side: at which it was run, pixels.
        any_side: whether it takes other sides.
        stages: blocks that can be left out.
        width: whether channels can be pruned.
        maps: name of the module that gives the last maps, or None where there is no cut.
        reasons: why not, for each of `width`, `depth`, `resolution`, `maps` that is not possible.
    """

    side: int
    any_side: bool
    stages: tuple[Stage, ...]
    width: bool
    maps: str | None
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class Capabilities:
    """In which ways a network can be shrunk, and whether boxes can be drawn with it.

    Attributes:
        width, depth, resolution: can be shrunk.
        maps: activation maps can be drawn, which cropping needs.
        reasons: why not, for each that is False.
    """

    width: bool
    depth: bool
    resolution: bool
    maps: bool
    reasons: Mapping[str, str]


def capabilities(module: nn.Module, resolution: int) -> Capabilities:
    """What can be done with a network that takes `[n, 3, r, r]`; the module is not changed.

    Raises:
        UsageError: it does not run at this resolution.
    """
    found = examine(module, resolution)
    return Capabilities(
        width=found.width,
        depth=bool(found.stages),
        resolution=found.any_side,
        maps=found.maps is not None,
        reasons=found.reasons,
    )


def examine(module: nn.Module, side: int) -> Anatomy:
    """Run a copy of the network in several ways.

    Raises:
        UsageError: it does not run at `side`, or gives no `[n, classes]`.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        network = copy.deepcopy(module).eval()
        run(network, side)
        reasons: dict[str, str] = {}
        refused = [refusal(network, max(round(share * side), 8)) for share in OTHER_SIDES]
        if any(refused):
            reasons["resolution"] = next(text for text in refused if text)
        stages = find_stages(network, side)
        if not stages:
            reasons["depth"] = "no block in a Sequential or ModuleList keeps its input's shape"
        width = _narrows(network, side)
        if width:
            reasons["width"] = width
        large = max(side, MAPS_SIDE)
        maps = find_maps(network, side if refusal(network, large) else large)
        if maps is None:
            reasons["maps"] = "no module gives the last maps that all classes are computed from"
        return Anatomy(side, not any(refused), stages, not width, maps, reasons)


def run(network: nn.Module, side: int) -> Tensor:
    """Logits `[2, classes]` of noise.

    Raises:
        UsageError: it does not run, or gives something else.
    """
    try:
        with torch.no_grad():
            logits = network(_noise(side))
    except Exception as error:  # the user's code
        first = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"{type(network).__name__} does not run at {side} pixels: {first}",
            "set `resolution` in [compress.base] to the side that it is made for",
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"{type(network).__name__} gives {shape} for two photos, not [2, classes]",
            "let it return the logits alone",
        )
    return logits


def refusal(network: nn.Module, side: int) -> str:
    """Why the network does not run at a side, or ''."""
    try:
        run(network, side)
    except UsageError as error:
        return error.message
    return ""


def _noise(side: int) -> Tensor:
    return torch.randn(2, 3, side, side)


def find_stages(network: nn.Module, side: int) -> tuple[Stage, ...]:
    """Blocks that can be left out, by container.

    They are those with a shortcut (with all weights at zero, such a block gives what it gets); in
    a network without any, all that keep their input's shape. Leaf layers are no blocks.
    """
    calls = _calls(network, side)
    parents = {
        f"{outer}.{inner}" if outer else inner: part
        for outer, part in network.named_modules()
        if isinstance(part, nn.Sequential | nn.ModuleList)
        for inner, _ in part.named_children()
    }
    keep_shape = [
        name
        for name in parents
        if len(calls.get(name, ())) == 1
        and (given := calls[name][0])[0] is not None
        and given[0].shape == given[1].shape
        and any(True for _ in network.get_submodule(name).children())
        and any(True for _ in network.get_submodule(name).parameters())
    ]
    shortcuts = [name for name in keep_shape if _is_shortcut(network, name, calls[name][0][0])]
    names = [
        name
        for name in _innermost(shortcuts or keep_shape)
        if not refusal(_without(network, [name]), side)
    ]
    stages = []
    for outer, inner in groupby(sorted(names, key=_container), key=_container):
        blocks = tuple(sorted(inner, key=names.index))
        others = [
            child
            for child in parents
            if _container(child) == outer
            and child not in blocks
            and any(True for _ in network.get_submodule(child).parameters())
        ]
        stages.append(Stage(blocks, least=0 if others else 1))
    stages = [stage for stage in stages if len(stage.blocks) > stage.least]
    order = {name: place for place, name in enumerate(calls)}
    return tuple(sorted(stages, key=lambda stage: order[stage.blocks[0]]))


def left_out(stages: tuple[Stage, ...], depth: float) -> tuple[str, ...]:
    """Names of the blocks that go at a depth multiplier: they go as in the other families."""
    if not stages:
        return ()
    # What must stay beside them (the block that strides) counts as a block of its stage.
    counts = [len(stage.blocks) + 1 - stage.least for stage in stages]
    kept = thin_stages(counts, min(depth, 1.0))
    return tuple(
        name
        for stage, before, after in zip(stages, counts, kept, strict=True)
        for name in stage.blocks[len(stage.blocks) - (before - after) :]
    )


def leave_out(network: nn.Module, names: tuple[str, ...] | list[str]) -> None:
    """Put an identity in the place of blocks."""
    for name in names:
        outer, _, inner = name.rpartition(".")
        setattr(network.get_submodule(outer), inner, nn.Identity())


def _without(network: nn.Module, names: list[str]) -> nn.Module:
    copied = copy.deepcopy(network)
    leave_out(copied, names)
    return copied


def _container(name: str) -> str:
    return name.rpartition(".")[0]


def _innermost(names: list[str]) -> list[str]:
    return [name for name in names if not any(one.startswith(f"{name}.") for one in names)]


def _is_shortcut(network: nn.Module, name: str, given: Tensor) -> bool:
    block = copy.deepcopy(network.get_submodule(name)).eval()
    with torch.no_grad():
        for weight in block.parameters():
            weight.zero_()
        for value in block.buffers():
            if value.is_floating_point():
                value.zero_()
        # An activation behind the sum leaves what is positive as it is.
        image = given.abs().clamp(1e-3, 1.0)
        try:
            return bool(torch.allclose(block(image.clone()), image, atol=1e-5))
        except Exception:  # not a block that can run alone
            return False


def _calls(network: nn.Module, side: int) -> dict[str, list[tuple[Any, Any]]]:
    """What each module got (a lone tensor, or None) and gave, in the order they ended."""
    found: dict[str, list[tuple[Any, Any]]] = {}

    def watch(name: str):
        def seen(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            lone = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Tensor) else None
            given = output if isinstance(output, Tensor) else None
            if given is None:
                lone = None
            # What ends later comes later, also where a module is called again.
            found[name] = [*found.pop(name, []), (lone, given)]

        return seen

    with hooked((part, watch(name)) for name, part in network.named_modules() if name):
        run(network, side)
    return found


@contextmanager
def hooked(pairs: Any) -> Iterator[None]:
    """Forward hooks for the length of a block: pairs of a module and a hook."""
    handles = [part.register_forward_hook(hook) for part, hook in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_maps(network: nn.Module, side: int) -> str | None:
    """Name of the module that gives the last maps of more than one position, or None.

    All logits must be computed from those maps alone: the network is run with them in place of
    what another photo gives there.
    """
    calls = _calls(network, side)
    for name, given in reversed(calls.items()):
        output = given[0][1]
        part = network.get_submodule(name)
        if len(given) > 1 or output is None or output.ndim != 4 or min(output.shape[2:]) < 2:
            continue
        if isinstance(part, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d | nn.Dropout):
            continue
        return name if _decides(network, name, side) else None
    return None


def _decides(network: nn.Module, name: str, side: int) -> bool:
    part = network.get_submodule(name)
    with torch.no_grad():
        image = _noise(side)
        maps = maps_of(network, part, image)
        got = logits_of(network, part, maps, torch.zeros_like(image))
        return bool(torch.allclose(got, network(image), rtol=1e-4, atol=1e-5))


def maps_of(network: nn.Module, part: nn.Module, image: Tensor) -> Tensor:
    """What a module of the network gives for an image."""
    kept: list[Tensor] = []
    # A copy: what follows may change it in place.
    with hooked([(part, lambda _, __, output: kept.append(output.clone()))]):
        network(image)
    return kept[-1]


def logits_of(network: nn.Module, part: nn.Module, maps: Tensor, image: Tensor) -> Tensor:
    """What the network makes of given maps of one of its modules; the image does not matter."""
    with hooked([(part, lambda _, __, ___: maps.clone())]):
        return network(image)


def _narrows(network: nn.Module, side: int) -> str:
    """Why channels cannot be pruned, or ''."""
    from ..coupled import Channels  # Torch-Pruning takes a while to import

    copied = copy.deepcopy(network)
    image = torch.zeros(1, 3, side, side)
    try:
        channels = Channels(copied, image)
        keep = [group.kept(0.5, 1) for group in channels.groups]
        before = channels.macs([group.channels for group in channels.groups])
        expected = channels.macs(keep)
        channels.prune(keep, [torch.ones(group.channels) for group in channels.groups])
        with torch.no_grad():
            if count_macs(copied, image) != expected:
                return "the layers do not shrink as their dependencies say"
    except UsageError as error:
        return error.message
    except Exception as error:  # what is pruned wrongly fails anywhere
        return f"a pruned copy does not run: {(str(error).splitlines() or [''])[0]}"
    return "" if expected < before else "no layer has channels that can go"
