"""Compiled networks on this machine's CPU, one thread, with ONNX Runtime's time of the same file
beside each: compare the two rows of one run, never two runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress.runner.spec import Preprocess

NETWORKS = {
    "resnet18 0.5 at 96": ("resnet18", 0.5, 96),
    "mobilenet_v2 0.5 at 96": ("mobilenet_v2", 0.5, 96),
}
PREPROCESS = Preprocess((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda name: name.replace(" ", "-"))
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file with random weights."""
    import torch

    from edgecompress.compress.networks.export import export_network
    from edgecompress.compress.networks.network import NetworkSpec

    family, width, resolution = NETWORKS[request.param]
    spec = NetworkSpec(family, width, 1.0, resolution, 10)
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    export_network(spec.build(), spec, path, torch.zeros(0, 3, resolution, resolution))
    return path


def test_ours(benchmark: Any, network: Path, tmp_path: Path) -> None:
    import tvm
    from tvm import relax

    from edgecompress.compile.network import compile_network
    from edgecompress.targets import load_board

    compiled = compile_network(network, load_board("host"), PREPROCESS, tmp_path / "network.so")
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(compiled.library)), tvm.cpu())
    side = int(_input_shape(network)[2])
    photo = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    tensor = tvm.runtime.tensor(photo)
    tvm.get_global_func("runtime.config_threadpool")(1, 1)
    benchmark.extra_info["macs"] = compiled.info["macs"]
    assert benchmark(machine["main"], tensor).shape == (1, 10)


def test_onnxruntime(benchmark: Any, network: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    x = np.random.default_rng(0).standard_normal(_input_shape(network), dtype=np.float32)
    assert benchmark(session.run, None, {name: x})[0].shape == (1, 10)


def _input_shape(network: Path) -> list[int]:
    import onnx

    dims = onnx.load(network).graph.input[0].type.tensor_type.shape.dim
    return [dim.dim_value for dim in dims]
