"""Gradients of depthwise convolutions on a CPU in bfloat16, some of which oneDNN has no kernel for.

It computes them nonetheless, many times as slowly as in float32 (oneDNN 3.12 with AVX512-BF16 and
AMX): those of the inputs where the stride is above one, and those of kernels larger than 3x3. Here
these are computed in float32, and everything else as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

LARGEST_KERNEL = 3
"""Whose own gradient has a kernel in bfloat16."""


class _Steps(NamedTuple):
    """How a kernel goes over its inputs; pairs, as `torch.nn.Conv2d` has them."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


class QuickDepthwise(TorchFunctionMode):
    """Within it, depthwise convolutions whose gradients would be slow in bfloat16 have those in
    float32. Their outputs are the same."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7:
            inputs, weight, bias, *pairs, groups = args
            if all(isinstance(pair, tuple) for pair in pairs):
                steps = _Steps(*pairs)
                depthwise = groups == inputs.shape[1] == len(weight) > 1
                learns = weight.requires_grad and torch.is_grad_enabled()
                if depthwise and learns and any(_slow(weight, steps)):
                    return _Depthwise.apply(inputs.to(torch.bfloat16), weight, bias, steps)
        return func(*args, **(kwargs or {}))


def _slow(weight: Tensor, steps: _Steps) -> tuple[bool, bool]:
    """Whether the gradient is slow in bfloat16: of the inputs, of the kernel."""
    return max(steps.stride) > 1, max(weight.shape[2:]) > LARGEST_KERNEL


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, steps: _Steps
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.steps = steps
        kernel = weight.to(torch.bfloat16)
        shift = None if bias is None else bias.to(torch.bfloat16)
        return torch.conv2d(inputs, kernel, shift, *steps, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad
        slow = _slow(saved[1], ctx.steps)
        found: list[Tensor | None] = [None, None]
        for kind in (torch.bfloat16, torch.float32):
            mask = [needed[n] and slow[n] == (kind == torch.float32) for n in (0, 1)]
            if any(mask):
                given = [one.to(kind) for one in (gradients[0], *saved)]
                told = torch.ops.aten.convolution_backward(
                    *given, None, *ctx.steps, False, (0, 0), len(saved[1]), [*mask, False]
                )
                for n in (0, 1):
                    if mask[n]:
                        found[n] = told[n].to(saved[n].dtype)
        shift = gradients[0].sum((0, 2, 3), dtype=torch.float32) if needed[2] else None
        return (*found, shift, None)
