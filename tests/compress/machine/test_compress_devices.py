"""Devices, precisions, and saves within an epoch: what a training does beside learning."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgecompress import events
from edgecompress.compress.config import CompressConfig
from edgecompress.compress.data.loader import ahead
from edgecompress.compress.machine.devices import (
    DEVICE,
    chosen_device,
    mixed_precision,
    multiplies_bfloat16,
    placed,
)
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.recipe import Recipe, learning_rate
from edgecompress.compress.training.tasks import run_batched
from edgecompress.compress.training.train import train
from edgecompress.errors import UsageError

sys.path.insert(0, str(Path(__file__).parent))
from ddp_program import make, task

RECIPE = Recipe(epochs=6, batch=16, rate=0.03, optimizer="adamw", smoothing=0.0)
Shapes = tuple[Path, Path]


def _trained(shapes: Shapes, folder: Path, recipe: Recipe) -> tuple[nn.Module, float]:
    network = make()
    learnt = replace(task(*shapes), teacher=None)
    outcome = train(network, learnt, recipe, folder / "checkpoint", "shapes")
    return network, outcome.measures[-1]


def _weights(network: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach()


@pytest.mark.parametrize("named", ["tpu", "meta", "cuda:99", "cuda:x"])
def test_a_device_that_is_not_here_is_an_error(named: str, monkeypatch) -> None:
    monkeypatch.setenv(DEVICE, named)
    with pytest.raises(UsageError) as caught:
        chosen_device()
    assert f"{DEVICE}=cpu" in caught.value.hint


FAULTS = """
import resource, torch
from edgecompress.compress.machine.devices import chosen_device
chosen_device()
for turn in range(15):
    if turn == 10:  # by then the heap has a place for it
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_is_had_again_without_faults() -> None:
    """Five times 64 MiB are 81,920 pages of 4 KiB, if each is asked of the system anew."""
    environment = {**os.environ, DEVICE: "cpu"}
    command = [sys.executable, "-c", FAULTS]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(told.stdout) < 1000


def test_the_cpu_can_be_asked_for(monkeypatch) -> None:
    monkeypatch.setenv(DEVICE, "cpu")
    assert chosen_device() == torch.device("cpu")
    network = make()
    with placed(network) as device:
        assert device == torch.device("cpu")


