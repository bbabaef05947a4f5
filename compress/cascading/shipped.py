"""Cascades that come with this package: trained by it, small enough to travel with the code.

A light folder has the description (`cascade.json`), each network's weights in half precision
(`NAME.pt`) and a model card. It is written by `shipping`, and made into a whole cascade folder
here: ONNX and float32 weights follow from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgecompress.errors import InputError, UsageError, unknown_name
from edgecompress.files import read_json

from ...runner.spec import Cascade
from ..networks.export import load_network, write_cascade
from ..networks.families import Network
from ..networks.network import NetworkSpec
from .evaluate import read_cascade

FOLDER = Path(__file__).parents[1] / "cascades"
CARD = "README.md"
DESCRIPTION = "cascade.json"
FACTS = "facts.json"


def shipped_names() -> list[str]:
    """The cascades that come with this package."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{DESCRIPTION}"))


def find_light(name: str) -> Path:
    """A light or whole cascade folder: one that comes with this package, or a path to another.

    Raises:
        UsageError: neither; near names are offered.
    """
    if name in shipped_names():
        return FOLDER / name
    folder = Path(name)
    if (folder / DESCRIPTION).is_file():
        return folder
    raise unknown_name("cascade", name, shipped_names(), UsageError, "give a cascade folder")


def read_light(folder: Path) -> tuple[Cascade, dict[str, tuple[NetworkSpec, Network]]]:
    """A folder's cascade and its networks in evaluation mode, in float32.

    Raises:
        InputError: a file is missing or damaged, or a network is not what the description says.
    """
    cascade = read_cascade(folder)
    networks = {name: load_network(folder, name) for name in cascade.networks}
    sides = {stage.network: (stage.resolution, len(cascade.labels)) for stage in cascade.stages}
    for name, (side, classes) in sides.items():
        spec = networks[name][0]
        if (spec.resolution, spec.classes) != (side, classes):
            raise InputError(f"{folder / name}.pt is not the network of {folder / DESCRIPTION}")
    return cascade, networks


def shipped_cascade(name: str, out: Path) -> Path:
    """Write the cascade folder of a shipped cascade (or of a light folder); returns it.

    Raises:
        UsageError: there is none of that name.
        InputError: a file is missing or damaged.
        CompileError: an export fails or differs.
    """
    folder = find_light(name)
    cascade, networks = read_light(folder)
    told: dict[str, Any] = {"kind": "shipped", "cascade": cascade.name}
    if (folder / FACTS).is_file():
        told["facts"] = read_json(folder / FACTS, "facts of a cascade")
    return write_cascade(out, cascade, networks, told)
