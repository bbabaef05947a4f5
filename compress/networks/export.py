"""Cascade folders: the description, and each network as ONNX (checked) and as PyTorch weights."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgecompress import events
from edgecompress.errors import CompileError, InputError
from edgecompress.files import building, write_json

from ...runner.spec import Cascade, cascade_from_json
from .families import Network
from .network import NetworkSpec

OPSET = 18
WRITE_AGAIN = "write the cascade folder again: edgecompress compress"
TOLERANCE = 1e-3
"""Largest error of ONNX Runtime against PyTorch, as a share of the largest output. Sums in another
order differ by about 1e-6; 1e-3 means another network."""


@dataclass(frozen=True)
class ExportCheck:
    """How far ONNX Runtime's outputs are from PyTorch's.

    Attributes:
        inputs: how many were compared: random ones, and photos where there were any.
        max_abs_error: largest difference of one output.
        max_rel_error: that, as a share of the largest output of the same input.
    """

    inputs: int
    max_abs_error: float
    max_rel_error: float


def export_network(network: Network, spec: NetworkSpec, path: Path, photos: Tensor) -> ExportCheck:
    """Write `path` as ONNX: input `input` `[1, 3, r, r]` normalised, output `output`.

    Args:
        network: in evaluation mode.
        photos: normalised photos `[n, 3, r, r]` for the check, n may be 0.

    Raises:
        CompileError: the export fails, or its outputs are not PyTorch's.
    """
    side = spec.resolution
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 3, side, side, generator=generator)
    write_onnx(network, noise[:1], path)
    return _check(network, path, torch.cat([noise, photos.to(noise.dtype)]))


def write_onnx(network: nn.Module, image: Tensor, path: Path) -> None:
    """Write any network as ONNX, unchecked: input `input` of `image`'s shape, output `output`.

    Raises:
        CompileError: the export fails.
    """
    try:
        # The exporter reports on stdout and through loggers; what matters is checked below.
        with contextlib.redirect_stdout(io.StringIO()), _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(),
                (image,),
                path,
                input_names=["input"],
                output_names=["output"],
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter has no error type of its own
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(f"cannot export {path.stem} to ONNX: {first[0]}") from error
    _strip(path)


def _strip(path: Path) -> None:
    """Take out what the exporter notes about its own run (stack traces with this machine's paths),
    so that the same network gives the same file everywhere."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    for part in (*graph.input, *graph.output):
        del part.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


@contextlib.contextmanager
def _quiet():
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _check(network: Network, path: Path, inputs: Tensor) -> ExportCheck:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    worst_abs = worst_rel = 0.0
    with torch.inference_mode():
        for one in inputs.split(1):
            want = network(one).numpy()
            got = np.asarray(session.run(["output"], {"input": one.numpy()})[0])
            error = float(np.abs(got - want).max())
            worst_abs = max(worst_abs, error)
            worst_rel = max(worst_rel, error / max(float(np.abs(want).max()), 1e-6))
    if not worst_rel <= TOLERANCE:  # also true of NaN
        raise CompileError(
            f"{path.stem} in ONNX Runtime is not what PyTorch has: relative error {worst_rel:.2g}",
            "check the network for operations that behave differently in evaluation mode",
        )
    return ExportCheck(len(inputs), worst_abs, worst_rel)


def write_cascade(
    out: Path,
    cascade: Cascade,
    networks: Mapping[str, tuple[NetworkSpec, Network]],
    compression: Mapping[str, Any],
    photos: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a cascade folder, whole or not at all.

    Args:
        out: the folder; an old one is replaced.
        cascade: the description.
        networks: of each name in `cascade.networks`.
        compression: what was measured on the way; `export` is added to it.
        photos: for each network, normalised photos to check the export with.

    Raises:
        CompileError: an export fails or differs.
    """
    cascade_from_json(cascade.to_json())  # what the runner would refuse is not written
    checks = {}
    with building(out) as folder:
        for name in events.track(cascade.networks, "exporting to ONNX"):
            spec, network = networks[name]
            none = torch.zeros(0, 3, spec.resolution, spec.resolution)
            real = (photos or {}).get(name, none)
            checks[name] = asdict(export_network(network, spec, folder / f"{name}.onnx", real))
            save_network(folder / f"{name}.pt", spec, network)
        write_json(folder / "cascade.json", cascade.to_json())
        write_json(folder / "compression.json", {**compression, "export": checks})
    return out


def save_network(path: Path, spec: NetworkSpec, network: Network) -> None:
    """Write description and weights; `load_network` reads them."""
    torch.save({"spec": spec.to_json(), "state_dict": network.state_dict()}, path)


def load_network(folder: Path, name: str) -> tuple[NetworkSpec, Network]:
    """A network of a cascade folder, in evaluation mode.

    Raises:
        InputError: its file is missing, damaged, or holds anything but weights.
    """
    path = folder / f"{name}.pt"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        spec = NetworkSpec.from_json(content["spec"])
        network = spec.build()
        network.load_state_dict(content["state_dict"])
    except FileNotFoundError:
        raise InputError(f"no such network: {path}", WRITE_AGAIN) from None
    except InputError:
        raise
    except Exception as error:  # a damaged archive raises nearly anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot read {path}: {first}", WRITE_AGAIN) from error
    return spec, network.eval()
