"""The networks that engines are compared on, unless a user brings one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress import __version__
from edgecompress.errors import InputError, UsageError, unknown_name
from edgecompress.files import cache_dir

from ...runner.spec import Preprocess
from ...targets import Board

if TYPE_CHECKING:
    from torch import nn

_CLASSES = 1000


def _family(name: str, classes: int = _CLASSES) -> Callable[[], tuple[nn.Module, int]]:
    def build() -> tuple[nn.Module, int]:
        from ...compress.networks.families import find_family

        family = find_family(name)
        return family.build(1.0, 1.0, family.resolution, classes), family.resolution

    return build


def _half_resnet50() -> tuple[nn.Module, int]:
    """Half as wide as ResNet-50, with 2-3-5-2 blocks: 0.589 GMACs at 184 pixels."""
    from ...compress.networks.families.resnet import Bottleneck, ResNet

    inner = (32, 64, 128, 256)
    outer = tuple(4 * channels for channels in inner)
    blocks = (2, 3, 5, 2)
    network = ResNet(Bottleneck, blocks, stem=32, inner=inner, outer=outer, classes=_CLASSES)
    return network, 184


MODELS: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    "half-resnet50": _half_resnet50,
    "resnet50": _family("resnet50"),
    "resnet18": _family("resnet18"),
    "resnet18d": _family("resnet18d"),
    "mobilenet_v2": _family("mobilenet_v2"),
    "efficientnet_lite0": _family("efficientnet_lite0"),
    "regnet_x_200mf": _family("regnet_x_200mf"),
    "regnet_y_200mf": _family("regnet_y_200mf"),
    "foreground_predictor": _family("foreground_predictor", 4),
}


def find_model(name: str) -> Path:
    """An ONNX file: the one that is named, or one of `MODELS` with random weights.

    Raises:
        InputError: no such file.
        UsageError: neither a file nor one of `MODELS`.
    """
    if name.endswith(".onnx"):
        if not Path(name).is_file():
            raise InputError(f"no such ONNX file: {name}", "edgecompress export writes one")
        return Path(name)
    if name not in MODELS:
        raise unknown_name("model", name, [*MODELS, "FILE.onnx"], UsageError)
    path = cache_dir("peer-models") / f"{name}-{__version__}.onnx"
    if not path.exists():
        _export(name, path)
    return path


def quantised(onnx: Path, board: Board, preprocess: Preprocess, out: Path) -> Path:
    """Write a model in int8, by the packaged photos; returns the file."""
    import numpy as np
    import onnx as onnx_package

    from ...compile.integer import integer_of
    from ...compress.data.photos import foolbox_photos
    from ...compress.int8.quantize import quantize_network
    from ...runner.photo import centre_box, decode, sample

    shape = onnx_package.load(onnx, load_external_data=False).graph.input[0].type.tensor_type.shape
    side = shape.dim[2].dim_value
    images = [decode(path) for path in foolbox_photos().paths]
    inputs = [np.asarray(sample(image, centre_box(*image.size, 1.0), side)) for image in images]
    paired = integer_of(board).instruction == "pmaddubsw"
    quantize_network(onnx, inputs, preprocess, out, paired=paired)
    return out


def _export(name: str, path: Path) -> None:
    import torch

    from edgecompress.files import writing

    from ...compress.networks.export import write_onnx

    torch.manual_seed(0)
    network, side = MODELS[name]()
    _wake(network)
    with writing(path) as temporary:
        write_onnx(network.eval(), torch.zeros(1, 3, side, side), temporary)


def _wake(network: Any) -> None:
    """Fresh residual branches end in zeros: give every normalisation numbers of a trained one."""
    from torch import nn

    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.0)
            nn.init.uniform_(part.bias, -0.1, 0.1)
