"""An int8 cascade beside its float32 one, on labelled photos, in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecompress import events
from edgecompress.errors import InputError

from ...runner.cascade import Network, classify
from ...runner.errors import RunnerError
from ...runner.photo import decode
from ...runner.spec import Cascade
from ..cascading.evaluate import read_cascade
from ..data.photos import PhotoSet
from ..data.pixels import normalised
from ..networks.session import Session
from .gate import Loss, loss


@dataclass(frozen=True)
class Compared:
    """A network, or the whole cascade, in both precisions.

    Attributes:
        top1: in float32 and in int8.
        loss: of int8.
    """

    top1: tuple[float, float]
    loss: Loss


def compare(folder: Path, quantized: Path, photos: PhotoSet) -> dict[str, Compared]:
    """Accuracy of both cascade folders, by network; `cascade` is the answer of the whole.

    int8 is simulated in float32: integer kernels give the same but for the order of float sums, and
    for the weights that x86 without VNNI rounds once more.

    Raises:
        InputError: a folder is damaged, or no photo can be read.
        CompileError: a network does not run.
    """
    cascade = read_cascade(folder)
    sides = [_answers(cascade, one, photos) for one in (folder, quantized)]
    targets = np.array([photos.targets[place] for place in sides[0].pop("places")])
    sides[1].pop("places")
    found = {}
    for name, reference in sides[0].items():
        got = sides[1][name]
        shares = [float((one.argmax(axis=1) == targets).mean()) for one in (reference, got)]
        found[name] = Compared((shares[0], shares[1]), loss(reference, got))
    return found


def _answers(cascade: Cascade, folder: Path, photos: PhotoSet) -> dict[str, np.ndarray]:
    """Logits `[n, classes]` by member, the cascade's own, and the photos' `places`."""
    sessions = {name: Session(folder / f"{name}.onnx", name) for name in cascade.networks}
    rows: dict[str, list[np.ndarray]] = {
        name: [] for name in (*(stage.network for stage in cascade.stages), "cascade")
    }
    places = []

    def network(name: str, tensor: np.ndarray) -> np.ndarray:
        output = sessions[name](normalised(tensor, cascade.preprocess))[0]
        if name in rows:
            rows[name].append(output[0])
        return output

    run: Network = network
    label = f"{cascade.name} of {folder.name} in ONNX Runtime on {photos.name}"
    for place, path in enumerate(events.track(photos.paths, label)):
        try:
            image = decode(path)
        except RunnerError:
            continue
        rows["cascade"].append(classify(cascade, image, run, every_stage=True).logits)
        places.append(place)
    if not places:
        raise InputError(f"no photo of {photos.name} can be read", "give other photos")
    return {"places": np.array(places), **{name: np.stack(one) for name, one in rows.items()}}
