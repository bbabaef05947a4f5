"""Fixtures that every room shares."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from edgecompress.files import write_json


@pytest.fixture(scope="session", autouse=True)
def _own_history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The history of the tests' runs, also of the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("history")
        patch.setenv("EDGECOMPRESS_HISTORY", str(folder / "history.sqlite"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_lease(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The lease on this machine, so that others who test or measure on it are no failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGECOMPRESS_LEASE", str(tmp_path_factory.mktemp("lease") / "lease.json"))
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with `imagenette160` and `imagenet-val`; tests skip where there is none."""
    root = os.environ.get("EDGECOMPRESS_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("EDGECOMPRESS_DATA does not name a folder with photos")
    return Path(root)


@dataclass(frozen=True)
class TinyCascade:
    """A cascade of three little compiled networks for one board, and its bundle.

    The predictor takes 24 x 24 pixels, the members 32 and 48; there are ten classes.
    """

    folder: Path
    compiled: dict[str, Any]
    bundle: Path


@dataclass(frozen=True)
class _Compiled:
    library: Path
    info: dict[str, Any]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyCascade:
    """See `TinyCascade`. Compiled straight from Relax in a few seconds, most of them imports."""
    return tiny_cascade(tmp_path_factory.mktemp("tiny"), "host")


@pytest.fixture(scope="session")
def tiny_arm(tmp_path_factory: pytest.TempPathFactory) -> TinyCascade:
    """The same for the board `virtual-pi4`."""
    return tiny_cascade(tmp_path_factory.mktemp("tiny-arm"), "virtual-pi4")


def tiny_cascade(root: Path, board_name: str) -> TinyCascade:
    """See `TinyCascade`; its files lie below `root`."""
    from edgecompress.compile.bundle import build_bundle
    from edgecompress.runner.spec import Cascade, Predictor, Preprocess, Stage
    from edgecompress.targets import load_board

    board = load_board(board_name)
    compiled = {
        name: _Compiled(
            _tiny_network(root / f"{name}.so", side, size, board, box=name == "box"),
            {"layers": [], "macs": side * side * 3, "tuned_layers": 0, "seconds": 1.5},
        )
        for name, side, size in (("box", 24, 4), ("small", 32, 10), ("big", 48, 10))
    }
    cascade = Cascade(
        name="tiny",
        labels=tuple(f"class {i}" for i in range(10)),
        preprocess=Preprocess((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        predictor=Predictor("box", 24, (0.25, 0.5, 0.75, 1.0), 1728, 12),
        stages=(
            Stage("small", 32, 0.875, 0.2, 1.0, 3072, 30),
            Stage("big", 48, 0.875, None, 1.0, 6912, 30),
        ),
        criterion="margin",
        accumulate=True,
        alpha=1.6,
        origin={"weights": "random"},
    )
    write_json(root / "cascade.json", cascade.to_json())
    bundle = root / "tiny.tar"
    build_bundle(root, compiled, board, bundle)
    return TinyCascade(root, compiled, bundle)


def _tiny_network(path: Path, side: int, size: int, board: Any, *, box: bool) -> Path:
    """uint8 `[1, side, side, 3]` -> mean colour -> a dense layer -> float32 `[1, size]`."""
    import tvm
    from tvm import relax

    from edgecompress.compile.link import linker

    builder = relax.BlockBuilder()
    photo = relax.Var("input", relax.TensorType((1, side, side, 3), "uint8"))
    weights = np.random.default_rng(side).normal(size=(3, size)) / (400 if box else 60)
    with builder.function("main", [photo]):
        with builder.dataflow():
            colour = builder.emit(relax.op.mean(relax.op.astype(photo, "float32"), axis=[1, 2]))
            output = builder.emit(relax.op.matmul(colour, relax.const(weights.astype("float32"))))
            if box:
                corners = relax.const(np.array([[-1, -1, 1, 1]], "float32"))
                output = builder.emit(relax.op.sigmoid(relax.op.add(output, corners)))
            output = builder.emit_output(output)
        builder.emit_func_output(output)
    host = board.kind == "host"
    target = "llvm" if host else tvm.target.Target(board.tvm_target())
    compiled = tvm.compile(builder.get(), target=target)
    compiled.export_library(str(path), **({} if host else {"fcompile": linker(board)}))
    return path


@pytest.fixture(scope="session")
def photo_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Eight little photos of different sizes, colours and formats; all can be read."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(7)
    paths = []
    for index in range(8):
        height, width = rng.integers(40, 160, 2)
        colour = rng.integers(0, 256, 3)
        noise = rng.integers(-30, 30, (height, width, 3))
        pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
        path = folder / f"photo{index}.{('jpg', 'png')[index % 2]}"
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return tuple(paths)


@pytest.fixture(scope="session")
def many_photos(
    photo_files: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ...]:
    """Enough photos that a run of them can be hit in its middle: the eight, with a mark behind."""
    folder = tmp_path_factory.mktemp("many")
    paths = []
    for index in range(400):
        source = photo_files[index % len(photo_files)]
        path = folder / f"{index:03}{source.suffix}"
        path.write_bytes(source.read_bytes() + f"{index}".encode())
        paths.append(path)
    return tuple(paths)


COLOURS = {"disc": (200, 40, 40), "square": (40, 60, 200)}


def draw_shape(name: str, rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A coloured shape somewhere on gray noise."""
    noise = rng.integers(90, 160, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    side = int(rng.integers(height // 4, height // 2))
    left, top = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
    pen = ImageDraw.Draw(image)
    shape = pen.ellipse if name == "disc" else pen.rectangle
    shape((left, top, left + side, top + side), fill=COLOURS[name])
    return image


def write_shapes(root: Path, count: int, seed: int, width: int = 56, height: int = 48) -> Path:
    """An ImageFolder tree with `count` photos of each of two shapes."""
    rng = np.random.default_rng(seed)
    for name in COLOURS:
        (root / name).mkdir(parents=True)
        for number in range(count):
            draw_shape(name, rng, width, height).save(root / name / f"{number:03d}.png")
    return root


@pytest.fixture(scope="session")
def make_shapes() -> Callable[..., Path]:
    """`write_shapes`, for other rooms' fixtures."""
    return write_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with photos to train on (48) and to validate on (16)."""
    root = tmp_path_factory.mktemp("shapes")
    return write_shapes(root / "train", 24, 0), write_shapes(root / "val", 8, 1)


@pytest.fixture(scope="session")
def virtual_board() -> Iterator[Any]:
    """An open session with `virtual-pi4`, started if need be; tests skip where it cannot run.

    With EDGECOMPRESS_REQUIRE_BOARD=1 they fail instead. The board is left running.
    """
    from edgecompress.errors import EdgeCompressError
    from edgecompress.rpc import connect

    try:
        session = connect("virtual-pi4")
    except EdgeCompressError as error:
        if os.environ.get("EDGECOMPRESS_REQUIRE_BOARD") == "1":
            raise
        pytest.skip(f"{error.message} ({error.hint})")
    with session:
        yield session
