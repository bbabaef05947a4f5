"""Depthwise convolutions in bfloat16: the same numbers, and gradients that are not slow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgecompress.compress.machine.devices import mixed_precision
from edgecompress.compress.networks.network import NetworkSpec

CPU = torch.device("cpu")


class Watched(TorchDispatchMode):
    """Which convolutions' gradients are computed, and in which precision."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, tuple[int, ...], int, list[bool]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.seen.append((args[0].dtype, tuple(args[2].shape[2:]), args[4][0], args[10]))
        return func(*args, **(kwargs or {}))


def _gradients(layer: nn.Module, inputs: Tensor, precision: Any) -> tuple[Tensor, list[Tensor]]:
    layer.zero_grad()
    inputs = inputs.clone().requires_grad_()
    with mixed_precision(precision, CPU):
        outputs = layer(inputs)
    outputs.float().square().sum().backward()
    each = [inputs, *layer.parameters()]
    assert all(one.grad is not None and one.grad.dtype == one.dtype for one in each)
    return outputs, [one.grad for one in each if one.grad is not None]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 1), (7, 1, 2)]
)
def test_gradients_are_those_of_float32_but_for_rounding(
    kernel: int, stride: int, dilation: int, bias: bool
) -> None:
    torch.manual_seed(kernel)
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(8, 8, kernel, stride, padding, dilation, 8, bias)
    inputs = torch.randn(4, 8, 13, 13).to(memory_format=torch.channels_last)
    exact, wanted = _gradients(layer, inputs, "float32")
    rounded, found = _gradients(layer, inputs, "bfloat16")
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.02, atol=0.02)
    for one, other in zip(found, wanted, strict=True):
        assert ((one - other).norm() / other.norm()).item() < 0.01


@pytest.mark.parametrize("family", ["efficientnet_lite0", "mobilenet_v2"])
def test_no_gradient_of_a_network_is_computed_where_it_is_slow(family: str) -> None:
    network = NetworkSpec(family, 0.25, 0.2, 32, 3).build()
    with mixed_precision("bfloat16", CPU):
        outputs = network(torch.randn(2, 3, 32, 32))
    with Watched() as watched:
        outputs.float().sum().backward()
    kinds = {kind for kind, *_ in watched.seen}
    assert kinds == {torch.bfloat16, torch.float32}
    for kind, kernel, stride, mask in watched.seen:
        if kind == torch.float32:
            assert (mask[0] and stride > 1) or (mask[1] and kernel[0] > 3)
    narrow = [one for one in watched.seen if one[0] == torch.bfloat16]
    assert not any(kernel[0] > 3 and mask[1] for _, kernel, _, mask in narrow)
    # Nobody needs the gradient of the first convolution's inputs, the photos.
    strided = [one for one in watched.seen if one[2] > 1 and one[1] != (1, 1)]
    assert {kind for kind, _, _, mask in strided if mask[0]} == {torch.float32}


def _others() -> Iterator[tuple[nn.Module, Tensor]]:
    yield nn.Conv2d(8, 8, 5, 2, 2, groups=4), torch.randn(2, 8, 9, 9)
    yield nn.Conv2d(1, 1, 5, 2, 2), torch.randn(2, 1, 9, 9)
    yield nn.Conv2d(8, 16, 5, 2, 2, groups=8), torch.randn(2, 8, 9, 9)
    yield nn.Conv2d(8, 8, 5, 1, "same", groups=8), torch.randn(2, 8, 9, 9)


@pytest.mark.parametrize("case", list(_others()), ids=["grouped", "one", "twice", "same"])
def test_other_convolutions_stay_as_they_are(case: tuple[nn.Module, Tensor]) -> None:
    layer, inputs = case
    with mixed_precision("bfloat16", CPU):
        assert type(layer(inputs).grad_fn).__name__ == "ConvolutionBackward0"


def test_nothing_changes_where_nothing_is_learnt() -> None:
    layer, inputs = nn.Conv2d(8, 8, 5, 1, 2, groups=8), torch.randn(2, 8, 9, 9)
    with torch.no_grad(), mixed_precision("bfloat16", CPU):
        asked = layer(inputs)
    with mixed_precision("bfloat16", CPU):
        learnt = layer(inputs)
    assert learnt.requires_grad and not asked.requires_grad
    assert torch.equal(asked, learnt)
