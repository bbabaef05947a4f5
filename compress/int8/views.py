"""What the networks of a cascade are fed on photos, and what the float ones answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgecompress import events
from edgecompress.errors import InputError

from ...runner.cascade import Network, classify
from ...runner.errors import RunnerError
from ...runner.photo import decode
from ...runner.spec import Cascade
from ..data.photos import PhotoSet
from ..data.pixels import normalised
from ..networks.session import Session

_SHARES = (0.9, 0.8, 0.7)
_PLACES = ((0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0))
MOST_VIEWS = 2 * (1 + len(_SHARES) * len(_PLACES))
"""Of one photo: whole and in parts, each also mirrored."""


@dataclass(frozen=True)
class Inputs:
    """What the networks of a cascade were fed, by their names.

    Attributes:
        name: of the photo set.
        tensors: uint8 `[n, r, r, 3]` each.
        logits: float32 `[n, classes]`: what the float networks, in ONNX Runtime, say of them.
        targets: class index of each, int64 `[n]`.
        photos: how many different photos they are views of.
        unreadable: photos that could not be read.
    """

    name: str
    tensors: dict[str, np.ndarray]
    logits: dict[str, np.ndarray]
    targets: np.ndarray
    photos: int
    unreadable: int

    def __len__(self) -> int:
        return len(self.targets)


def split(photos: PhotoSet, calibration: int, gate: int) -> tuple[PhotoSet, PhotoSet]:
    """Photos for the ranges and others for the gate, both spread evenly over the set.

    Of fewer photos than are wanted, both get their share; a single one is in both.
    """
    used = photos.limit(calibration + gate)
    if len(used) < 2:
        return used, used
    count = min(max(1, round(len(used) * calibration / (calibration + gate))), len(used) - 1)
    chosen = {i * len(used) // count for i in range(count)}
    rest = [i for i in range(len(used)) if i not in chosen]
    return used.take(sorted(chosen)), used.take(rest)


def view(image: Image.Image, number: int) -> Image.Image:
    """A photo as it is (0), mirrored (1), or a part of it (the others)."""
    part, mirrored = divmod(number, 2)
    if part:
        share = _SHARES[(part - 1) // len(_PLACES)]
        x, y = _PLACES[(part - 1) % len(_PLACES)]
        width, height = (max(1, round(side * share)) for side in image.size)
        left, top = round(x * (image.width - width)), round(y * (image.height - height))
        image = image.crop((left, top, left + width, top + height))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


def record_inputs(cascade: Cascade, folder: Path, photos: PhotoSet, count: int) -> Inputs:
    """Classify photos as the runner does and keep what each network was fed.

    Where there are fewer photos than `count`, further views of them are taken, always the same.

    Args:
        folder: the cascade folder, with float ONNX files.

    Raises:
        InputError: no photo can be read.
        CompileError: a network does not run.
    """
    sessions = {name: Session(folder / f"{name}.onnx", name) for name in cascade.networks}
    tensors: dict[str, list[np.ndarray]] = {name: [] for name in cascade.networks}
    logits: dict[str, list[np.ndarray]] = {name: [] for name in cascade.networks}

    def network(name: str, tensor: np.ndarray) -> np.ndarray:
        output = sessions[name](normalised(tensor, cascade.preprocess))[0]
        tensors[name].append(tensor[0])
        logits[name].append(output[0])
        return output

    seen: set[int] = set()
    damaged: set[int] = set()
    targets: list[int] = []
    with events.task(f"{cascade.name} in ONNX Runtime on {photos.name}", count) as task:
        for number, place in _order(len(photos), damaged):
            if len(targets) == count:
                break
            try:
                image = decode(photos.paths[place])
            except RunnerError:
                damaged.add(place)
                continue
            _classified(cascade, view(image, number), network)
            seen.add(place)
            targets.append(photos.targets[place])
            task.advance()
    if not targets:
        raise InputError(
            f"no photo of {photos.name} can be read", "give others: `photos` in [quantize]"
        )
    return Inputs(
        photos.name,
        {name: np.stack(rows) for name, rows in tensors.items()},
        {name: np.stack(rows) for name, rows in logits.items()},
        np.array(targets, np.int64),
        len(seen),
        len(damaged),
    )


def _order(count: int, damaged: set[int]) -> Iterator[tuple[int, int]]:
    """View and photo: every photo as it is, then every photo mirrored, and so on."""
    for number in range(MOST_VIEWS):
        yield from ((number, place) for place in range(count) if place not in damaged)


def _classified(cascade: Cascade, image: Image.Image, network: Network) -> None:
    try:
        classify(cascade, image, network, every_stage=True)
    except RunnerError as error:
        raise InputError(error.message, error.hint) from error
