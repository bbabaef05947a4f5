"""What a smaller network has from the larger one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgecompress.compress.networks.families import Network, find_family
from edgecompress.compress.networks.families.resnet import BasicBlock
from edgecompress.compress.networks.inherit import inherit
from edgecompress.compress.networks.relevance import block_worth, measure_blocks

SMALL = {
    "resnet18": (0.25, 32),
    "resnet50": (0.25, 32),
    "mobilenet_v2": (0.5, 32),
    "efficientnet_lite0": (0.5, 32),
    "regnet_x_400mf": (0.5, 32),
    "regnet_y_400mf": (0.5, 32),
}


def lively(network: Network) -> Network:
    """Every weight has a value of its own, BatchNorm's too."""
    generator = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            size = part.weight.shape
            part.weight.data = 0.5 + torch.rand(size, generator=generator)
            part.bias.data = 0.3 * torch.randn(size, generator=generator)
            part.running_mean = 0.1 * torch.randn(size, generator=generator)
            part.running_var = 0.5 + torch.rand(size, generator=generator)
    return network.eval()


@pytest.mark.parametrize("family", SMALL)
def test_the_same_network_is_a_copy(family: str) -> None:
    width, side = SMALL[family]
    large, small = (find_family(family).build(width, 1.0, side, 5) for _ in range(2))
    lively(large)
    told = inherit(small, large)
    assert not told.fresh
    for name, value in large.state_dict().items():
        assert torch.equal(value, small.state_dict()[name]), name


@pytest.mark.parametrize("family", SMALL)
def test_a_smaller_one_has_all_it_needs(family: str) -> None:
    width, side = SMALL[family]
    large = lively(find_family(family).build(2 * width, 1.0, side, 5))
    small = find_family(family).build(width, 0.5, side, 5)
    told = inherit(small, large)
    assert not told.fresh and told.by_importance
    assert torch.isfinite(small.eval()(torch.randn(2, 3, side, side))).all()


def silenced(block: nn.Module) -> None:
    """A residual block without a branch."""
    block.bn2.weight.data.zero_()  # type: ignore[union-attr]
    block.bn2.bias.data.zero_()  # type: ignore[union-attr]


def test_blocks_that_change_nothing_are_left_out() -> None:
    large = lively(find_family("resnet34").build(0.125, 1.0, 32, 5))
    silent = ["layer1.1", "layer2.1", "layer2.2", "layer3.2", "layer3.3", "layer3.4", "layer4.1"]
    for name in silent:
        silenced(large.get_submodule(name))
    small = find_family("resnet34").build(0.125, 9 / 16, 32, 5)
    counts = [len(stage) for stage in small.block_names()]
    told = inherit(small, large)
    kept = set(told.blocks.values())
    image = torch.randn(2, 3, 32, 32)
    if counts == [2, 2, 3, 2]:  # as many as are left
        assert not kept & set(silent)
        assert torch.allclose(small.eval()(image), large(image), atol=1e-5)
    assert kept >= {f"layer{stage}.0" for stage in (1, 2, 3, 4)}


def test_channels_that_say_nothing_are_left_out() -> None:
    """Half of a block's inner channels are zero, scattered: the narrow block is the same."""
    torch.manual_seed(3)
    large = BasicBlock(8, 16, 8, 1)
    dead = torch.randperm(16)[:8]
    large.bn1.weight.data[:] = 1.0
    large.bn1.weight.data[dead] = 0.0
    large.bn1.bias.data[dead] = 0.0

    class Around(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block
            self.fc = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.block(x.repeat(1, 3, 1, 1)[:, :8]).mean((2, 3)))

    wide, narrow = Around(large).eval(), Around(BasicBlock(8, 8, 8, 1)).eval()
    told = inherit(narrow, wide, side=16)
    assert told.by_importance and not told.fresh
    image = torch.randn(4, 3, 16, 16)
    assert torch.allclose(narrow(image), wide(image), atol=1e-5)


def test_what_is_worth_most_beats_the_leading_channels() -> None:
    """Before any training, narrowed by importance is nearer to the wide network."""
    errors = {"worth": 0.0, "leading": 0.0}
    for seed in range(3):
        torch.manual_seed(seed)
        large = lively(find_family("resnet18").build(0.25, 1.0, 32, 5))
        for part in large.modules():  # channels differ in size, as in trained networks
            if isinstance(part, nn.BatchNorm2d):
                size = torch.rand(part.weight.shape) ** 4
                part.weight.data *= size
                part.bias.data *= size
        image = torch.randn(8, 3, 32, 32)
        small = find_family("resnet18").build(0.125, 1.0, 32, 5)
        leading = copy.deepcopy(small)
        inherit(small, large)
        source = large.state_dict()
        for name, value in leading.state_dict().items():
            value.copy_(source[name][tuple(slice(n) for n in value.shape)])
        wanted = large(image).log_softmax(1)
        for kind, one in (("worth", small), ("leading", leading)):
            with torch.no_grad():
                errors[kind] += (one.eval()(image).log_softmax(1) - wanted).square().mean().item()
    assert errors["worth"] < errors["leading"]


def test_blocks_worth_told_by_weights_and_by_photos() -> None:
    network = lively(find_family("resnet18").build(0.125, 1.0, 32, 5))
    silenced(network.get_submodule("layer2.1"))
    assert block_worth(network.get_submodule("layer2.1")) == 0
    assert block_worth(network.get_submodule("layer3.1")) > 0
    names = [name for stage in network.block_names() for name in stage]
    found = measure_blocks(network, names, torch.randn(5, 3, 32, 32), batch=2)
    assert "layer2.0" not in found, "it changes the shape"
    assert found["layer2.1"] == pytest.approx(0.0, abs=1e-6)
    assert found["layer3.1"] > 0.01
