"""The numbers of compiled kernels against ONNX Runtime, on this machine.

What is tiled runs twice: with this machine's schedules, and with those for the NEON registers of a
Raspberry Pi 4 but code for this machine, so that both kinds of tile are checked here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgecompress.compile.frontend import read_onnx
from edgecompress.compile.link import linker
from edgecompress.compile.pipeline import calls, finish, prepare, tasks
from edgecompress.compile.search import Search
from edgecompress.runner.spec import Preprocess
from edgecompress.targets import Board, load_board

PREPROCESS = Preprocess(mean=(120.0, 115.0, 100.0), std=(60.0, 55.0, 58.0))
TOLERANCE = 1e-4  # of the largest output; sums in another order differ by about 1e-6

Build = Callable[[Any], str]


def native() -> Board:
    return load_board("host")


def neon() -> Board:
    """The tiles of a Raspberry Pi 4, as code that runs here."""
    here = load_board("host")
    board = load_board("rpi4b")
    return replace(board, triple=here.triple, mcpu=here.mcpu, mattr=here.mattr)


def photo_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (1, height, width, 3), np.uint8)


def reference(path: Path, photo: np.ndarray) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    normalised = (photo - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std)
    image = normalised.transpose(0, 3, 1, 2).astype("float32")
    return np.asarray(session.run(None, {"image": image})[0])


def compiled(path: Path, photo: np.ndarray, board: Board) -> np.ndarray:
    import tvm
    from tvm import relax

    mod = prepare(path, board, PREPROCESS)
    check_bounds(mod)
    executable, _ = finish(mod, board)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    return machine["main"](tvm.runtime.tensor(photo)).numpy()


def check_bounds(mod: Any) -> None:
    """No kernel reads beyond its buffers: right numbers alone do not show it."""
    import tvm
    from tvm import tirx
    from tvm.s_tir.analysis import OOBChecker

    for func in mod.functions.values():
        if isinstance(func, tirx.PrimFunc):
            OOBChecker()(tvm.IRModule({"main": func}))


def check(path: Path, *boards: Board) -> None:
    """Compile for the boards, both without any, and compare."""
    image = read_onnx(path).input
    photo = photo_of(image.height, image.width)
    want = reference(path, photo)
    assert np.abs(want).max() > 0.01, "a network of zeros tells nothing"
    for board in boards or (native(), neon()):
        got = compiled(path, photo, board)
        assert got.shape == want.shape
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * np.abs(want).max())


# Each works on a small image of odd sizes; most behind a 1x1 convolution, so that what is tested
# reads float numbers with channels beside the real ones.
CONVOLUTIONS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "1x1": (13, 1, {}),
    "1x1 of one channel": (1, 1, {}),
    "1x1 to many channels": (40, 1, {}),
    "1x1 stride 2": (13, 1, {"strides": [2, 2]}),
    "1x1 padded": (5, 1, {"pads": [1, 0, 0, 1]}),
    "3x3": (13, 3, {"pads": [1, 1, 1, 1]}),
    "3x3 without pads": (5, 3, {}),
    "3x3 stride 2": (16, 3, {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "3x3 asymmetric pads": (8, 3, {"pads": [0, 2, 1, 0], "strides": [2, 1]}),
    "3x3 dilated": (5, 3, {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    "3x3 same upper": (5, 3, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "4x4 same lower": (5, 4, {"auto_pad": "SAME_LOWER"}),
    "5x5": (13, 5, {"pads": [2, 2, 2, 2]}),
    "7x7 stride 2": (8, 7, {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
    "depthwise 3x3": (5, 3, {"pads": [1, 1, 1, 1], "group": 5}),
    "depthwise 3x3 stride 2": (5, 3, {"pads": [0, 0, 1, 1], "strides": [2, 2], "group": 5}),
    "depthwise 5x5": (5, 5, {"pads": [2, 2, 2, 2], "group": 5}),
    "depthwise 5x5 stride 2": (5, 5, {"pads": [2, 2, 2, 2], "strides": [2, 2], "group": 5}),
    "depthwise dilated": (5, 3, {"dilations": [2, 1], "group": 5}),
    "depthwise 1x1": (5, 1, {"group": 5}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str, sketch: Callable[..., Any], tmp_path: Path) -> None:
    outputs, kernel, attributes = CONVOLUTIONS[name]
    net = sketch(9, 11)
    x = net.conv("image", 5)
    net.save(tmp_path / "net.onnx", net.head(net.conv(x, outputs, kernel, **attributes)))
    check(tmp_path / "net.onnx")


# Height, width, channels, the square's side that is expected on NEON. Odd sizes leave squares that
# are partly outside; 256 channels are as many as the deepest layers of a ResNet-18 sum.
SQUARES = {
    "whole squares": (16, 12, 16, 4),
    "partial squares": (13, 11, 24, 4),
    "a last row of one pixel": (13, 9, 16, 4),
    "small map": (6, 6, 16, 2),
    "many channels": (12, 12, 256, 4),
}


@pytest.mark.parametrize("name", SQUARES)
def test_convolution_by_squares(name: str, sketch: Callable[..., Any], tmp_path: Path) -> None:
    height, width, channels, tile = SQUARES[name]
    net = sketch(height, width)
    x = net.conv("image", channels)
    for pads in ([1, 1, 1, 1], [0, 1, 2, 1]):
        y = net.conv(x, channels, 3, pads=pads)
        x = net.add("Relu", net.add("Add", y, x))
    path = net.save(tmp_path / "net.onnx", net.head(x, 20))
    kernels = [call["kernel"] for call in calls(prepare(path, neon(), PREPROCESS))]
    assert sum(kernel.startswith(f"winograd{tile}_3x3s1") for kernel in kernels) == 2
    check(path)


@pytest.mark.parametrize(
    ("outputs", "kernel", "attributes"),
    [
        (8, 3, {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        (13, 1, {}),
        (3, 3, {"group": 3, "pads": [1, 1, 1, 1]}),
    ],
)
def test_convolution_of_the_image(
    outputs: int, kernel: int, attributes: Any, sketch: Callable[..., Any], tmp_path: Path
) -> None:
    """The padding of the image is zero in the network's own scale, not black."""
    net = sketch(9, 11)
    net.save(tmp_path / "net.onnx", net.head(net.conv("image", outputs, kernel, **attributes)))
    check(tmp_path / "net.onnx")