@pytest.mark.parametrize(
    ("has", "multiplies"),
    [
        ({}, False),
        ({"avx512_f": True}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
    ],
)
def test_a_cpu_takes_bfloat16_where_it_has_instructions_for_it(
    has: dict[str, bool], multiplies: bool, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    cpu = torch.device("cpu")
    assert multiplies_bfloat16(cpu) is multiplies
    with mixed_precision("auto", cpu):
        assert torch.is_autocast_enabled("cpu") is multiplies
    with mixed_precision("auto", cpu, 16):
        assert not torch.is_autocast_enabled("cpu")


def test_gradients_over_maps_of_one_position_are_numbers() -> None:
    """In bfloat16 one in fifteen of these steps had a NaN, on a CPU that multiplies it."""
    cpu, classes = torch.device("cpu"), torch.arange(16) % 3
    for seed in range(60):
        torch.manual_seed(seed)
        network = NetworkSpec("resnet18", 0.25, 1.0, 16, 3).build()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = torch.randn(16, 3, 16, 16)
        with mixed_precision("auto", cpu, inputs.shape[-1]):
            outputs = network(inputs)
        torch.nn.functional.cross_entropy(outputs.float(), classes).backward()
        assert all(one.grad.isfinite().all() for one in network.parameters())


def test_bfloat16_learns_and_keeps_float32_weights(
    shapes: Shapes, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv(DEVICE, "cpu")
    runs = {}
    for precision in ("float32", "bfloat16"):
        (tmp_path / precision).mkdir()
        recipe = replace(RECIPE, precision=precision)
        runs[precision], top1 = _trained(shapes, tmp_path / precision, recipe)
        assert top1 >= 0.9
        assert {one.dtype for one in runs[precision].parameters()} == {torch.float32}
    plain, mixed = _weights(runs["float32"]), _weights(runs["bfloat16"])
    # Rounded to 8 bits on the way: others, and not far away.
    assert not torch.equal(plain, mixed)
    assert torch.nn.functional.cosine_similarity(plain, mixed, dim=0) > 0.95
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    cpu = torch.device("cpu")
    kinds["auto"] = kinds["bfloat16" if multiplies_bfloat16(cpu) else "float32"]
    for precision, kind in kinds.items():
        with mixed_precision(precision, cpu):
            assert runs["float32"](torch.zeros(1, 3, 24, 24)).dtype == kind
    # What is measured is what a board computes, and that is float32.
    inputs = task(*shapes).held.inputs
    assert run_batched(runs["bfloat16"], inputs, task(*shapes).preprocess).dtype == torch.float32


def test_gradients_are_scaled_down_to_the_clip(shapes: Shapes, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch=48, rate=0.5, decay=0.0, clip=1e-3)
    network, _ = _trained(shapes, tmp_path, recipe)
    moved = (_weights(network) - _weights(make())).norm().item()
    # One step of Nesterov's momentum from rest is 1.9 times the gradient.
    assert moved == pytest.approx(learning_rate(recipe, 0.0) * 1.9 * 1e-3, rel=1e-3)


def test_settings_reach_the_recipe_and_leave_known_trainings_alone() -> None:
    usual = CompressConfig().train.recipe(3, seed=1)
    assert not {"clip", "precision", "ema"} & set(usual.to_json())
    table = {"clip": 2.0, "precision": "float32", "predicted": 0.9}
    given = CompressConfig.model_validate({"train": table}).train.recipe(3, seed=1)
    assert given == replace(usual, clip=2.0, precision="float32")
    assert given.to_json() == usual.to_json() | {"clip": 2.0, "precision": "float32"}


@pytest.mark.parametrize("stop", [2, 5])
def test_a_training_goes_on_within_an_epoch(stop: int, shapes: Shapes, tmp_path: Path) -> None:
    """4 steps an epoch: killed in the first one, and at the first step of the second one."""
    recipe = Recipe(epochs=3, batch=13, rate=0.02, optimizer="adamw", ema=0.9, distil=0.3)
    learnt = task(*shapes, mixup=0.3)
    whole, killed, resumed = (make(dropout=0.3) for _ in range(3))
    expected = train(whole, learnt, recipe, tmp_path / "whole", "shapes")

    def kill(event: events.Event) -> None:
        if event.kind == "advance" and event.done == stop:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "killed"
    with events.listening(kill), pytest.raises(KeyboardInterrupt):
        train(killed, learnt, recipe, checkpoint, "shapes", save_every=0)
    state = torch.load(checkpoint, weights_only=True)
    assert (len(state["losses"]), state["within"]["step"]) == divmod(stop, 4)
    done: list[events.Event] = []
    with events.listening(done.append):
        outcome = train(resumed, learnt, recipe, checkpoint, "shapes", save_every=0)
    assert [event.done for event in done if event.kind == "advance"] == list(range(stop, 13))
    assert torch.equal(_weights(whole), _weights(resumed))
    assert (outcome.losses, outcome.measures) == (expected.losses, expected.measures)


@given(st.integers(0, 40), st.integers(1, 5))
def test_what_is_made_ahead_comes_in_order(size: int, workers: int) -> None:
    begun: list[int] = []

    def makers():
        for number in range(size):
            begun.append(number)
            yield lambda number=number: number * number

    for place, made in enumerate(ahead(makers(), workers)):
        assert made == place * place
        assert len(begun) <= place + 2 * workers + 1
    assert len(begun) == size


def test_what_fails_ahead_fails_here() -> None:
    def fails() -> int:
        raise UsageError("no photo", "")

    made = ahead(iter([lambda: 1, fails, lambda: 3]), 1)
    assert next(made) == 1
    with pytest.raises(UsageError, match="no photo"):
        next(made)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_learns_the_same(precision, shapes: Shapes, tmp_path: Path, monkeypatch) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        monkeypatch.setenv(DEVICE, device)
        (tmp_path / device).mkdir()
        network, top1 = _trained(shapes, tmp_path / device, replace(RECIPE, precision=precision))
        assert top1 >= 0.9
        assert next(network.parameters()).device.type == "cpu"
        found[device] = _weights(network)
    assert torch.nn.functional.cosine_similarity(found["cpu"], found["cuda"], dim=0) > 0.95
    network, inputs = make().eval(), task(*shapes).held.inputs
    answers = []
    for device in ("cpu", "cuda"):
        monkeypatch.setenv(DEVICE, device)
        answers.append(run_batched(network, inputs, task(*shapes).preprocess))
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-2, atol=1e-2)
