"""Trainings as steps: what one compression shares, and one classifier trained and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from edgecompress.files import sha256_file, sha256_json

from ..config import CompressConfig
from ..data.augment import Augment
from ..data.photos import photos_fingerprint
from ..machine import ddp
from ..machine.devices import chosen_device, multiplies_bfloat16
from ..networks.export import load_network, save_network
from ..networks.families import Network
from ..networks.foreign import Foreign
from ..networks.inherit import inherit
from ..networks.network import NetworkSpec
from .material import Material, centred
from .tasks import ClassifyTask, Held
from .teacher import Memory, Teacher
from .train import Recipe, Task, train
from .workbook import Done, Workbook

T = TypeVar("T")
Trained = tuple[NetworkSpec, Network]


class JudgedTask(Task, Protocol):
    """A task that is measured on photos held out."""

    @property
    def held(self) -> Held:
        """These photos."""
        ...


@dataclass(frozen=True)
class Compression:
    """One compression under way: its settings, its photos, its work folder."""

    settings: CompressConfig
    material: Material
    book: Workbook

    def build(self, spec: NetworkSpec) -> Network:
        """A network with weights that depend on nothing but the seed."""
        return self.seeded(spec.build)

    def seeded(self, make: Callable[[], T]) -> T:
        """What is made, with random numbers that depend on nothing but the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return make()

    def load(self, name: str) -> Trained:
        """A network that an earlier step has trained."""
        return load_network(self.book.folder, name)

    def augment(self) -> Augment:
        """How training photos are varied."""
        table = self.settings.train
        return Augment((table.scale, 1.0), predicted=table.predicted, **table.changes())

    def crop_inputs(self) -> dict[str, Any]:
        """What decides a training on predicted crops, beside the predictor and the sizes."""
        share = self.settings.train.predicted
        return {} if share == Augment.predicted else {"predicted": share}


def classifying(
    one: Compression, resolution: int, *, teacher: str | None, crop: str | None
) -> ClassifyTask:
    """What a classifier of an input side learns.

    Args:
        teacher: name of the trained network that teaches, or None.
        crop: name of the predictor whose crops are seen, or None.
    """
    material, sizes = one.material, one.settings.predictor.sizes
    look, crops = centred, None
    if crop is not None:
        predictor = one.load(crop)
        crops = material.fit_crops(predictor, sizes)
        look = material.predicted(material.held, material.held_cache, predictor, sizes)
    return ClassifyTask(
        cache=material.fit_cache,
        resolution=resolution,
        preprocess=material.preprocess,
        augment=one.augment(),
        held=material.held_inputs(resolution, look),
        crops=crops,
        teacher=None if teacher is None else teaching(one, teacher),
    )


def train_classifier(
    one: Compression,
    name: str,
    spec: NetworkSpec,
    *,
    recipe: Recipe,
    inputs: Any,
    start: Callable[[NetworkSpec], Network],
    teacher: str | None = None,
    crop: str | None = None,
) -> Done:
    """One step that trains one classifier.

    Args:
        start: gives the network with its first weights.
        teacher: name of the trained network that teaches, or None; nobody is asked where the
            recipe gives its answers no weight.
        crop: name of the predictor whose crops are seen, or None.
    """
    asked = teacher if recipe.distil else None

    def work(fingerprint: str) -> dict[str, Any]:
        task = classifying(one, spec.resolution, teacher=asked, crop=crop)
        network = start(spec)
        return keep_training(
            one, name, (spec, network), task=task, recipe=recipe, fingerprint=fingerprint
        )

    return one.book.step(name, inputs, work, (f"{name}.pt",), (f"{name}.checkpoint",))


def keep_training(
    one: Compression,
    name: str,
    trained: Trained,
    *,
    task: JudgedTask,
    recipe: Recipe,
    fingerprint: str,
    learner: nn.Module | None = None,
) -> dict[str, Any]:
    """Train and keep the network; the measures are of the held-out photos.

    Args:
        learner: what is trained, the network being part of it; None: the network itself.
    """
    spec, network = trained
    checkpoint = one.book.path(f"{name}.checkpoint")
    taught = network if learner is None else learner
    outcome = train(taught, task, recipe, checkpoint, f"training {name}", identity=fingerprint)
    # A network that is taken as it is has been measured after no epoch.
    measures = outcome.measures or (ddp.decided(lambda: task.measure(network)),)
    with one.book.writing(f"{name}.pt") as temporary:
        save_network(temporary, spec, network)
    return {
        "spec": spec.to_json(),
        "macs": spec.macs,
        "params": spec.params,
        "held_out": round(measures[-1], 5),
        "photos": len(task.held.wanted),
        "losses": [round(loss, 5) for loss in outcome.losses],
        "measures": [round(measure, 5) for measure in measures],
        "seconds": round(outcome.seconds, 1),
    }


def teaching(one: Compression, name: str) -> Teacher:
    """A trained network as a teacher, on the device that students are trained on."""
    spec, network = one.load(name)
    device = chosen_device()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = one.settings.train.precision
    identity = sha256_json(
        [
            sha256_file(one.book.path(f"{name}.pt")),
            photos_fingerprint(one.material.fit),
            one.material.side,
            [precision, device.type, multiplies_bfloat16(device)],
        ]
    )
    # Processes of a `torchrun` may be on machines that share a folder, but not its open files.
    alone = ddp.ranks().count == 1
    memory = Memory(one.book.folder, name, identity, spec.classes) if alone else None
    return Teacher(network.eval(), spec.resolution, memory)


def inherited(one: Compression, spec: NetworkSpec) -> Network:
    """A smaller network with the base's weights to begin with."""
    network, base = one.build(spec), one.load("base")[1]
    if isinstance(network, Foreign):
        network.adopt(base)
    else:
        inherit(network, base)
    return network
