"""What a smaller network has from a larger one: the function stays where nothing of worth goes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgecompress.compress.families import Network, family_names
from edgecompress.compress.inherit import inherit
from edgecompress.compress.network import NetworkSpec
from edgecompress.compress.prune.coupled import Channels
from edgecompress.compress.relevance import block_worth, measure_blocks

PREDICTOR = "foreground_predictor"
SIDE = 64

# One of each structure: channels that shortcuts tie, depthwise, grouped, squeezed ones.
KINDS = [
    "resnet18",
    "resnet50",
    "resnet50_inner",
    "mobilenet_v2",
    "efficientnet_lite0",
    "regnet_x_400mf",
    "regnet_y_400mf",
    PREDICTOR,
]


def _spec(family: str, width: float, depth: float) -> NetworkSpec:
    if family == PREDICTOR:  # it is narrow as it is
        return NetworkSpec(family, 2 * width, depth, SIDE, 4)
    return NetworkSpec(family, width, depth, SIDE, 10)


def _trained(spec: NetworkSpec) -> Network:
    """As if trained: every BatchNorm has its own statistics, scales and offsets."""
    network = spec.build()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.3, 0.3)
            part.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0.0, 0.1)
    return network.eval()


def _logits(network: nn.Module) -> Tensor:
    image = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return network.eval()(image)


def _close(network: nn.Module, other: nn.Module) -> None:
    have, want = _logits(network), _logits(other)
    assert want.std() > 0
    torch.testing.assert_close(have, want, rtol=0, atol=2e-5 * want.abs().max().item())


@pytest.mark.parametrize("family", family_names())
def test_all_tensors_are_inherited(family: str) -> None:
    large, small = _trained(_spec(family, 0.5, 1.0)), _spec(family, 0.25, 0.5).build()
    before = copy.deepcopy(large)
    result = inherit(small, large)
    assert result.fresh == ()
    assert set(result.filled) == set(small.state_dict())
    assert result.by_importance
    values = {name: set(value.flatten().tolist()) for name, value in large.state_dict().items()}
    for name, value in small.state_dict().items():
        block = next((one for one in result.blocks if name.startswith(f"{one}.")), None)
        if block is not None:
            origin = result.blocks[block] + name[len(block) :]
            assert set(value.flatten().tolist()) <= values[origin], name
    for name, value in before.state_dict().items():
        assert torch.equal(value, large.state_dict()[name]), name


@pytest.mark.parametrize("family", KINDS)
def test_an_equal_network_is_copied(family: str) -> None:
    large = _trained(_spec(family, 0.5, 1.0))
    small = _spec(family, 0.5, 1.0).build()
    assert inherit(small, large).fresh == ()
    for name, value in large.state_dict().items():
        assert torch.equal(small.state_dict()[name], value), name


@pytest.mark.parametrize("family", KINDS)
def test_channels_of_no_worth_are_those_that_go(family: str) -> None:
    """Random channels of every group are zero: what is left is the same function."""
    large, small = _trained(_spec(family, 0.5, 1.0)), _spec(family, 0.25, 1.0).build()
    assert _silence(large, small) > 0
    inherit(small, large)
    _close(small, large)


def _silence(large: nn.Module, small: nn.Module) -> int:
    """Zero as many channels of each group as `small` has fewer; returns how many that were."""
    channels = Channels(copy.deepcopy(large), torch.zeros(1, 3, SIDE, SIDE))
    names = {layer: name for name, layer in channels.network.named_modules()}
    generator = torch.Generator().manual_seed(5)
    total = 0
    for group in channels.groups:
        kept: Any = small.get_submodule(group.name)
        fewer = (group.channels - kept.out_channels) * group.blocks // group.channels
        if group.blocks == 1:
            fewer = group.channels - kept.out_channels
        units = group.channels if group.blocks == 1 else group.blocks
        silent = torch.zeros(units, dtype=torch.bool)
        silent[torch.randperm(units, generator=generator)[:fewer]] = True
        silent = silent.repeat_interleave(group.channels // units)
        total += int(silent.sum())
        for part in group.parts:
            if part.inputs or part.layer not in names:
                continue
            layer: Any = large.get_submodule(names[part.layer])
            if not isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                continue
            where = torch.tensor(part.channels)[silent[torch.tensor(part.roots)]]
            with torch.no_grad():
                layer.weight[where] = 0
                if layer.bias is not None:
                    layer.bias[where] = 0
    return total


@pytest.mark.parametrize("family", KINDS)
def test_blocks_of_no_effect_are_those_that_go(family: str) -> None:
    """Random blocks have branches of zero: without them it is the same function."""
    large, small = _trained(_spec(family, 0.5, 1.0)), _spec(family, 0.5, 0.5).build()
    assert len(small.state_dict()) < len(large.state_dict())
    # What a shortcut takes past a block, and how many blocks each stage is to keep.
    kept: dict[str, list[str]] = {}
    for ours, origin in inherit(copy.deepcopy(small), large).blocks.items():
        kept.setdefault(_stage(large, origin)[0], []).append(ours)
    generator = torch.Generator().manual_seed(1)
    for first, ours in kept.items():
        rest = _stage(large, first)[1:]
        order = torch.randperm(len(rest), generator=generator).tolist()
        for index in order[len(ours) - 1 :]:
            last = [
                part
                for part in large.get_submodule(rest[index]).modules()
                if isinstance(part, nn.BatchNorm2d)
            ][-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            nn.init.zeros_(last.running_mean)  # type: ignore[arg-type]
    result = inherit(small, large)
    assert any(ours != theirs for ours, theirs in result.blocks.items())
    assert result.fresh == ()
    _close(small, large)


def _stage(network: Network, block: str) -> list[str]:
    """The names of the blocks of a stage: a first one, and those that keep the shape."""
    shapes: dict[str, bool] = {}
    handles = []
    names = [name for stage in network.block_names() for name in stage]
    for name in names:

        def note(_: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
            shapes[name] = inputs[0].shape == output.shape

        handles.append(network.get_submodule(name).register_forward_hook(note))
    _logits(network)
    for handle in handles:
        handle.remove()
    found: list[list[str]] = []
    for stage in network.block_names():
        for index, name in enumerate(stage):
            if index == 0 or not shapes[name]:
                found.append([])
            found[-1].append(name)
    return next(stage for stage in found if block in stage)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.floats(0.1, 0.5),
    st.floats(0.2, 1),
    st.sampled_from([8, 16]),
)
def test_any_smaller_network_is_filled(
    family: str, width: float, depth: float, multiple: int
) -> None:
    spec = _spec(family, width, depth)
    if family != PREDICTOR:
        spec = NetworkSpec(family, width, depth, SIDE, 10, multiple)
    small = spec.build()
    result = inherit(small, _trained(_spec(family, 0.5, 1.0)))
    assert result.fresh == ()
    assert torch.isfinite(_logits(small)).all()


def test_measured_blocks_decide() -> None:
    large, small = _trained(_spec("resnet34", 0.25, 1.0)), _spec("resnet34", 0.25, 0.5).build()
    names = [f"layer3.{index}" for index in range(6)]
    worth = {name: float(index in (2, 5)) for index, name in enumerate(names)}
    blocks = inherit(small, large, blocks=worth).blocks
    kept = [theirs for ours, theirs in blocks.items() if ours.startswith("layer3.")]
    assert kept[0] == "layer3.0"
    assert {"layer3.2", "layer3.5"} >= set(kept[1:])
    assert kept == sorted(kept)


def test_a_blocks_effect_is_measured_on_photos() -> None:
    network = _trained(_spec("efficientnet_lite0", 0.5, 1.0))
    quiet: Any = network.get_submodule("blocks.3.1.bn3")
    nn.init.zeros_(quiet.weight)
    nn.init.zeros_(quiet.bias)
    images = torch.randn(5, 3, SIDE, SIDE)
    names = [f"blocks.3.{index}" for index in range(3)]
    found = measure_blocks(network, names, images, batch=2)
    assert set(found) == {"blocks.3.1", "blocks.3.2"}  # the first one changes the shape
    assert found["blocks.3.1"] == 0
    assert found["blocks.3.2"] > 0
    assert found == pytest.approx(measure_blocks(network, names, images))
    assert block_worth(network.get_submodule("blocks.3.1")) == 0
    assert block_worth(network.get_submodule("blocks.3.2")) > 0


def test_more_than_there_was_stays_fresh() -> None:
    large = _trained(_spec("resnet18", 0.25, 1.0))
    deeper = _spec("resnet18", 0.25, 1.5).build()
    result = inherit(deeper, large)
    assert result.fresh
    assert all(name.split(".")[1] not in "01" for name in result.fresh)
    _close(deeper, large)  # fresh blocks of a ResNet begin as shortcuts
    wider = _spec("resnet18", 0.5, 1.0).build()
    assert "conv1.weight" in inherit(wider, large).fresh
    other = NetworkSpec("resnet18", 0.25, 1.0, SIDE, 7).build()
    assert inherit(other, large).fresh == ("fc.weight", "fc.bias")


class _Odd(nn.Module):
    """A network whose channels cannot be traced: it reads values while it runs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.fc = nn.Linear(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            raise RuntimeError("batches only")
        return self.fc(self.conv(x).mean((2, 3)))


def test_leading_channels_where_nothing_can_be_traced() -> None:
    large, small = _Odd(12), _Odd(4)
    result = inherit(small, large)
    assert not result.by_importance
    assert result.fresh == ()
    assert torch.equal(small.conv.weight, large.conv.weight[:4])
    assert torch.equal(small.fc.weight, large.fc.weight[:, :4])


def _patterns(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gratings of four directions in noise."""
    targets = torch.arange(count) % 4
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    angle = (targets * torch.pi / 4)[:, None, None]
    phase = 6.28 * torch.rand(count, 1, 1, generator=generator)
    waves = torch.sin(0.8 * (x * angle.cos() + y * angle.sin()) + phase)[:, None]
    return waves + 0.7 * torch.randn(count, 3, 32, 32, generator=generator), targets


@pytest.fixture(scope="module")
def taught() -> tuple[Network, Tensor, Tensor]:
    """A little ResNet that has learnt the gratings, and others to test with."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = NetworkSpec("resnet18", 0.5, 0.5, 32, 4).build()
    images, targets = _patterns(256, generator)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.05)
    for _ in range(5):
        for index in torch.randperm(256, generator=generator).split(32):
            loss = F.cross_entropy(network(images[index]), targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()
    test, wanted = _patterns(128, generator)
    with torch.no_grad():
        assert (network(test).argmax(1) == wanted).float().mean() > 0.9
    return network, test, wanted


def test_worthy_channels_are_a_better_start_than_leading_ones(
    taught: tuple[Network, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    large, test, wanted = taught

    def start(width: float) -> float:
        small = NetworkSpec("resnet18", width, 0.5, 32, 4).build()
        inherit(small, large)
        # Statistics of the narrowed network's own maps, as the first steps of training give.
        for part in small.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.reset_running_stats()
                part.momentum = None
        with torch.no_grad():
            small.train()(test)
            return F.cross_entropy(small.eval()(test), wanted).item()

    widths = (0.25, 0.375)
    worthy = [start(width) for width in widths]
    with monkeypatch.context() as patch:
        patch.setattr("edgecompress.compress.inherit._picks", lambda *_: None)
        leading = [start(width) for width in widths]
    print(worthy, leading)
    assert sum(worthy) < sum(leading)
