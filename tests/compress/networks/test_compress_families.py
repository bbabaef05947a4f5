"""Networks against PyTorch's own counters, published sizes and the paper's tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgecompress.compress.networks.families import family_names, find_family
from edgecompress.compress.networks.families.efficientnet import VARIANTS
from edgecompress.compress.networks.families.layers import (
    SameConv2d,
    round_channels,
    same_padding,
    thin_stages,
)
from edgecompress.compress.networks.families.resnet import resnet50_blocks
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.errors import InputError, UsageError

IMAGENET = 1000

# Published parameter counts (torchvision's model pages; timm's for EfficientNet-Lite, ResNet-D and
# the RegNets of 200 and 600 MF).
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet18d": 11_708_744,
    "resnet34d": 21_816_904,
    "resnet50d": 25_576_264,
    "mobilenet_v2": 3_504_872,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "efficientnet_lite3": 8_197_096,
    "efficientnet_lite4": 13_006_568,
    "regnet_x_200mf": 2_684_792,
    "regnet_x_400mf": 5_495_976,
    "regnet_x_600mf": 6_196_040,
    "regnet_x_800mf": 7_259_656,
    "regnet_x_1_6gf": 9_190_136,
    "regnet_y_200mf": 3_162_996,
    "regnet_y_400mf": 4_344_144,
    "regnet_y_600mf": 6_055_160,
    "regnet_y_800mf": 6_432_512,
    "regnet_y_1_6gf": 11_202_430,
}

SMALL = [
    NetworkSpec("resnet18", 0.5, 0.75, 40, 7),
    NetworkSpec("resnet50", 0.25, 0.5, 33, 3),
    NetworkSpec("resnet50d", 0.25, 0.5, 45, 3),
    NetworkSpec("resnet50", 1.0, 0.3, 32, 3, inner=0.25),
    NetworkSpec("resnet18d", 0.5, 1.0, 40, 3, inner=0.3),
    NetworkSpec("mobilenet_v2", 0.35, 0.6, 48, 5),
    NetworkSpec("efficientnet_lite0", 0.5, 0.5, 45, 5),
    NetworkSpec("foreground_predictor", 1.0, 1.0, 48, 4),
    NetworkSpec("regnet_x_1_6gf", 0.3, 0.4, 48, 5),
    NetworkSpec("regnet_y_400mf", 0.5, 0.6, 45, 5),
    NetworkSpec("regnet_y_400mf", 1.0, 0.6, 45, 5, inner=0.5),
    NetworkSpec("mobilenet_v2", 1.0, 0.6, 48, 5, inner=0.3),
    NetworkSpec("efficientnet_lite0", 0.7, 0.5, 45, 5, inner=0.6),
]

SHRINKABLE = [name for name in family_names() if name != "foreground_predictor"]


@pytest.mark.parametrize(("name", "params"), PARAMETERS.items())
def test_parameters_are_the_published_ones(name: str, params: int) -> None:
    spec = NetworkSpec(name, 1.0, 1.0, find_family(name).resolution, IMAGENET)
    assert spec.params == params


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("resnet50", 4.09),
        ("resnet18", 1.81),
        ("mobilenet_v2", 0.301),
        ("efficientnet_lite0", 0.385),
        ("efficientnet_lite1", 0.600),
        ("efficientnet_lite2", 0.860),
        ("regnet_x_200mf", 0.199),
        ("regnet_x_400mf", 0.414),
        ("regnet_x_600mf", 0.601),
        ("regnet_x_800mf", 0.800),
        ("regnet_x_1_6gf", 1.603),
        ("regnet_y_400mf", 0.402),
        ("regnet_y_800mf", 0.834),
        ("regnet_y_1_6gf", 1.612),
    ],
)
def test_macs_are_the_published_ones(name: str, gmacs: float) -> None:
    spec = NetworkSpec(name, 1.0, 1.0, find_family(name).resolution, IMAGENET)
    assert spec.macs / 1e9 == pytest.approx(gmacs, rel=0.005)


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: f"{spec.family}-{spec.inner}")
def test_macs_agree_with_pytorchs_counter(spec: NetworkSpec) -> None:
    network = spec.build().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = network(torch.zeros(1, 3, spec.resolution, spec.resolution))
    assert output.shape == (1, spec.classes)
    assert counter.get_total_flops() == 2 * spec.macs
    assert sum(weight.numel() for weight in network.parameters()) == spec.params


@pytest.mark.parametrize("family", SHRINKABLE)
@pytest.mark.parametrize(
    ("width", "depth", "side", "multiple"),
    [
        (0.5, 0.7, 49, 8),
        (0.35, 0.4, 32, 16),
        pytest.param(1.0, 1.0, 64, 8, marks=pytest.mark.slow),
        pytest.param(1.3, 1.2, 32, 8, marks=pytest.mark.slow),
    ],
)
def test_macs_are_exact_at_any_multiplier(
    family: str, width: float, depth: float, side: int, multiple: int
) -> None:
    spec = NetworkSpec(family, width, depth, side, 7, multiple)
    with torch.device("meta"):  # the counter needs shapes only
        network = spec.build().eval()
        image = torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    assert counter.get_total_flops() == 2 * spec.macs
    assert sum(weight.numel() for weight in network.parameters()) == spec.params


@pytest.mark.parametrize("family", SHRINKABLE)
def test_channels_are_multiples_of_what_was_asked(family: str) -> None:
    with torch.device("meta"):
        published = NetworkSpec(family, 1.0, 1.0, 64, 7).build()
        same = NetworkSpec(family, 1.0, 1.0, 64, 7, 16).build()
        narrow = NetworkSpec(family, 0.5, 1.0, 64, 7, 16, inner=0.7).build()
    full = {name: tuple(value.shape) for name, value in published.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in same.state_dict().items()} == full
    for name, layer in narrow.named_modules():
        if isinstance(layer, nn.Conv2d) and ".se." not in name:
            kept = layer.out_channels == full[f"{name}.weight"][0]
            assert kept or layer.out_channels % 16 == 0, name


@pytest.mark.parametrize("family", family_names("regnet_*"))
@pytest.mark.parametrize("width", [0.1, 0.37, 0.5, 1.0])
def test_a_groups_width_stays(family: str, width: float) -> None:
    def groups(width: float, inner: float = 1.0) -> list[int]:
        with torch.device("meta"):
            network = NetworkSpec(family, width, 1.0, 64, 7, inner=inner).build()
        return [
            layer.in_channels // layer.groups
            for layer in network.modules()
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
        ][1:]

    assert groups(width) == groups(1.0) == groups(1.0, inner=width)
    assert len(set(groups(1.0))) == 1


def test_squeeze_and_excitation_weighs_channels() -> None:
    network = NetworkSpec("regnet_y_200mf", 1.0, 1.0, 32, 5).build()
    squeeze: Any = network.get_submodule("trunk_output.block2.block2-0.f.se")
    maps = torch.randn(2, 56, 6, 6)
    factors = squeeze(maps) / maps
    assert factors.amin() > 0
    assert factors.amax() < 1
    torch.testing.assert_close(factors, factors[:, :, :1, :1].expand_as(factors))
    weights = [squeeze.fc1.weight[..., 0, 0], squeeze.fc2.weight[..., 0, 0]]
    hidden = torch.relu(maps.mean((2, 3)) @ weights[0].T + squeeze.fc1.bias)
    want = torch.sigmoid(hidden @ weights[1].T + squeeze.fc2.bias)
    torch.testing.assert_close(factors[:, :, 0, 0], want)


def test_shrunk_resnet50_costs_what_the_paper_says() -> None:
    # d .8, w .5, r 184: 1.2 GMACs in the paper's table; d 1, w .6, r 224: 2.4; rounding of
    # channels and of the table explains a tenth.
    small = NetworkSpec("resnet50", 1.0, 0.8, 184, IMAGENET, inner=0.5)
    middle = NetworkSpec("resnet50", 1.0, 1.0, 224, IMAGENET, inner=0.6)
    assert small.macs / 1e9 == pytest.approx(1.2, rel=0.1)
    assert middle.macs / 1e9 == pytest.approx(2.4, rel=0.1)
    assert resnet50_blocks(0.8) == (3, 3, 4, 3)
    assert resnet50_blocks(0.31) == (1, 1, 2, 1)


def test_names_are_those_of_torchvision_and_timm() -> None:
    def names(family: str) -> set[str]:
        return set(NetworkSpec(family, 1.0, 1.0, 64, 10).build().state_dict())

    assert {"conv1.weight", "layer1.0.bn2.running_var", "fc.bias"} <= names("resnet18")
    assert {"layer2.0.downsample.1.weight", "layer4.2.conv3.weight"} <= names("resnet50")
    assert {"features.0.0.weight", "features.1.conv.2.bias", "classifier.1.bias"} <= names(
        "mobilenet_v2"
    )
    assert {"features.18.1.weight", "features.2.conv.1.0.weight"} <= names("mobilenet_v2")
    assert {"conv_stem.weight", "blocks.0.0.conv_pw.weight", "blocks.1.0.conv_pwl.weight"} <= names(
        "efficientnet_lite0"
    )
    assert {"blocks.6.0.bn3.bias", "conv_head.weight", "classifier.weight"} <= names(
        "efficientnet_lite0"
    )


def test_names_of_regnet_are_torchvisions() -> None:
    state = NetworkSpec("regnet_y_400mf", 1.0, 1.0, 64, 1000).build().state_dict()
    shapes = {
        "stem.0.weight": (32, 3, 3, 3),
        "stem.1.running_mean": (32,),
        "trunk_output.block1.block1-0.proj.0.weight": (48, 32, 1, 1),
        "trunk_output.block1.block1-0.f.b.0.weight": (48, 8, 3, 3),
        "trunk_output.block1.block1-0.f.se.fc1.weight": (8, 48, 1, 1),
        "trunk_output.block2.block2-2.f.a.1.weight": (104,),
        "trunk_output.block4.block4-5.f.c.0.weight": (440, 440, 1, 1),
        "fc.weight": (1000, 440),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_an_unknown_family_offers_near_names() -> None:
    with pytest.raises(UsageError) as caught:
        NetworkSpec("resnet19", 1.0, 1.0, 64, 10).build()
    assert "resnet18" in caught.value.hint
    assert family_names("efficientnet_lite?") == [f"efficientnet_lite{i}" for i in range(5)]


@given(
    st.builds(
        NetworkSpec,
        st.sampled_from(["resnet18", "mobilenet_v2"]),
        st.floats(0.1, 2),
        st.floats(0.1, 2),
        st.integers(16, 512),
        st.integers(2, 1000),
        st.sampled_from([8, 16]),
        st.sampled_from([1.0, 0.5, 0.1234]),
    )
)
def test_specs_survive_json(spec: NetworkSpec) -> None:
    assert NetworkSpec.from_json(spec.to_json()) == spec


def test_specs_of_before_there_were_multiples_are_the_same() -> None:
    old = {"family": "resnet18", "width": 0.5, "depth": 1.0, "resolution": 64, "classes": 10}
    assert NetworkSpec.from_json(old).to_json() == old
    assert NetworkSpec.from_json({**old, "multiple": 16}).multiple == 16


def test_a_family_that_rounds_to_eight_only_says_so() -> None:
    if find_family("foreground_predictor").multiples:
        pytest.skip("the predictor's builder takes multiples")
    with pytest.raises(UsageError, match="multiples of 16"):
        NetworkSpec("foreground_predictor", 1.0, 1.0, 64, 4, 16).build()


@pytest.mark.parametrize("family", SHRINKABLE)
def test_blocks_may_be_narrower_inside(family: str) -> None:
    """What leaves a block, and all that a shortcut passes by, stays; what is within goes."""
    with torch.device("meta"):
        whole, narrow = (NetworkSpec(family, 1.0, 1.0, 64, 7, inner=i).build() for i in (1, 0.5))
    spec = NetworkSpec(family, 1.0, 1.0, 64, 7)
    assert 0.3 < replace(spec, inner=0.5).macs / spec.macs < 0.7
    for ours, theirs in zip(narrow.block_names(), whole.block_names(), strict=True):
        assert ours == theirs
    outputs = {name: layer.out_channels for name, layer in _convolutions(whole)}
    fewer = {name for name, layer in _convolutions(narrow) if layer.out_channels < outputs[name]}
    assert fewer
    assert not any(_ends_a_block(name) for name in fewer)


def _convolutions(network: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    named = network.named_modules()
    return [(name, layer) for name, layer in named if isinstance(layer, nn.Conv2d)]


def _ends_a_block(name: str) -> bool:
    return "downsample" in name or "proj" in name or name.endswith(("conv3", ".c.0", "conv_pwl"))


def test_a_family_without_inner_widths_says_so() -> None:
    with pytest.raises(UsageError, match="no inner width"):
        NetworkSpec("foreground_predictor", 1.0, 1.0, 64, 4, inner=0.5).build()


@pytest.mark.parametrize("family", ["resnet18", "mobilenet_v2", "efficientnet_lite0"])
def test_statistics_are_known_after_a_short_fine_tuning(family: str) -> None:
    """What 130 steps have seen is what the network expects: an epoch of a few thousand photos has
    no more of them."""
    torch.manual_seed(0)
    network = NetworkSpec(family, 0.25, 0.3, 64, 5).build()
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    photos = 3 + 2 * torch.randn(16, 3, 64, 64)
    with torch.no_grad():
        for _ in range(130):
            features = network.train().forward_features(photos)
        found = network.eval().forward_features(photos)
    assert (found - features).norm() < 0.1 * features.norm()


def test_a_damaged_spec_is_refused() -> None:
    with pytest.raises(InputError):
        NetworkSpec.from_json({"family": "resnet18", "width": "wide"})
    with pytest.raises(InputError):
        NetworkSpec.from_json([])


@given(st.integers(1, 400), st.sampled_from([3, 5]), st.sampled_from([1, 2]))
def test_same_padding_gives_the_size_tensorflow_gives(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    assert 0 <= before <= after <= before + 1
    assert (size + before + after - kernel) // stride + 1 == -(-size // stride)


@pytest.mark.parametrize("size", [8, 9])
def test_same_convolution_is_padding_then_convolution(size: int) -> None:
    layer = SameConv2d(3, 4, 5, 2, size)
    image = torch.randn(2, 3, size, size)
    before, after = same_padding(size, 5, 2)
    padded = nn.functional.pad(image, (before, after, before, after))
    torch.testing.assert_close(layer(image), nn.functional.conv2d(padded, layer.weight, stride=2))


@given(st.lists(st.integers(1, 8), min_size=2, max_size=5), st.floats(0.05, 2))
def test_thinning_keeps_a_block_a_stage_and_hits_the_total(blocks: list[int], depth: float) -> None:
    thin = thin_stages(blocks, depth)
    assert min(thin) >= 1
    assert sum(thin) == max(len(blocks), int(depth * sum(blocks) + 0.5))
    if depth <= 1:
        assert all(a <= b for a, b in zip(thin, blocks, strict=True))


@given(st.floats(0.1, 5000))
def test_rounded_channels_are_never_much_fewer(channels: float) -> None:
    rounded = round_channels(channels)
    assert rounded % 8 == 0
    assert rounded >= max(8, 0.9 * channels)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(SHRINKABLE),
    st.floats(0.05, 1),
    st.floats(0.3, 1),
    st.sampled_from([32, 48, 64]),
    st.sampled_from([8, 16]),
    st.floats(0.05, 1),
)
def test_shrinking_never_costs_more(  # noqa: PLR0917 - one for each multiplier
    family: str, width: float, depth: float, side: int, multiple: int, inner: float
) -> None:
    small = NetworkSpec(family, width, depth, side, 10, multiple, inner)
    full = NetworkSpec(family, 1.0, 1.0, 64, 10)
    assert small.macs <= full.macs
    assert small.params <= full.params


def test_predicted_boxes_are_ordered_and_inside() -> None:
    network = NetworkSpec("foreground_predictor", 1.0, 1.0, 32, 4).build().eval()
    with torch.no_grad():
        boxes = network(100 * torch.randn(16, 3, 32, 32))
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    assert (boxes[:, :2] <= boxes[:, 2:]).all()
    with pytest.raises(UsageError):
        NetworkSpec("foreground_predictor", 1.0, 1.0, 32, 10).build()


def test_lite_variants_are_five() -> None:
    assert len(VARIANTS) == 5
