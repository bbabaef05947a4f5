"""Accuracy of a cascade folder on the host, through the runner's own code path."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgecompress import events
from edgecompress.errors import InputError
from edgecompress.files import read_json, write_text

from ...runner.cascade import Network, Outcome, classify
from ...runner.errors import RunnerError
from ...runner.photo import decode
from ...runner.records import Record, photo_id, read_records
from ...runner.spec import Cascade, cascade_from_json
from ..data.imagenet import class_keys
from ..data.photos import PhotoSet
from ..data.pixels import normalise
from ..networks.export import WRITE_AGAIN, load_network
from ..networks.session import Session


@dataclass(frozen=True)
class Predictions:
    """What a cascade said of each photo of a set.

    Attributes:
        cascade: its description.
        records: one a photo, in the set's order; photos that cannot be read have an error.
        targets: class index of each.
    """

    cascade: Cascade
    records: tuple[Record, ...]
    targets: tuple[int, ...]

    @property
    def answered(self) -> list[tuple[Outcome, int]]:
        """Outcome and target of each photo that could be read."""
        return [
            (record.outcome, target)
            for record, target in zip(self.records, self.targets, strict=True)
            if record.outcome is not None
        ]

    @property
    def n(self) -> int:
        """Photos that could be read."""
        return len(self.answered)

    @property
    def failed(self) -> int:
        """Photos that could not."""
        return len(self.records) - self.n

    @property
    def top1(self) -> float:
        """Share of photos whose first class is right; NaN of no photos."""
        return self._share(lambda outcome, target: outcome.top5[0][0] == target)

    @property
    def top5(self) -> float:
        """Share of photos whose class is among the first five; NaN of no photos."""
        return self._share(lambda outcome, target: target in [i for i, _ in outcome.top5])

    @property
    def hit_rates(self) -> tuple[float, ...]:
        """For each stage, the share of photos that it answered."""
        stages = range(len(self.cascade.stages))
        return tuple(self._share(lambda o, _, s=stage: o.stage == s) for stage in stages)

    @property
    def mean_macs(self) -> float:
        """Multiply-accumulates a photo, predictor included, on average."""
        first = self.cascade.predictor.macs if self.cascade.predictor else 0
        upto = np.cumsum([stage.macs for stage in self.cascade.stages]) + first
        answered = self.answered
        if not answered:
            return math.nan
        return float(np.mean([upto[outcome.stage] for outcome, _ in answered]))

    @property
    def logits(self) -> np.ndarray:
        """float32 `[n, classes]` of the photos that could be read."""
        rows = [outcome.logits for outcome, _ in self.answered]
        return np.stack(rows) if rows else np.zeros((0, len(self.cascade.labels)), np.float32)

    def _share(self, right: Callable[..., bool]) -> float:
        answered = self.answered
        return sum(right(*one) for one in answered) / len(answered) if answered else math.nan

    def write(self, path: Path) -> None:
        """Write predictions.jsonl, in the runner's format."""
        write_text(path, "".join(record.to_line() for record in self.records))


def read_predictions(path: Path, cascade: Cascade, photos: PhotoSet) -> Predictions:
    """Predictions of `photos` out of a predictions.jsonl, the board's or the host's.

    Raises:
        InputError: the file is damaged, or lacks a photo of the set.
    """
    try:
        known = read_records(path)
        records = tuple(known[_identity(photo)] for photo in photos.paths)
    except KeyError as error:
        raise InputError(f"{path} lacks a photo of {photos.name}: {error}") from None
    except RunnerError as error:
        raise InputError(error.message, error.hint) from error
    return Predictions(cascade, records, photos.targets)


def read_cascade(folder: Path) -> Cascade:
    """The description in a cascade folder.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return cascade_from_json(read_json(folder / "cascade.json", "cascade"))
    except RunnerError as error:
        raise InputError(f"{folder}: {error.message}", WRITE_AGAIN) from error


def torch_networks(folder: Path, cascade: Cascade) -> Network:
    """The cascade's networks in PyTorch, as the runner calls them: uint8 NHWC in, float32 out.

    Raises:
        InputError: a network's file is missing or damaged.
    """
    networks = {name: load_network(folder, name)[1] for name in cascade.networks}

    def run(name: str, tensor: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return networks[name](normalise(torch.from_numpy(tensor), cascade.preprocess)).numpy()

    return run


def onnx_networks(folder: Path, cascade: Cascade) -> Network:
    """The cascade's ONNX files in ONNX Runtime, called as `torch_networks`.

    Raises:
        CompileError: a file is missing, or ONNX Runtime cannot run it.
    """
    networks = {name: Session(folder / f"{name}.onnx", name) for name in cascade.networks}

    def run(name: str, tensor: np.ndarray) -> np.ndarray:
        image = normalise(torch.from_numpy(tensor), cascade.preprocess).numpy()
        return networks[name](image)[0]

    return run


ENGINES = {"PyTorch": torch_networks, "ONNX Runtime": onnx_networks}


def evaluate(
    folder: Path,
    photos: PhotoSet,
    limit: int | None = None,
    every_stage: bool = False,
    *,
    engine: str = "PyTorch",
) -> Predictions:
    """Run a cascade folder on the host.

    Args:
        folder: a cascade folder.
        photos: what to classify.
        limit: at most so many photos, evenly spread.
        every_stage: also run the members that an answer did not need (for threshold curves).
        engine: one of `ENGINES`.

    Raises:
        InputError: the folder is damaged, or its labels are not those of the photos.
    """
    cascade = read_cascade(folder)
    if len(photos.labels) != len(cascade.labels):
        raise InputError(
            f"{folder} knows {len(cascade.labels)} classes, {photos.name} {len(photos.labels)}",
            "evaluate on photos of the classes that it was trained on",
        )
    _require_order(folder, cascade, photos)
    photos = photos.limit(limit)
    network = ENGINES[engine](folder, cascade)
    records = []
    for path in events.track(photos.paths, f"{cascade.name} in {engine} on {photos.name}"):
        try:
            outcome = classify(cascade, decode(path), network, every_stage=every_stage)
            records.append(Record(_identity(path), outcome))
        except RunnerError as error:
            if error.kind != "input":
                raise InputError(error.message, error.hint) from error
            records.append(Record(_identity(path), None, error.message, error.kind))
    return Predictions(cascade, tuple(records), photos.targets)


def _require_order(folder: Path, cascade: Cascade, photos: PhotoSet) -> None:
    """Refuse classes that are the cascade's in another order, as far as their names tell. A few may
    be elsewhere: two names of one class are another one's name now and then."""
    places: dict[str, set[int]] = {}
    for place, label in enumerate(cascade.labels):
        for key in class_keys(label):
            places.setdefault(key, set()).add(place)
    found = [
        (own, set().union(*(places.get(key, ()) for key in class_keys(label))))
        for own, label in enumerate(photos.labels)
    ]
    known = [(own, there) for own, there in found if there]
    elsewhere = [own for own, there in known if own not in there]
    if 2 * len(elsewhere) > len(known):
        own = elsewhere[0]
        raise InputError(
            f"class {own} is {cascade.labels[own]} in {folder}, {photos.labels[own]} in"
            f" {photos.name}: the classes have another order",
            "name the class folders, or number the classes, as those of the training photos",
        )
    if not known:
        events.warn(
            f"{photos.name} names its classes otherwise than {folder}: they are taken in their"
            f" order, {photos.labels[0]} for {cascade.labels[0]}"
        )


def _identity(path: Path) -> str:
    """The photo's hash, or its path where there is no file to hash."""
    try:
        return photo_id(path)
    except RunnerError:
        return str(path)
