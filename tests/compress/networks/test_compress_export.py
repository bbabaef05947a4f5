"""Exported networks, and cascade folders that are whole or not there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from edgecompress.compress.networks.export import (
    export_network,
    load_network,
    save_network,
    write_cascade,
)
from edgecompress.compress.networks.families import Network
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.errors import CompileError, InputError
from edgecompress.runner.errors import RunnerError
from edgecompress.runner.spec import Cascade, Preprocess, Stage

SPECS = [
    NetworkSpec("resnet18", 0.125, 0.5, 40, 3),
    NetworkSpec("resnet50", 1.0, 0.3, 32, 3, inner=0.125),
    NetworkSpec("resnet18d", 0.125, 0.5, 44, 3),
    NetworkSpec("mobilenet_v2", 0.25, 0.3, 41, 3),
    NetworkSpec("efficientnet_lite0", 0.5, 0.3, 45, 3),
    NetworkSpec("foreground_predictor", 0.5, 0.5, 32, 4),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.family)
def test_every_family_runs_in_onnx_runtime(spec: NetworkSpec, tmp_path: Path) -> None:
    network = spec.build().eval()
    for part in network.modules():  # statistics that BatchNorm folding could get wrong
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.uniform_(-1, 1)
            part.running_var.uniform_(0.5, 2)
    path = tmp_path / "network.onnx"
    side = spec.resolution
    check = export_network(network, spec, path, torch.randn(2, 3, side, side))
    assert check.inputs == 6
    assert check.max_rel_error < 1e-4
    session = onnxruntime.InferenceSession(path)
    image = torch.randn(1, 3, side, side)
    (output,) = session.run(["output"], {"input": image.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(output, network(image).numpy(), rtol=1e-3, atol=1e-4)
    assert session.get_inputs()[0].shape == [1, 3, side, side]
    # One file, and the same one each time.
    first = path.read_bytes()
    assert [one.name for one in tmp_path.iterdir()] == ["network.onnx"]
    if spec.family == "resnet18":
        export_network(network, spec, path, torch.zeros(0, 3, side, side))
        assert path.read_bytes() == first


class _Moody(Network):
    """Not the same network when it is exported as when it is checked."""

    def forward_features(self, x: Tensor) -> Tensor:
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        scale = 1.0 if torch.compiler.is_exporting() else 1.01
        return scale * x.mean((2, 3))


def test_an_export_that_differs_is_refused(tmp_path: Path) -> None:
    spec = NetworkSpec("resnet18", 1, 1, 16, 3)
    with pytest.raises(CompileError, match="relative error"):
        export_network(_Moody(), spec, tmp_path / "a.onnx", torch.zeros(0, 3, 16, 16))


class _Branching(Network):
    def forward_head(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    def forward_features(self, x: Tensor) -> Tensor:
        return x


def test_what_cannot_be_exported_is_a_compile_error(tmp_path: Path) -> None:
    spec = NetworkSpec("resnet18", 1, 1, 16, 3)
    with pytest.raises(CompileError, match="cannot export") as caught:
        export_network(_Branching(), spec, tmp_path / "a.onnx", torch.zeros(0, 3, 16, 16))
    assert "\n" not in caught.value.message


def _cascade(spec: NetworkSpec) -> Cascade:
    return Cascade(
        name="one",
        labels=("a", "b", "c"),
        preprocess=Preprocess((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
        predictor=None,
        stages=(Stage("only", spec.resolution, 1.0, None, 1.0, spec.macs, spec.params),),
        criterion="margin",
        accumulate=False,
        alpha=1.0,
        origin={},
    )


def test_folders_are_whole_or_keep_the_old_one(tmp_path: Path) -> None:
    spec = SPECS[0]
    network = spec.build().eval()
    out = tmp_path / "cascade"
    write_cascade(out, _cascade(spec), {"only": (spec, network)}, {"kind": "test"})
    names = sorted(path.name for path in out.iterdir())
    assert names == ["cascade.json", "compression.json", "only.onnx", "only.pt"]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(CompileError):
        write_cascade(out, _cascade(spec), {"only": (spec, _Moody())}, {})
    wrong = dataclasses.replace(_cascade(spec), alpha=-1.0)
    with pytest.raises(RunnerError):
        write_cascade(out, wrong, {"only": (spec, network)}, {})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["cascade"]
    assert json.loads((out / "compression.json").read_text())["kind"] == "test"


def test_networks_are_read_back_and_damage_is_named(tmp_path: Path) -> None:
    spec = SPECS[0]
    network = spec.build().eval()
    save_network(tmp_path / "one.pt", spec, network)
    again_spec, again = load_network(tmp_path, "one")
    image = torch.randn(1, 3, 40, 40)
    assert again_spec == spec
    with torch.no_grad():
        assert torch.equal(network(image), again(image))
    with pytest.raises(InputError, match="no such network"):
        load_network(tmp_path, "two")
    content = (tmp_path / "one.pt").read_bytes()
    for damaged in (content[:1000], b"", b"text"):
        (tmp_path / "two.pt").write_bytes(damaged)
        with pytest.raises(InputError, match="cannot read"):
            load_network(tmp_path, "two")


class _Trap:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/edgecompress-trap"),))


def test_a_network_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"spec": SPECS[0].to_json(), "state_dict": _Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match="cannot read"):
        load_network(tmp_path, "trap")
    assert not Path("/tmp/edgecompress-trap").exists()
