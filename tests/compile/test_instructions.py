"""Each instruction set: the same networks on words of sdot, smull, VNNI, pmaddubsw and plain
numbers, and in half precision; arm64 code runs under QEMU's user emulation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgecompress.bench import emulated
from edgecompress.compile.network import compile_network
from edgecompress.compile.pipeline import finish, prepare
from edgecompress.compress.networks.export import export_network
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.errors import EdgeCompressError
from edgecompress.targets import Board, load_board
from edgecompress.targets.runtime import write_runtime

from .simulation import PREPROCESS, Written, check, image_of, photo_of, woken

SAME = [1, 1, 1, 1]
SIDE = 18
PROGRAM = Path(__file__).with_name("kernels_program.py")
PYTHON = "usr/bin/python3"

Run = Callable[[Path, np.ndarray, Board], Written]


@pytest.fixture
def emulation(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """`emulation(precision)`: compiles for a virtual board and runs there, or skips."""

    def running(precision: Any = "float32") -> Run:
        def run(path: Path, photo: np.ndarray, board: Board) -> Written:
            compile_network(path, board, PREPROCESS, tmp_path / "ours.so", precision=precision)
            write_runtime(board, tmp_path / "runtime")
            np.save(tmp_path / "image.npy", photo)
            assert board.emulation is not None
            argv = [PYTHON, str(PROGRAM), str(tmp_path)]
            env = {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
            cpu = board.emulation.cpu
            emulated.counted(argv, env, timeout=120, cpu=cpu, board=board.name)
            with np.load(tmp_path / "written.npz") as written:
                return [(name.partition(" ")[2], written[name]) for name in written.files]

        return run

    try:
        if emulated.why_not():
            pytest.skip(f"{emulated.why_not()}: make counting")
        yield running
    except EdgeCompressError as error:
        if os.environ.get("EDGECOMPRESS_REQUIRE_BOARD") == "1":
            raise
        pytest.skip(f"{error.message} ({error.hint})")


def x86(mcpu: str, bits: int = 128, registers: int = 16, mattr: tuple[str, ...] = ()) -> Board:
    """This machine, or one that has more than it."""
    here = load_board("host")
    core = replace(here.fast, core=mcpu, vector_bits=bits, vector_registers=registers)
    return replace(here, mcpu=mcpu, mattr=mattr, clusters=(core,))


X86 = {
    "plain": x86("x86-64"),
    "sse": x86("x86-64-v2"),
    "avx2": x86("x86-64-v3", 256),
    "avx512": x86("x86-64-v4", 512, 32),
    "vnni": x86("x86-64-v4", 512, 32, ("+avx512vnni",)),
}
# A flag of Linux's that has to be there for code to run here.
FLAGS = {"sse": "sse4_2", "avx2": "avx2", "avx512": "avx512vl", "vnni": "avx512_vnni"}


def runs_here(name: str) -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    known = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return load_board("host").arch == "x86_64" and (name == "plain" or FLAGS[name] in known)


def whole_numbers(net: Any) -> str:
    """Layers of all kinds, most of whole numbers."""
    image = net.quantised("image", 0.0207, 7)
    three = net.quantised(net.whole_conv(image, 3, 3, pads=SAME, group=3), 0.03, -4)
    x = net.whole_conv(three, 24, 3, pads=SAME, strides=[2, 2])
    six = net.add("Clip", x, net.constant(0.0), net.constant(6.0))
    x = net.quantised(six, 0.012, -128)
    deep = net.whole_conv(x, 24, 5, pads=[2, 2, 2, 2], group=24)
    deep = net.quantised(net.add("Relu", deep), 0.014, -128)
    deep = net.add("Relu", net.whole_conv(deep, 24, 3, pads=SAME, group=3))
    deep = net.quantised(deep, 0.014, -128)
    y = net.add("Relu", net.add("Add", net.whole_conv(deep, 24), x))
    y = net.quantised(y, 0.02, -128)
    real = net.add("Relu", net.conv(y, 20, 3, pads=SAME))
    z = net.quantised(net.add("HardSwish", real), 0.01, -90)
    pool = net.quantised(
        net.add("MaxPool", z, kernel_shape=[3, 3], strides=[2, 2], pads=SAME), 0.01, -90
    )
    mean = net.add("AveragePool", z, kernel_shape=[3, 3], strides=[2, 2], pads=SAME)
    both = net.add("Concat", pool, net.quantised(mean, 0.009, -70), axis=1)
    both = net.quantised(both, 0.01, -80)
    down = net.whole_conv(both, 40, 7, pads=[3, 3, 3, 3], strides=[2, 2], group=40)
    down = net.quantised(down, 0.015, 5)
    gate = net.quantised(net.add("GlobalAveragePool", down), 0.005, 3)
    gate = net.quantised(net.add("Sigmoid", net.whole_conv(gate, 40)), 1 / 255, -128)
    end = net.quantised(net.add("Mul", down, gate), 0.01, 1)
    flat = net.add("Flatten", net.quantised(net.add("GlobalAveragePool", end), 0.004, 0))
    weight = net.whole_weight(10, 40)
    return net.add("Gemm", flat, weight, net.weight(10), transB=1)


def half_precision(net: Any) -> str:
    """Layers of all kinds."""
    x = net.add("Relu", net.conv("image", 24, 3, pads=SAME))
    x = net.add("Relu", net.add("Add", net.conv(x, 24, 3, pads=SAME), x))  # by squares
    three = net.conv(x, 13, 1, strides=[2, 2])
    deep = net.conv(three, 13, 5, pads=[2, 2, 2, 2], group=13)
    y = net.add("Clip", deep, net.constant(0.0), net.constant(6.0))
    y = net.conv(net.conv(y, 24), 24, 3, pads=SAME, group=3)
    y = net.add("HardSwish", net.conv(y, 20, 3, pads=SAME, strides=[2, 2]))
    pool = net.add("MaxPool", y, kernel_shape=[3, 3], pads=SAME)
    mean = net.add("AveragePool", y, kernel_shape=[3, 3], pads=SAME)
    bounds = [net.constant([number], "int64") for number in (3, 11, 1)]
    part = net.add("Slice", pool, *bounds)
    both = net.add("Concat", mean, part, axis=1)
    numbers = [net.constant(net.random.uniform(0.5, 2, 28)) for _ in range(4)]
    both = net.add("BatchNormalization", both, *numbers)
    gate = net.add("Sigmoid", net.conv(net.add("GlobalAveragePool", both), 28))
    both = net.add("Tanh", net.add("Mul", both, gate))
    flat = net.add("Flatten", net.add("GlobalAveragePool", both))
    return net.add("Softmax", net.add("Gemm", flat, net.weight(10, 28), transB=1), axis=1)


@pytest.fixture
def whole(qdq: Callable[..., Any], tmp_path: Path) -> Path:
    net = qdq(SIDE, SIDE)
    return net.save(tmp_path / "whole.onnx", whole_numbers(net))


@pytest.fixture
def half(sketch: Callable[..., Any], tmp_path: Path) -> Path:
    net = sketch(SIDE, SIDE)
    return net.save(tmp_path / "half.onnx", half_precision(net))


@pytest.mark.board
@pytest.mark.parametrize("name", ["virtual-pi4", "virtual-pi5"])
def test_whole_numbers_on_a_raspberry_pi(
    name: str, whole: Path, emulation: Callable[..., Run]
) -> None:
    check(whole, load_board(name), emulation())


@pytest.mark.parametrize("name", X86)
def test_whole_numbers_on_x86(name: str, whole: Path) -> None:
    if not runs_here(name):
        pytest.skip(f"this machine has no {name}")
    check(whole, X86[name])


@pytest.mark.board
def test_half_precision_on_a_raspberry_pi(half: Path, emulation: Callable[..., Run]) -> None:
    got = check(half, load_board("virtual-pi5"), emulation("float16"))
    kinds = {kernel.partition("_")[0] for kernel in got.kernels if "float16" in kernel}
    assert {"conv2d", "grouped", "depthwise", "softmax"} <= kinds
    assert any(kernel.startswith("winograd") for kernel in got.kernels)


@pytest.mark.board
def test_whole_numbers_beside_half_precision(whole: Path, emulation: Callable[..., Run]) -> None:
    """Sums of whole numbers do not fit half precision: what is beside them is float32."""
    got = check(whole, load_board("virtual-pi5"), emulation("float16"))
    assert not any("float16" in kernel for kernel in got.kernels)


@pytest.mark.slow
@pytest.mark.board
@pytest.mark.parametrize("family", ["regnet_x_200mf", "regnet_y_200mf"])
def test_a_regnet_on_a_raspberry_pi(
    family: str, tmp_path: Path, emulation: Callable[..., Run]
) -> None:
    spec = NetworkSpec(family, 0.5, 0.4, 32, 10)
    network, path, photo = woken(spec), tmp_path / "regnet.onnx", photo_of(32, 32)
    export_network(network, spec, path, torch.zeros(0, 3, 32, 32))
    written = emulation()(path, photo, load_board("virtual-pi4"))
    assert sum(kernel.startswith("grouped_3x3s") for kernel, _ in written) >= 4
    with torch.inference_mode():
        want = network(torch.from_numpy(image_of(photo))).numpy()
    assert np.ptp(want) > 0.1
    np.testing.assert_allclose(written[-1][1], want, rtol=0, atol=1e-4 * np.abs(want).max())


# Which instructions come out


def assembly(path: Path, board: Board, precision: Any = "float32") -> str:
    """Of all kernels of a network."""

    def modules(module: Any) -> Iterator[Any]:
        yield module
        for imported in module.imports:
            yield from modules(imported)

    mod = prepare(path, board, PREPROCESS, precision=precision)
    executable, _ = finish(mod, board, precision=precision)
    compiled = [one for one in modules(executable.mod) if one.kind == "llvm"]
    return "".join(one.inspect_source("asm") for one in compiled)


@pytest.fixture
def matrix(qdq: Callable[..., Any], tmp_path: Path) -> Path:
    """One convolution of words, and one of real numbers."""
    net = qdq(8, 8)
    x = net.quantised(net.conv("image", 32), 0.02, 3)
    return net.save(tmp_path / "matrix.onnx", net.head(net.quantised(net.whole_conv(x, 64))))


LANE = r"sdot\s+v\d+\.4s, v\d+\.16b, v\d+\.4b\[[0-3]\]"


def test_products_are_by_element_on_a_raspberry_pi_5(matrix: Path) -> None:
    code = assembly(matrix, load_board("rpi5"))
    lanes = len(re.findall(LANE, code))
    assert lanes >= 4 * 8, "four inputs of eight sums at least"
    assert lanes == len(re.findall(r"\tsdot\t", code)), "none repeats an input first"


def test_products_are_widening_ones_on_a_raspberry_pi_4(matrix: Path) -> None:
    code = assembly(matrix, load_board("rpi4b"))
    count = {name: len(re.findall(rf"\t{name}\t", code)) for name in ("smull", "smull2", "sadalp")}
    assert count["sadalp"] >= 4 * 4
    assert count["smull"] + count["smull2"] == 2 * count["sadalp"]
    assert count["smull2"], "the upper half is multiplied where it is"


@pytest.mark.parametrize(
    ("name", "instruction", "register"),
    [
        ("sse", "pmaddubsw", "xmm"),
        ("avx2", "vpmaddubsw", "ymm"),
        ("avx512", "vpmaddubsw", "zmm"),
        ("vnni", "vpdpbusd", "zmm"),
    ],
)
def test_products_on_x86(name: str, instruction: str, register: str, matrix: Path) -> None:
    """Compiled only: this machine may have less than that."""
    if load_board("host").arch != "x86_64":
        pytest.skip("this is no x86")
    code = assembly(matrix, X86[name])
    found = re.findall(rf"\t{instruction}\t.*%{register}", code)
    assert len(found) >= 4
    assert name == "sse" or not re.search(rf"\t{instruction}\t.*%xmm", code)
    if name == "sse":
        assert not re.search(r"%[yz]mm", code), "no register that SSE does not have"


def test_half_precision_multiplies_eight_lanes_by_element(half: Path) -> None:
    code = assembly(half, load_board("rpi5"), "float16")
    assert len(re.findall(r"fmla\s+v\d+\.8h, v\d+\.8h, v\d+\.h\[[0-7]\]", code)) > 100
