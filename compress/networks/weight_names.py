"""Names of weights as torchvision and timm publish them, brought to ours.

ResNets have the same names in both and here; MobileNetV2 and RegNet have torchvision's, and
EfficientNet-Lite has timm's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from edgecompress.errors import InputError

from .families import Network
from .families.efficientnet import EfficientNetLite, rename_flat_blocks

State = Mapping[str, Tensor]

OTHER_NETWORK = "family, width, depth and multiple must be those that the weights were trained for"

_REGNET_LAYERS = {"conv1": "f.a", "conv2": "f.b", "conv3": "f.c", "downsample": "proj"}
_CONV_NORM = {"conv": "0", "bn": "1"}


def renamed(state: State, network: Network) -> dict[str, Tensor]:
    """A state dict with our names; names that nobody knows stay as they are.

    Args:
        network: what the weights are for.
    """
    if isinstance(network, EfficientNetLite) and any(key.startswith("_blocks.") for key in state):
        try:
            return rename_flat_blocks(state, network)
        except KeyError as error:
            name = str(error.args[0])
            raise InputError(
                f"the weights do not fit: no place for {name}", OTHER_NETWORK
            ) from error
    own = network.state_dict().keys()
    if any(key.startswith("trunk_output.") for key in own):
        return {_regnet(key): value for key, value in state.items()}
    if "features.0.0.weight" in own and "conv_stem.weight" in state:
        return _mobilenet(state)
    return dict(state)


def _regnet(key: str) -> str:
    """timm's `s2.b3.conv1.bn.bias` is torchvision's `trunk_output.block2.block2-2.f.a.1.bias`."""
    stem = re.fullmatch(r"stem\.(conv|bn)\.(\w+)", key)
    if stem:
        return f"stem.{_CONV_NORM[stem[1]]}.{stem[2]}"
    if key.startswith("head.fc."):
        return key.removeprefix("head.")
    block = re.fullmatch(r"s(\d+)\.b(\d+)\.(.+)", key)
    if block is None:
        return key
    where = f"trunk_output.block{block[1]}.block{block[1]}-{int(block[2]) - 1}"
    layer = re.fullmatch(r"(conv[123]|downsample)\.(conv|bn)\.(\w+)", block[3])
    if layer:
        return f"{where}.{_REGNET_LAYERS[layer[1]]}.{_CONV_NORM[layer[2]]}.{layer[3]}"
    return f"{where}.f.{block[3]}" if block[3].startswith("se.fc") else key


_EXPANDED = {
    "conv_pw": "0.0",
    "bn1": "0.1",
    "conv_dw": "1.0",
    "bn2": "1.1",
    "conv_pwl": "2",
    "bn3": "3",
}
_UNEXPANDED = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}


def _mobilenet(state: State) -> dict[str, Tensor]:
    """timm's `blocks.2.1.conv_pw.weight` is torchvision's `features.5.conv.0.0.weight`."""
    found = {re.match(r"blocks\.(\d+)\.(\d+)\.", key) for key in state}
    blocks = sorted({(int(one[1]), int(one[2])) for one in found if one})
    number = {where: index for index, where in enumerate(blocks, 1)}
    last = len(blocks) + 1
    outer = {
        "conv_stem": "features.0.0",
        "bn1": "features.0.1",
        "conv_head": f"features.{last}.0",
        "bn2": f"features.{last}.1",
        "classifier": "classifier.1",
    }
    names = {}
    for key, value in state.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", key)
        layer, _, rest = key.rpartition(".")
        if block:
            where = int(block[1]), int(block[2])
            expanded = f"blocks.{where[0]}.{where[1]}.conv_pwl.weight" in state
            part = (_EXPANDED if expanded else _UNEXPANDED).get(block[3])
            ours = f"features.{number[where]}.conv.{part}.{block[4]}"
            names[key if part is None else ours] = value
        else:
            names[f"{outer[layer]}.{rest}" if layer in outer else key] = value
    return names
