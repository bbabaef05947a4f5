"""A training step, and the random views that it waits for: what feeds it must be the faster one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgecompress.compress.data.augment import Augment
from edgecompress.compress.data.loader import load_cache
from edgecompress.compress.data.photos import image_folder
from edgecompress.compress.machine import devices
from edgecompress.compress.machine.devices import KEPT, chosen_device, multiplies_bfloat16
from edgecompress.compress.networks.families import Network
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.recipe import Precision, Recipe
from edgecompress.compress.training.material import IMAGENET_PIXELS
from edgecompress.compress.training.tasks import ClassifyTask, Held
from edgecompress.compress.training.train import train

BATCH = 64
SIDE = 64
NOTHING = Held(torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))


@pytest.fixture(scope="module")
def task(make_shapes: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One batch an epoch, of photos a quarter larger than the network's input."""
    root = make_shapes(tmp_path_factory.mktemp("photos") / "fit", BATCH // 2, 0, 106, 80)
    cache = load_cache(image_folder(root), 80)
    return ClassifyTask(cache, SIDE, IMAGENET_PIXELS, Augment(), NOTHING)


def _measured(
    benchmark: Any, network: Network, task: ClassifyTask, recipe: Recipe, folder: Path
) -> None:
    """An epoch of one step, its views and its checkpoint included; six times after a first one."""
    checkpoint = folder / "checkpoint"
    outcome = benchmark.pedantic(
        lambda: train(network, task, recipe, checkpoint, "step"),
        setup=lambda: checkpoint.unlink(missing_ok=True),
        rounds=6,
        warmup_rounds=1,
    )
    assert len(outcome.losses) == 1


@pytest.mark.parametrize("looks", [False, True])
def test_views(benchmark: Any, task: ClassifyTask, looks: bool) -> None:
    generator, indices = torch.Generator().manual_seed(0), torch.arange(BATCH)
    varied = replace(task, augment=Augment(jitter=0.3, erase=0.25) if looks else Augment())

    def views() -> Any:
        return varied.draw(indices, generator)()

    drawn = benchmark(views)
    assert drawn.views.shape == (BATCH, 3, SIDE, SIDE)


@pytest.mark.parametrize("width", [0.5, 1.0])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision(
    benchmark: Any, task: ClassifyTask, tmp_path: Path, precision: Precision, width: float
) -> None:
    """The same at 128 px: what bfloat16 is worth on this machine."""
    if precision == "bfloat16" and not multiplies_bfloat16(chosen_device()):
        pytest.skip("bfloat16 takes many times as long here")
    network = NetworkSpec("resnet18", width, 1.0, 128, 2).build()
    recipe = Recipe(1, BATCH, precision=precision)
    large = replace(task, resolution=128, held=Held(torch.zeros(1, 128, 128, 3), NOTHING.wanted))
    _measured(benchmark, network, large, recipe, tmp_path)


@pytest.mark.parametrize("family", ["efficientnet_lite0", "mobilenet_v2"])
@pytest.mark.parametrize("quick", [False, True])
def test_depthwise(
    benchmark: Any,
    task: ClassifyTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    quick: bool,
    family: str,
) -> None:
    """In bfloat16, and what gradients in float32 are worth where those in bfloat16 are slow."""
    if not multiplies_bfloat16(chosen_device()):
        pytest.skip("training is in float32 here")
    if not quick:
        monkeypatch.setattr(devices, "QuickDepthwise", nullcontext)
    network = NetworkSpec(family, 1.0, 1.0, SIDE, 2).build()
    _measured(benchmark, network, task, Recipe(1, BATCH), tmp_path)


GLIBC = {-4: 65536, -1: 131072}
"""What `mallopt` is set to from the start: how many mappings, and what is kept of the top."""


@pytest.mark.parametrize("family", ["resnet18", "efficientnet_lite0"])
@pytest.mark.parametrize("kept", [False, True])
def test_freed_memory(
    benchmark: Any, task: ClassifyTask, tmp_path: Path, kept: bool, family: str
) -> None:
    """The same at 128 px, and what it is worth to keep freed memory for the next layer."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        pytest.skip("not glibc")
    chosen_device()  # once: from now on it sets nothing
    for number, value in GLIBC.items() if not kept else KEPT.items():
        assert libc.mallopt(number, value)
    libc.malloc_trim(0)
    network = NetworkSpec(family, 0.5 if family == "resnet18" else 1.0, 1.0, 128, 2).build()
    large = replace(task, resolution=128, held=Held(torch.zeros(1, 128, 128, 3), NOTHING.wanted))
    try:
        _measured(benchmark, network, large, Recipe(1, BATCH), tmp_path)
    finally:
        for number, value in KEPT.items():
            libc.mallopt(number, value)


def test_step(benchmark: Any, task: ClassifyTask, tmp_path: Path) -> None:
    """An epoch of one step, its views and its checkpoint included."""
    network = NetworkSpec("resnet18", 0.5, 1.0, SIDE, 2).build()
    outcome = benchmark.pedantic(
        lambda: train(network, task, Recipe(1, BATCH), tmp_path / "checkpoint", "step"),
        setup=lambda: (tmp_path / "checkpoint").unlink(missing_ok=True),
        rounds=5,
    )
    assert len(outcome.losses) == 1
