"""ONNX Runtime beside our kernels, one by one.

With `session.disable_quant_qdq` ONNX Runtime computes what a QDQ file says, node by node, in real
numbers. Each kernel is compared by itself: ONNX Runtime is given the activations that the kernel
read, and what the kernel wrote has to be the nearest whole number to what comes out before it is
rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import assume, currently_in_test_context

from edgecompress.compile.frontend import read_onnx
from edgecompress.compile.fusion import fuse_elementwise
from edgecompress.compile.graph import Graph, Layer, Value
from edgecompress.compile.integer import as_words, integer_of
from edgecompress.compile.pipeline import finish, prepare
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.runner.spec import Preprocess
from edgecompress.targets import Board, load_board

PREPROCESS = Preprocess(mean=(120.0, 115.0, 100.0), std=(60.0, 55.0, 58.0))
# A sum of whole numbers may begin with its bias, rounded to one: of a step of the result, so much
# at most is lost by that.
BEGINNING = 0.026
# Of the largest number of an activation, where all are real; in half precision squares of 4 x 4
# outputs have a few that are as far off.
SINGLE, HALF = 1e-5, 3e-2
HALF_MEAN = 6e-3  # of the root of the mean of squares

Written = list[tuple[str, np.ndarray]]
"""What each kernel wrote, in order, with the kernels' names."""


def photo_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (1, height, width, 3), np.uint8)


def woken(spec: NetworkSpec) -> Any:
    """A network whose normalisations do something: fresh residual branches end in zeros."""
    import torch

    torch.manual_seed(0)
    network = spec.build().eval()
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if name.endswith(("running_var", "1.weight")):
            tensor.data.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            tensor.data.uniform_(-0.2, 0.2)
    return network


def session_of(model: Any) -> Any:
    """ONNX Runtime, which simulates what a QDQ file quantises."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def image_of(photo: np.ndarray) -> np.ndarray:
    normalised = (photo - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std)
    return normalised.transpose(0, 3, 1, 2).astype("float32")


def computed(path: Path, photo: np.ndarray, board: Board) -> Written:
    """Compile and run here."""
    import tvm
    from tvm import relax

    mod = prepare(path, board, PREPROCESS)
    check_bounds(mod)
    machine: Any = relax.VirtualMachine(finish(mod, board)[0], tvm.cpu())
    written = []

    def observe(_: Any, kernel: str, before: bool, __: Any, *arguments: Any) -> None:
        if not before and not kernel.startswith("vm.builtin."):
            written.append((kernel, arguments[-1].numpy()))

    machine.set_instrument(observe)
    machine["main"](tvm.runtime.tensor(photo))
    return written


def check_bounds(mod: Any) -> None:
    """No kernel reads beyond its buffers: right numbers alone do not show it."""
    import tvm
    from tvm import tirx
    from tvm.s_tir.analysis import OOBChecker

    for func in mod.functions.values():
        if isinstance(func, tirx.PrimFunc):
            OOBChecker()(tvm.IRModule({"main": as_words(func)}))


@dataclass(frozen=True)
class Compared:
    """What a comparison was of: the network, and the names of its kernels."""

    graph: Graph
    kernels: tuple[str, ...]


def check(
    path: Path,
    board: Board | None = None,
    run: Callable[[Path, np.ndarray, Board], Written] = computed,
) -> Compared:
    """Compile, run, and compare what every kernel made of what it was given.

    Args:
        run: where to run it; by default here.
    """
    board = board or load_board("host")
    graph = fuse_elementwise(read_onnx(path))
    photo = photo_of(graph.input.height, graph.input.width)
    written = run(path, photo, board)
    kernels = tuple(kernel for kernel, _ in written)
    offset = integer_of(board).offset
    own = [
        in_onnx(layer.output, array, offset)
        for layer, (_, array) in zip(graph.layers, written, strict=True)
    ]
    wanted = simulated(path, photo, graph.layers, own)
    for layer, kernel, got, want in zip(graph.layers, kernels, own, wanted, strict=True):
        compare(graph, layer, kernel, got, want)
    return Compared(graph, kernels)


def in_onnx(value: Value, array: np.ndarray, offset: int) -> np.ndarray:
    """What a kernel wrote as ONNX has it; whole numbers from -128 to 127."""
    if array.ndim == 2:  # the network's output, of real numbers
        array = array.reshape(1, 1, 1, -1)
        if value.quantization is not None:
            array = np.rint(array / value.quantization.scale) + value.quantization.zero + offset
    array = array[..., : value.channels].transpose(0, 3, 1, 2)
    if value.quantization is not None:
        array = array.astype(int) - offset
    return array if value.rank == 4 else array.reshape(1, -1)


def simulated(
    path: Path, photo: np.ndarray, layers: Sequence[Layer], own: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """What each layer should have made of what the layers before it gave, real numbers; where they
    are to be quantised, such as they are before.

    Args:
        own: what each layer gave.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    feed: dict[str, np.ndarray] = {"image": image_of(photo)}
    asked = []
    outputs = {layer.output.name for layer in layers}
    # Whatever reads a layer's output reads what we say that it is.
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in outputs:
                node.input[place] = f"{name}/given"
    for layer, array in zip(layers, own, strict=True):
        name, dtype = layer.output.name, np.dtype("float32")
        asked.append(name)
        if layer.output.quantization is not None:
            zero = made[name].input[2:]
            dtype = constants[zero[0]].dtype if zero else np.dtype("uint8")
            asked[-1] = made[name].input[0]
        stored = array + 128 if dtype == np.uint8 else array
        feed[f"{name}/given"] = stored.astype(dtype)  # also of float16
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        graph.input.append(helper.make_tensor_value_info(f"{name}/given", kind, array.shape))
    del graph.output[:]
    names = list(dict.fromkeys(name for name in asked if name not in feed))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    known = dict(zip(names, session_of(model).run(names, feed), strict=True)) | feed
    return [np.asarray(known[name]) for name in asked]


def compare(graph: Graph, layer: Layer, kernel: str, got: np.ndarray, want: np.ndarray) -> None:
    """Compare one activation with what it should be, of real numbers."""
    output = layer.output
    assert got.shape == want.shape, kernel
    # Numbers that are all alike tell nothing: a property looks for others, a test fails here.
    varied = want.size < 32 or len(np.unique(want)) > 2
    if currently_in_test_context():
        assume(varied)
    assert varied
    if output.quantization is not None:
        steps = np.clip(want / output.quantization.scale + output.quantization.zero, -128, 127)
        off = np.abs(got - steps) - 0.5
        assert off.max() <= BEGINNING, f"{kernel}: off by {off.max()} at {np.argwhere(off > 0)[:9]}"
        return
    half = "_float16_" in kernel
    limit = (HALF if half else SINGLE) * np.abs(want).max()
    if layer.weight_scale is not None:
        unit = graph.values[layer.inputs[0]].quantization
        assert unit is not None
        limit += 0.5 * unit.scale * layer.weight_scale.max()
    np.testing.assert_allclose(got, want, rtol=0, atol=limit, err_msg=kernel)
    if half:
        share = np.sqrt(np.square(got - want).mean() / np.square(want).mean())
        assert share <= HALF_MEAN, f"{kernel}: off by {share:.2%} in the mean"