OPERATORS: dict[str, Build] = {}
TILED: set[str] = set()


def case(build: Build) -> Build:
    OPERATORS[build.__name__] = build
    return build


def tiled(build: Build) -> Build:
    """A case whose own kernels differ between the two machines."""
    TILED.add(build.__name__)
    return case(build)


def stem(net: Any, channels: int = 5) -> str:
    return net.conv("image", channels)


@tiled
def max_pool(net: Any) -> str:
    return net.add("MaxPool", stem(net), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


@tiled
def max_pool_ceil(net: Any) -> str:
    return net.add("MaxPool", stem(net), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)


@tiled
def max_pool_ceil_without_a_window_in_the_padding(net: Any) -> str:
    net.opset = 22  # before, ONNX's own inference of shapes has one more column than its runtimes
    return net.add(
        "MaxPool", stem(net), kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1
    )


@tiled
def max_pool_of_one_pixel(net: Any) -> str:
    return net.add("MaxPool", stem(net), kernel_shape=[1, 1], strides=[2, 2])


@tiled
def average_pool(net: Any) -> str:
    return net.add("AveragePool", stem(net), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


@tiled
def average_pool_with_pads_counted(net: Any) -> str:
    return net.add(
        "AveragePool",
        stem(net),
        kernel_shape=[3, 2],
        strides=[2, 2],
        pads=[1, 0, 1, 1],
        count_include_pad=1,
    )


@tiled
def average_pool_ceil(net: Any) -> str:
    return net.add("AveragePool", stem(net), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)


@tiled
def average_pool_behind_a_pad(net: Any) -> str:
    pads = net.constant([0, 0, 1, 1, 0, 0, 0, 1], "int64")
    return net.add("AveragePool", net.add("Pad", stem(net), pads), kernel_shape=[2, 2])


@tiled
def convolution_behind_a_pad(net: Any) -> str:
    pads = net.constant([0, 0, 0, 1, 0, 0, 2, 1], "int64")
    padded = net.add("Pad", stem(net), pads)
    return net.conv(padded, 8, 3, strides=[2, 2], pads=[1, 0, 0, 0])


@case
def pools_of_the_image(net: Any) -> str:
    largest = net.add("MaxPool", "image", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    mean = net.add("AveragePool", "image", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    return net.add("Add", largest, mean)


@tiled
def global_pool(net: Any) -> str:
    return net.add("GlobalAveragePool", stem(net, 13))


@tiled
def global_pool_of_many_channels(net: Any) -> str:
    return net.add("GlobalAveragePool", stem(net, 72))


@tiled
def global_pool_of_one_pixel(net: Any) -> str:
    return net.add("GlobalAveragePool", net.conv("image", 5, (9, 11)))


@tiled
def global_pool_of_the_image(net: Any) -> str:
    return net.add("GlobalAveragePool", "image")


@case
def mean_over_pixels(net: Any) -> str:
    return net.add("ReduceMean", stem(net), net.constant([-1, -2], "int64"), keepdims=0)


@tiled
def fully_connected(net: Any) -> str:
    flat = net.add("Flatten", net.add("GlobalAveragePool", stem(net, 13)))
    hidden = net.add("Gemm", flat, net.weight(13, 21), net.weight(21), alpha=0.5, beta=2.0)
    product = net.add("MatMul", net.add("Relu", hidden), net.weight(21, 6))
    return net.add("Add", product, net.weight(6))


@case
def flattened_image_with_steps(net: Any) -> str:
    flat = net.add("Flatten", stem(net))
    return net.add("Sigmoid", net.add("Mul", flat, net.constant(1.5)))


@case
def softmax(net: Any) -> str:
    logits = net.add("Flatten", net.add("GlobalAveragePool", stem(net, 13)))
    return net.add("Softmax", net.add("Mul", logits, net.constant(10.0)), axis=1)


@case
def concat(net: Any) -> str:
    parts = [stem(net, channels) for channels in (5, 3, 13)]
    return net.add("Concat", *parts, "image", parts[1], axis=1)


@case
def concat_with_a_step(net: Any) -> str:
    return net.add("Relu", net.add("Concat", stem(net, 5), stem(net, 3), axis=-3))


def sliced(net: Any, x: str, start: int, stop: int) -> str:
    bounds = [net.constant([number], "int64") for number in (start, stop, 1)]
    return net.add("Slice", x, *bounds)


@tiled
def slices(net: Any) -> str:
    x = stem(net, 13)
    return net.add("Add", sliced(net, x, 2, 9), sliced(net, x, -7, 2**62))


@case
def split_and_shuffle(net: Any) -> str:
    """Reads that begin in the middle of a vector, behind channels that are none."""
    x = stem(net, 7)
    return net.conv(net.add("Concat", sliced(net, x, 3, 7), sliced(net, x, 0, 3), axis=1), 5, 3)


@case
def squeeze_and_excite(net: Any) -> str:
    x = net.add("Relu", stem(net, 13))
    mean = net.add("GlobalAveragePool", x)
    narrow = net.add("Relu", net.conv(mean, 4))
    gate = net.add("HardSigmoid", net.conv(narrow, 13), alpha=1 / 6, beta=0.5)
    return net.add("Mul", gate, x)


@case
def hard_swish(net: Any) -> str:
    return net.add("HardSwish", stem(net))


@case
def hard_swish_in_pieces(net: Any) -> str:
    """As PyTorch 1 exported it."""
    x = stem(net)
    low, high = net.constant(0.0), net.constant(6.0)
    gate = net.add("Clip", net.add("Add", x, net.constant(3.0)), low, high)
    return net.add("Div", net.add("Mul", x, gate), net.constant(6.0))


@case
def silu(net: Any) -> str:
    x = stem(net)
    return net.add("Mul", x, net.add("Sigmoid", x))


@case
def tanh(net: Any) -> str:
    return net.add("Tanh", stem(net))


@case
def clip_from_below(net: Any) -> str:
    return net.add("Clip", stem(net), net.constant(-0.3))


@case
def clip_from_above(net: Any) -> str:
    return net.add("Clip", stem(net), "", net.constant(0.2))


@case
def arithmetic_with_constants(net: Any) -> str:
    x = net.add("Sub", stem(net), net.constant(0.25))
    x = net.add("Mul", net.constant(np.linspace(1, 2, 5).reshape(1, 5, 1, 1)), x)
    x = net.add("Sub", net.constant(np.linspace(-1, 1, 5).reshape(5, 1, 1)), x)
    return net.add("Div", x, net.constant(np.linspace(2, 3, 5).reshape(1, 5, 1, 1)))


@case
def difference_of_activations(net: Any) -> str:
    return net.add("Sub", stem(net), stem(net))


@case
def difference_with_one_number_a_channel(net: Any) -> str:
    x = stem(net)
    return net.add("Sub", net.add("GlobalAveragePool", x), x)


@case
def difference_from_the_mean(net: Any) -> str:
    x = stem(net)
    return net.add("Sub", x, net.add("GlobalAveragePool", x))


@tiled
def residual(net: Any) -> str:
    x = net.add("Relu", stem(net, 13))
    inner = net.add("Relu", net.conv(x, 6, 3, pads=[1, 1, 1, 1]))
    return net.add("Relu", net.add("Add", net.conv(inner, 13), x))


@case
def residual_of_the_image(net: Any) -> str:
    return net.add("Add", net.conv("image", 3, 3, pads=[1, 1, 1, 1]), "image")


@case
def scaled_image(net: Any) -> str:
    return net.add("Mul", "image", "image")


@tiled
def batch_norm(net: Any) -> str:
    scale, shift, mean, variance = (net.constant(net.random.uniform(0.5, 2, 13)) for _ in range(4))
    return net.add("BatchNormalization", stem(net, 13), scale, shift, mean, variance, epsilon=0.1)


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name: str, sketch: Callable[..., Any], tmp_path: Path) -> None:
    net = sketch(9, 11)
    net.save(tmp_path / "net.onnx", net.head(OPERATORS[name](net)))
    check(tmp_path / "net.onnx", native(), *([neon()] if name in TILED else []))


@pytest.mark.parametrize("last", ["Softmax", "Flatten", "GlobalAveragePool", "Sigmoid", "Concat"])
def test_what_ends_a_network(last: str, sketch: Callable[..., Any], tmp_path: Path) -> None:
    """The last layer, whatever it is, leaves out the channels that are none."""
    net = sketch(4, 3)
    x = net.conv("image", 5, (4, 3))
    if last == "Concat":
        end = net.add("Flatten", net.add("Concat", x, net.conv("image", 2, (4, 3)), axis=1))
    elif last == "GlobalAveragePool":
        end = net.add("Flatten", net.add(last, net.conv("image", 5)))
    else:
        end = net.add("Flatten", x)
        end = end if last == "Flatten" else net.add(last, end)
    net.save(tmp_path / "net.onnx", end)
    check(tmp_path / "net.onnx")


def test_nodes_that_nothing_needs_are_left_out(sketch: Callable[..., Any], tmp_path: Path) -> None:
    """Also such that read the output: as a vector of k numbers it is no activation any more."""
    net = sketch(5, 4)
    x = stem(net)
    output = net.head(x)
    net.add("Relu", output)
    net.add("Relu", x)
    net.save(tmp_path / "net.onnx", output)
    assert [call["op"] for call in calls(prepare(tmp_path / "net.onnx", native(), PREPROCESS))] == [
        "conv2d",
        "conv2d",
    ]
    check(tmp_path / "net.onnx")


def test_equal_kernels_are_compiled_once_and_keep_their_weights(
    sketch: Callable[..., Any], tmp_path: Path
) -> None:
    net = sketch(6, 6)
    x = stem(net, 8)
    for _ in range(3):
        x = net.add("Relu", net.conv(x, 8, 3, pads=[1, 1, 1, 1]))
    path = net.save(tmp_path / "net.onnx", net.head(x))
    kernels = [call["kernel"] for call in calls(prepare(path, native(), PREPROCESS))]
    assert len(kernels) == 5
    assert len(set(kernels)) == 3
    check(path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random") / "net.onnx"


SIDE = st.tuples(
    st.integers(1, 12),  # pixels
    st.integers(1, 5),  # kernel
    st.integers(1, 3),  # stride
    st.integers(0, 2),  # pad before
    st.integers(0, 2),  # pad behind
    st.integers(1, 2),  # dilation
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(sides=st.tuples(SIDE, SIDE), inputs=st.integers(1, 20), outputs=st.integers(0, 40))
def test_convolutions_of_any_geometry(
    scratch: Path,
    sketch: Callable[..., Any],
    sides: tuple[tuple[int, ...], tuple[int, ...]],
    inputs: int,
    outputs: int,
) -> None:
    """No outputs stand for a depthwise convolution."""
    down, across = sides
    assume(all(s[5] * (s[1] - 1) + 1 <= s[0] + s[3] + s[4] for s in sides))
    net = sketch(down[0], across[0])
    x = net.conv(
        stem(net, inputs),
        outputs or inputs,
        (down[1], across[1]),
        strides=[s[2] for s in sides],
        pads=[down[3], across[3], down[4], across[4]],
        dilations=[s[5] for s in sides],
        group=1 if outputs else inputs,
    )
    check(net.save(scratch, net.head(x)), neon() if (inputs + outputs) % 2 else native())


# Free choices


def mixed(net: Any) -> str:
    """One of each kernel that has choices."""
    x = net.add("Relu", net.conv("image", 12, 3, pads=[1, 1, 1, 1], strides=[2, 2]))
    x = net.conv(x, 24)
    x = net.add("Clip", net.conv(x, 24, 3, pads=[1, 1, 1, 1], group=24), net.constant(0.0))
    x = net.conv(x, 24, 3, pads=[1, 1, 1, 1], group=3)
    x = net.add("AveragePool", net.add("MaxPool", x, kernel_shape=[2, 2]), kernel_shape=[3, 3])
    return net.head(x)


def run_kernel(func: Any, board: Board, arguments: list[np.ndarray]) -> np.ndarray:
    import tvm

    target = tvm.target.Target(board.tvm_target())
    library = tvm.compile(func.with_attr("global_symbol", "main"), target=target)
    tensors = [tvm.runtime.tensor(array) for array in arguments]
    library["main"](*tensors)
    return tensors[-1].numpy()


@pytest.mark.parametrize("board", [native(), neon()], ids=["native", "neon"])
def test_every_choice_gives_the_same_numbers(
    board: Board, sketch: Callable[..., Any], tmp_path: Path
) -> None:
    """Against the kernel as it is before any schedule."""
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo

    net = sketch(18, 14)
    path = net.save(tmp_path / "net.onnx", mixed(net))
    found = tasks(prepare(path, board, PREPROCESS), board)
    assert {str(task.kernel.attrs["edgecompress.op"]) for task in found} == {
        "conv2d",
        "grouped",
        "depthwise",
        "max_pool",
        "avg_pool",
    }
    random = np.random.default_rng(1)
    for task in found:
        described = [argument.as_json() for argument in ArgInfo.from_prim_func(task.kernel)]
        arguments = [random.integers(0, 99, shape).astype(dtype) for _, dtype, shape in described]
        want = run_kernel(task.kernel, board, arguments)
        assert want.any()
        search = Search(task.schedule, task.kernel, {}, seed=len(task.name))
        candidates = search.propose(3)
        assert search.misfits == 0, f"{task.name}: choices that the schedule refuses"
        assert len({candidate.decisions for candidate in candidates}) == len(candidates)
        for candidate in candidates:
            arguments[-1] = np.full_like(want, np.nan)
            got = run_kernel(candidate.mod["main"], board, arguments)
            np.testing.assert_allclose(
                got,
                want,
                rtol=0,
                atol=1e-5 * np.abs(want).max(),
                err_msg=f"{task.name} {candidate.decisions}",
            )


@pytest.mark.parametrize("build", [mixed, OPERATORS["squeeze_and_excite"], OPERATORS["softmax"]])
def test_the_same_networks_compile_for_a_raspberry_pi(
    build: Build, sketch: Callable[..., Any], tmp_path: Path
) -> None:
    board = load_board("rpi4b")
    net = sketch(18, 14)
    end = build(net)
    path = net.save(tmp_path / "net.onnx", end if build is mixed else net.head(end))
    mod = prepare(path, board, PREPROCESS)
    executable, scheduled = finish(mod, board)
    assert {call["kernel"] for call in calls(mod)} == set(scheduled)
    # The linker refuses what is not for this board.
    executable.export_library(str(tmp_path / "net.so"), fcompile=linker(board))
    assert (tmp_path / "net.so").read_bytes()[18:20] == (183).to_bytes(2, "little")  # EM_AARCH64
