"""The engines that networks are compared with: their packages, and how each gets its model."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgecompress.wheels import Wheel

OURS = "edgecompress"
TITLES = {
    OURS: "EdgeCompress",
    f"{OURS}-float16": "EdgeCompress float16",
    f"{OURS}-int8": "EdgeCompress int8",
}

_AARCH64 = tuple(
    f"manylinux{tag}_aarch64" for tag in ("_2_28", "_2_27", "_2_26", "_2_24", "_2_17", "2014")
)
_PNNX_S = 600.0


class NotHereError(Exception):
    """An engine cannot take part; the text says why, and goes into its row."""


@dataclass(frozen=True)
class Engine:
    """One peer.

    Attributes:
        name: as `program.ENGINES` has it.
        title: what people call it.
        module: what has to be installed here (`pip install .[peers]`).
        wheels: what the virtual board's Python needs of it.
        convert: writes its model into a folder that holds `model.onnx`; raises `NotHereError`.
        precision: it takes part where this is asked for.
    """

    name: str
    title: str
    module: str
    wheels: tuple[Wheel, ...]
    convert: Callable[[Path], None]
    precision: str = "float32"

    def version(self) -> str:
        """Of its package here; "" where that is not installed."""
        try:
            return metadata.version(self.wheels[0].requirement.split("==")[0])
        except metadata.PackageNotFoundError:
            return ""

    def require(self) -> None:
        """Raises `NotHereError` where its package is not installed."""
        if importlib.util.find_spec(self.module) is None:
            raise NotHereError("not installed; try: pip install '.[peers]'")


def _as_it_is(folder: Path) -> None:
    """ONNX Runtime reads the file as it is."""


def _to_ncnn(folder: Path) -> None:
    """With the program inside the `pnnx` package; its Python wrapper would want torch's tracing."""
    spec = importlib.util.find_spec("pnnx")
    program = None
    if spec is not None and spec.origin is not None:
        found = sorted(Path(spec.origin).parent.rglob("pnnx"))
        program = next((path for path in found if path.is_file()), None)
    if program is None:
        raise NotHereError("pnnx, its converter, is not installed; try: pip install '.[peers]'")
    import numpy as np

    shape = ",".join(map(str, np.load(folder / "input.npy").shape))
    program.chmod(program.stat().st_mode | 0o111)
    _call([str(program), "model.onnx", f"inputshape=[{shape}]", "fp16=0"], folder, "model.ncnn.bin")


def _to_ncnn_float16(folder: Path) -> None:
    """It rounds the same file's weights as it reads them."""
    if not (folder / "model.ncnn.bin").exists():
        raise NotHereError("the model could not be converted for ncnn")


def _to_mnn(folder: Path) -> None:
    program = shutil.which("mnnconvert") or str(_beside_python("mnnconvert"))
    command = [program, "-f", "ONNX", "--modelFile", "model.onnx", "--MNNModel", "model.mnn"]
    _call([*command, "--bizCode", "x"], folder, "model.mnn")


def _to_litert(folder: Path) -> None:
    """Its converters want other versions of half of our packages: a ready file is taken."""
    if not (folder / "model.tflite").exists():
        raise NotHereError("no .tflite file beside the model (convert it with litert-torch)")


def _beside_python(name: str) -> Path:
    import sys

    return Path(sys.executable).parent / name


def _call(command: list[str], folder: Path, result: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_PNNX_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotHereError(f"its converter does not run: {error}") from error
    if done.returncode != 0 or not (folder / result).exists():
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise NotHereError(f"cannot be converted: {said[-1][:200]}")


PEERS = (
    Engine(
        "onnxruntime",
        "ONNX Runtime",
        "onnxruntime",
        (Wheel("onnxruntime==1.32.0", None, _AARCH64),),
        _as_it_is,
    ),
    Engine("ncnn", "ncnn", "ncnn", (Wheel("ncnn==1.0.20261020", None, _AARCH64),), _to_ncnn),
    Engine(
        "ncnn-float16",
        "ncnn float16",
        "ncnn",
        (Wheel("ncnn==1.0.20261020", None, _AARCH64),),
        _to_ncnn_float16,
        precision="float16",
    ),
    Engine("mnn", "MNN", "MNN", (Wheel("MNN==3.6.1", None, _AARCH64),), _to_mnn),
    Engine(
        "litert",
        "LiteRT",
        "ai_edge_litert",
        (Wheel("ai-edge-litert==2.3.0", None, _AARCH64),),
        _to_litert,
    ),
)
