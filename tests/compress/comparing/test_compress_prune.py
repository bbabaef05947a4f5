"""Pruned networks against the original with the same channels silenced, and their budgets."""

from __future__ import annotations

import copy

import pytest
import torch
import torch_pruning as tp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgecompress.compress.comparing.prune.budget import solve
from edgecompress.compress.comparing.prune.depgraph import prune_depgraph
from edgecompress.compress.comparing.prune.hrank import average_ranks, prune_hrank, ranks
from edgecompress.compress.networks.coupled import Channels, group_norms, is_depthwise, lowest
from edgecompress.compress.networks.export import write_onnx
from edgecompress.compress.networks.macs import count_macs
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.errors import UsageError

SPECS = [
    NetworkSpec("resnet18", 0.5, 1.0, 64, 10),
    NetworkSpec("resnet50", 0.5, 0.5, 64, 10),
    NetworkSpec("mobilenet_v2", 1.0, 0.6, 64, 10),
    NetworkSpec("efficientnet_lite0", 1.0, 0.6, 64, 10),
]
METHODS = [prune_hrank, prune_depgraph]


class Joined(nn.Module):
    """Concatenation, a shortcut and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.mix = nn.Sequential(nn.Conv2d(48, 32, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.inner = nn.Sequential(
            nn.Conv2d(32, 48, 1),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, 48, 3, 1, 1, groups=3),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, 32, 1),
            nn.BatchNorm2d(32),
        )
        self.head = nn.Linear(32 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(torch.cat([self.left(x), self.right(x)], 1))
        x = torch.relu(x + self.inner(x))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def alive(network: nn.Module) -> nn.Module:
    """Normalisation as after a training: no scale is 0, means and variances differ."""
    generator = torch.Generator().manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            with torch.no_grad():
                part.weight.copy_(0.5 + torch.rand(part.weight.shape, generator=generator))
                part.bias.copy_(0.1 * torch.randn(part.bias.shape, generator=generator))
            part.running_mean = 0.1 * torch.randn(part.running_mean.shape, generator=generator)
            part.running_var = 0.5 + torch.rand(part.running_var.shape, generator=generator)
    return network.eval()


def silence(channels: Channels, lost: list[list[int]]) -> None:
    """Zero the filters and the normalisation of channels, wherever they are written."""
    for group, roots in zip(channels.groups, lost, strict=True):
        for part in group.parts:
            places = [c for c, root in zip(part.channels, part.roots, strict=True) if root in roots]
            if part.inputs and not is_depthwise(part.layer):
                continue
            with torch.no_grad():
                for value in part.layer.parameters(recurse=False):
                    value[places] = 0


def image_of(side: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


NETWORKS = [*(spec.family for spec in SPECS), "joined"]


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "joined":
        return alive(Joined())
    return alive(next(spec for spec in SPECS if spec.family == name).build())


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_is_the_original_with_channels_silenced(name: str) -> None:
    network = network_of(name)
    image = image_of(64, 2)
    small, masked = copy.deepcopy(network), copy.deepcopy(network)
    channels = Channels(small, image[:1])
    others = Channels(masked, image[:1])
    generator = torch.Generator().manual_seed(3)
    scores = [torch.rand(group.channels, generator=generator) for group in channels.groups]
    keep = [
        group.kept(0.5 + 0.4 * float(score[0]), 8)
        for group, score in zip(channels.groups, scores, strict=True)
    ]
    predicted = channels.macs(keep)
    silence(
        others,
        [
            lowest(score, group.channels - count, group.blocks)
            for group, count, score in zip(channels.groups, keep, scores, strict=True)
        ],
    )
    channels.prune(keep, scores)
    with torch.no_grad():
        want, got = masked(image), small(image)
        assert (network(image) - want).abs().max() > 1e-3
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    assert count_macs(small, image[:1]) == predicted < count_macs(network, image[:1])


@pytest.mark.parametrize("prune", METHODS)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.family)
def test_a_budget_is_met_and_used(spec: NetworkSpec, prune) -> None:
    network = alive(spec.build())
    before = copy.deepcopy(network.state_dict())
    images = image_of(spec.resolution, 2)
    for budget in (0.3, 0.7):
        pruned = prune(network, spec, images, int(budget * spec.macs))
        assert 0.95 * budget <= pruned.macs / spec.macs <= budget
        assert pruned.macs == count_macs(pruned.network, images[:1])
        assert pruned.params == sum(value.numel() for value in pruned.network.parameters())
        assert all(count % 8 == 0 for count in pruned.channels.values())
        features = pruned.network.forward_features(images)
        assert pruned.network.forward_head(features).shape == (2, spec.classes)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("prune", METHODS)
def test_kept_filters_are_the_originals_and_the_choice_is_the_same_again(prune) -> None:
    spec = SPECS[0]
    network = alive(spec.build())
    images = image_of(64, 4)
    one, two = (prune(network, spec, images, int(0.5 * spec.macs)).network for _ in range(2))
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    stem = {tuple(row.flatten().tolist()) for row in network.conv1.weight}
    assert all(tuple(row.flatten().tolist()) in stem for row in one.conv1.weight)
    norms = set(network.layer3[0].bn1.weight.tolist())
    assert len(one.layer3[0].bn1.weight) < len(norms)
    assert set(one.layer3[0].bn1.weight.tolist()) < norms


@pytest.mark.parametrize("prune", METHODS)
def test_silent_channels_go_first(prune) -> None:
    spec = SPECS[0]
    network = alive(spec.build())
    image = image_of(64, 4)
    channels = Channels(network, image[:1])
    inner = [group.producers == 1 for group in channels.groups]
    generator = torch.Generator().manual_seed(5)
    which = [torch.randperm(group.channels, generator=generator) for group in channels.groups]
    keep = [
        group.channels // 2 if may or prune is prune_depgraph else group.channels
        for group, may in zip(channels.groups, inner, strict=True)
    ]
    lost = [order[count:].tolist() for order, count in zip(which, keep, strict=True)]
    silence(channels, lost)
    pruned = prune(network, spec, image, channels.macs(keep))
    assert pruned.macs == channels.macs(keep)
    with torch.no_grad():
        want = network(image)
        torch.testing.assert_close(pruned.network(image), want, rtol=1e-4, atol=1e-4)
    assert want.abs().max() > 1e-2


@pytest.mark.parametrize("spec", SPECS[:3], ids=lambda spec: spec.family)
def test_depgraph_takes_the_channels_that_torch_pruning_takes(spec: NetworkSpec) -> None:
    image = image_of(spec.resolution)
    ours, theirs = (copy.deepcopy(alive(spec.build())) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    channels = Channels(ours, image)
    keep = [group.kept(0.6, 8) for group in channels.groups]
    channels.prune(keep, group_norms(channels))
    for value in theirs.parameters():
        value.requires_grad_()
    tp.pruner.BasePruner(
        theirs,
        image,
        tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.4,
        round_to=8,
        ignored_layers=[[p for p in theirs.modules() if isinstance(p, nn.Linear)][-1]],
        in_channel_groups={},
        out_channel_groups={},
    ).step()
    mine, other = ours.state_dict(), theirs.state_dict()
    differ = [name for name in mine if mine[name].shape != other[name].shape]
    assert differ == []
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_ranks_are_those_of_the_matrices() -> None:
    row = torch.randn(3, 4, 8, 1)
    one = row @ torch.randn(3, 4, 1, 8)
    torch.testing.assert_close(ranks(one), torch.full((4,), 3.0))
    torch.testing.assert_close(ranks(torch.eye(8).expand(3, 4, 8, 8)), torch.full((4,), 24.0))
    assert ranks(torch.randn(1, 2, 40, 40)).tolist() == [16, 16]
    assert ranks(torch.zeros(2, 1, 5, 3)).tolist() == [0]


def test_average_ranks_are_of_the_maps_behind_the_activation() -> None:
    network = alive(SPECS[0].build())
    images = image_of(64, 40)
    channels = Channels(network, images[:1])
    found = dict(
        zip([g.name for g in channels.groups], average_ranks(channels, images), strict=True)
    )
    block = network.layer3[1]
    with torch.no_grad():
        x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        x = network.layer3[0](network.layer2(network.layer1(x)))
        inner = torch.relu(block.bn1(block.conv1(x)))
    want = torch.linalg.matrix_rank(inner).float().mean(0)
    torch.testing.assert_close(found["layer3.1.conv1"], want)
    # Channels that a shortcut couples: all maps that they are in.
    with torch.no_grad():
        after = block(x)
    want = sum(torch.linalg.matrix_rank(maps).float().mean(0) for maps in (x, after))
    coupled = next(
        g.name
        for g in channels.groups
        if network.layer3[0].conv2 in {p.layer for p in g.parts if not p.inputs}
    )
    torch.testing.assert_close(found[coupled], want)


def test_hrank_prunes_inside_blocks_as_long_as_that_is_enough() -> None:
    spec = SPECS[0]
    network = alive(spec.build())
    images = image_of(64, 2)
    mild = prune_hrank(network, spec, images, int(0.6 * spec.macs)).channels
    assert mild["layer2.0.conv2"] == mild["layer2.0.downsample.0"] == 64
    assert mild["layer2.1.conv1"] < 64
    harsh = prune_hrank(network, spec, images, int(0.1 * spec.macs)).channels
    assert harsh["layer2.0.conv2"] == harsh["layer2.0.downsample.0"] < 64


@pytest.mark.parametrize("prune", METHODS)
def test_what_no_pruning_reaches_is_refused(prune) -> None:
    spec = SPECS[0]
    with pytest.raises(UsageError, match="cannot bring") as caught:
        prune(spec.build(), spec, image_of(64), 1000)
    assert "budget" in caught.value.hint
    whole = prune(spec.build(), spec, image_of(64), spec.macs)
    assert (whole.macs, whole.params) == (spec.macs, spec.params)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.06, 1.0), st.sampled_from([1, 4, 8, 16]))
def test_solved_counts_meet_any_budget(share: float, multiple: int) -> None:
    channels = TRACED
    full = channels.macs([group.channels for group in channels.groups])
    least = channels.macs([group.kept(0.0, multiple) for group in channels.groups])
    budget = int(share * full)
    if budget < least:
        with pytest.raises(UsageError):
            solve(channels, budget, multiple)
        return
    keep = solve(channels, budget, multiple)
    assert channels.macs(keep) <= budget
    for group, count in zip(channels.groups, keep, strict=True):
        assert 0 < count <= group.channels
        assert count % group.step(multiple) == 0 or count == group.channels
        assert count % group.blocks == 0


TRACED = Channels(alive(Joined()), torch.zeros(1, 3, 32, 32))


def test_a_pruned_network_trains_and_exports(tmp_path) -> None:
    spec = NetworkSpec("resnet18", 0.25, 1.0, 32, 4)
    pruned = prune_depgraph(alive(spec.build()), spec, image_of(32), int(0.5 * spec.macs))
    network = pruned.network.train()
    network(image_of(32, 4)).square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    write_onnx(network, image_of(32), tmp_path / "pruned.onnx")
    assert (tmp_path / "pruned.onnx").stat().st_size > 4 * pruned.params
