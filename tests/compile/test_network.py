"""A whole network: from PyTorch over ONNX to a shared library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgecompress.compile import network as network_module
from edgecompress.compile.network import CompiledNetwork, compile_network
from edgecompress.compress.networks.export import export_network
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.errors import BoardError, CompileError, InputError
from edgecompress.runner.spec import Preprocess
from edgecompress.targets import load_board

PREPROCESS = Preprocess(mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
SPEC = NetworkSpec("resnet18", 0.125, 0.5, 32, 10)


def export(spec: NetworkSpec, path: Path) -> Any:
    """A network with random weights, which is also written as ONNX."""
    torch.manual_seed(0)
    model = spec.build().eval()
    for name, buffer in model.named_buffers():  # fresh BatchNorms would change nothing
        if name.endswith("running_mean"):
            buffer.uniform_(-0.2, 0.2)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    export_network(model, spec, path, torch.zeros(0, 3, spec.resolution, spec.resolution))
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A little ResNet, in PyTorch and as ONNX."""
    path = tmp_path_factory.mktemp("exported") / "little.onnx"
    return export(SPEC, path), path


@pytest.fixture(scope="module")
def compiled(exported: tuple[Any, Path], tmp_path_factory: Any) -> tuple[CompiledNetwork, Path]:
    """Compiled for this machine, and the folder with what it dumped on the way."""
    folder = tmp_path_factory.mktemp("compiled")
    out = folder / "deeper" / "little.so"
    dump = folder / "dump"
    return compile_network(exported[1], load_board("host"), PREPROCESS, out, dump=dump), dump


def require_same(library: Path, model: Any, side: int) -> None:
    """A library's logits of three photos are PyTorch's."""
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    photos = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), np.uint8)
    mean, std = torch.tensor(PREPROCESS.mean), torch.tensor(PREPROCESS.std)
    with torch.inference_mode():
        normalised = (torch.from_numpy(photos) - mean) / std
        want = model(normalised.permute(0, 3, 1, 2)).numpy()
    got = np.concatenate([machine["main"](tvm.runtime.tensor(p[None])).numpy() for p in photos])
    assert got.shape == (3, 10)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_the_library_does_what_pytorch_does(
    exported: tuple[Any, Path], compiled: tuple[CompiledNetwork, Path]
) -> None:
    require_same(compiled[0].library, exported[0], SPEC.resolution)


def test_shortcuts_average_maps_of_an_odd_side_too(tmp_path: Path) -> None:
    """ResNet-D at 44 px: maps of 11, 6, 3 and 2 positions."""
    spec = NetworkSpec("resnet18d", 0.125, 0.5, 44, 10)
    model = export(spec, tmp_path / "little.onnx")
    made = compile_network(
        tmp_path / "little.onnx", load_board("host"), PREPROCESS, tmp_path / "little.so"
    )
    require_same(made.library, model, spec.resolution)


def test_info_accounts_for_the_network(
    exported: tuple[Any, Path], compiled: tuple[CompiledNetwork, Path]
) -> None:
    info = json.loads(json.dumps(compiled[0].info))
    layers = info["layers"]
    assert info["macs"] == sum(layer["macs"] for layer in layers) == SPEC.macs
    assert info["tuned_layers"] == info["records_used"] == 0
    assert not any(layer["tuned"] for layer in layers)
    assert info["seconds"] > 0
    assert layers[0]["op"] == "conv2d" and layers[0]["schedule"] == "conv2d"
    assert layers[0]["choices"], "a convolution's schedule has choices"
    graph = onnx.load(exported[1]).graph
    computing = {node.name for node in graph.node if node.op_type not in ("Reshape", "Constant")}
    named = [name for layer in layers for name in layer["source"]]
    assert len(named) == len(set(named))
    assert set(named) == computing
    assert all(layer["name"] == layer["source"][0] for layer in layers)


def test_dumps_show_each_phase(compiled: tuple[CompiledNetwork, Path]) -> None:
    result, dump = compiled
    texts = {path.name: path.read_text() for path in dump.iterdir()}
    assert sorted(texts) == ["1-prepared.py", "2-scheduled.py", "3-planned.py"]
    for text in texts.values():
        assert all(layer["kernel"] in text for layer in result.info["layers"])
    assert "T.vectorized" not in texts["1-prepared.py"]
    assert "T.vectorized" in texts["2-scheduled.py"]
    assert "alloc_storage" in texts["3-planned.py"]


def test_only_the_library_is_left(compiled: tuple[CompiledNetwork, Path]) -> None:
    library = compiled[0].library
    assert [path.name for path in library.parent.iterdir()] == ["little.so"]
    assert library.read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize("old", [None, b"an older library"])
def test_a_failure_leaves_what_was_there(
    exported: tuple[Any, Path], tmp_path: Path, monkeypatch: Any, old: bytes | None
) -> None:
    def broken(board: Any) -> Any:
        def link(output: str, *_: Any, **__: Any) -> None:
            Path(output).write_bytes(b"half a libr")
            raise CompileError("linking failed: a test")

        return link

    monkeypatch.setattr(network_module, "linker", broken)
    out = tmp_path / "little.so"
    if old is not None:
        out.write_bytes(old)
    with pytest.raises(CompileError, match="a test"):
        compile_network(exported[1], load_board("host"), PREPROCESS, out)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left == ({} if old is None else {"little.so": old})


def test_mistakes_are_named_before_anything_is_written(
    exported: tuple[Any, Path], tmp_path: Path
) -> None:
    host, out = load_board("host"), tmp_path / "out" / "little.so"
    with pytest.raises(InputError, match=r"absent\.onnx"):
        compile_network(tmp_path / "absent.onnx", host, PREPROCESS, out)
    with pytest.raises(BoardError):
        compile_network(exported[1], load_board("rpi-zero-w"), PREPROCESS, out)
    (tmp_path / "records").write_text("no records\n")
    with pytest.raises(InputError, match="line 1"):
        compile_network(exported[1], host, PREPROCESS, out, database=tmp_path / "records")
    assert not out.parent.exists()


def test_equal_inputs_give_equal_libraries(
    exported: tuple[Any, Path], compiled: tuple[CompiledNetwork, Path], tmp_path: Path
) -> None:
    again = compile_network(exported[1], load_board("host"), PREPROCESS, tmp_path / "again.so")
    assert again.library.read_bytes() == compiled[0].library.read_bytes()
    assert {**again.info, "seconds": 0} == {**compiled[0].info, "seconds": 0}


def test_choices_follow_the_cluster(sketch: Any, tmp_path: Path) -> None:
    """Blocks are balanced for the cores, and tiles for the core, that were asked for."""
    net = sketch(112, 112)
    hidden = net.add("Relu", net.conv("image", 32, 3, pads=[1] * 4, strides=[2, 2]))
    hidden = net.conv(hidden, 24)
    onnx = net.save(tmp_path / "net.onnx", net.head(net.add("GlobalAveragePool", hidden)))
    board = load_board("rk3399")
    made = {
        cluster: compile_network(onnx, board.on(cluster), PREPROCESS, tmp_path / f"{cluster}.so")
        for cluster in ("fast", "efficient", "all")
    }
    choices = {key: [layer["choices"] for layer in one.info["layers"]] for key, one in made.items()}
    assert choices["fast"] != choices["efficient"]
    assert choices["fast"] != choices["all"]
    assert len({one.library.read_bytes() for one in made.values()}) == 3
