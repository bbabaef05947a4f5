"""Where networks run: the first GPU where there is one, else the CPU; and in which precision."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import torch
from torch import Tensor, nn

from edgecompress.errors import UsageError

from ..choices import DEVICE, Precision
from .depthwise import QuickDepthwise


def chosen_device() -> torch.device:
    """The device that this process computes on. Under torchrun each process of a machine has the
    GPU of its LOCAL_RANK.

    Raises:
        UsageError: the variable names what is no device, or one that is not here.
    """
    name = os.environ.get(DEVICE) or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"{DEVICE} is {name!r}", f"{DEVICE}=cpu, cuda or cuda:1")
    if device.type == "cpu":
        _keep_freed_memory()
        return torch.device("cpu")
    index = device.index
    if index is None:
        index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise UsageError(
            f"no GPU number {index} here: PyTorch sees {torch.cuda.device_count()}",
            f"{DEVICE}=cpu, or as many processes as GPUs (torchrun --nproc-per-node)",
        )
    return torch.device("cuda", index)


MMAP_MAX, TRIM_THRESHOLD = -4, -1
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}
"""What glibc's `mallopt` is given (malloc.h): no mappings, and nothing of the top goes back."""


@cache
def _keep_freed_memory() -> None:
    """Let glibc keep what is freed. It gives large blocks back to the system at once, and a network
    asks for the same ones again in the next layer, to be filled with zeros page by page: half of
    the time of EfficientNet-Lite0's steps. Elsewhere nothing is set."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in KEPT.items():
            mallopt(parameter, value)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; a GPU copies it while the CPU goes on, which a plain `to` waits for."""
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights lie; the CPU where it has none."""
    first = next(network.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def cores() -> int:
    """CPU cores for this process; under torchrun those of a machine are divided."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, own // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def placed(network: nn.Module) -> Iterator[torch.device]:
    """A network on the device of this process for the length of the block, then where it was. One
    that lies on a GPU already stays there."""
    before = device_of(network)
    device = chosen_device() if before.type == "cpu" else before
    if device == before:
        yield device
        return
    network.to(device)
    try:
        yield device
    finally:
        network.to(before)


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Say what to do where a GPU's memory is full.

    Args:
        what: is computed.

    Raises:
        UsageError: it is full.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"{what}: the GPU has too little memory",
            f"lower [compress.train] batch, let fewer workers share it, or {DEVICE}=cpu",
        ) from error


LEAST_BFLOAT16_SIDE = 32
"""Of inputs, on a CPU. Over maps of one position (ResNet's at 16 px) oneDNN's gradient of a 3x3
kernel, in bfloat16, is now and then NaN: it reads memory that nobody has written."""


@contextmanager
def mixed_precision(
    precision: Precision, device: torch.device, side: int = LEAST_BFLOAT16_SIDE
) -> Iterator[None]:
    """Autocast of forward passes to bfloat16, where the recipe and the device say so. It needs no
    scaling of the loss: bfloat16 has float32's range.

    Args:
        side: of the inputs, pixels, where gradients will be asked for.
    """
    small = device.type == "cpu" and side < LEAST_BFLOAT16_SIDE
    auto = precision == "auto" and not small and multiplies_bfloat16(device)
    wanted = auto or precision == "bfloat16"
    quick = QuickDepthwise() if wanted and device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted), quick:
        yield


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32: a device without instructions of its own for
    it takes many times as long."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
