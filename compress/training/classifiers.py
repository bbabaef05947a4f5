"""The classifiers of a compression: the base, and the shrunken ones that learn from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgecompress.errors import UsageError

from ..data.photos import photos_fingerprint
from ..networks.export import save_network
from ..networks.families import Network
from ..networks.network import NetworkSpec
from ..networks.weights import load_weights, weights_identity
from .learn import Compression, inherited, train_classifier
from .workbook import Done


@dataclass(frozen=True)
class TaughtBy:
    """The network that teaches another one.

    Attributes:
        name: of its step.
        fingerprint: of its step; None: the base's, on which all that it teaches depends anyway.
    """

    name: str = "base"
    fingerprint: str | None = None

    @property
    def inputs(self) -> dict[str, str]:
        """Of a training, what it says more than the base."""
        return {} if self.fingerprint is None else {"teacher": self.fingerprint}


def train_base(one: Compression) -> Done:
    """The classifier that everything else is measured against."""
    settings = one.settings
    spec = settings.base.spec(len(one.material.fit.labels))
    recipe = settings.train.recipe(settings.train.epochs, seed=settings.seed)
    inputs = {
        "spec": spec.to_json(),
        "recipe": recipe.to_json(),
        "scale": settings.train.scale,
        **settings.train.changes(),
        "photos": photos_fingerprint(one.material.fit),
        "held": photos_fingerprint(one.material.held),
    }
    source = settings.base.weights
    if source is not None:
        inputs["weights"] = weights_identity(source)
        inputs["start"] = "with the rows of known classes"
        inputs["labels"] = one.material.fit.labels

    def begin(spec: NetworkSpec) -> Network:
        network = one.build(spec)
        if source is None:
            return network
        labels, preprocess = one.material.fit.labels, one.material.preprocess
        fresh = load_weights(network, spec, source, labels=labels, preprocess=preprocess)
        if fresh and not recipe.epochs:
            raise UsageError(
                f"the weights {source} do not know all of the classes, and nothing would train"
                f" {fresh[0]}",
                "let [compress.train] epochs be 1 or more",
            )
        return network

    return train_classifier(one, "base", spec, recipe=recipe, inputs=inputs, start=begin)


def train_member(
    one: Compression, name: str, spec: NetworkSpec, base: Done, teacher: TaughtBy
) -> Done:
    """A shrunken network, from the base's weights.

    The base itself, as a member, has been trained already.
    """
    settings, table = one.settings, one.settings.members
    if spec.to_json() == base.result["spec"]:

        def same(_: str) -> dict[str, Any]:
            with one.book.writing(f"{name}.pt") as temporary:
                save_network(temporary, *one.load("base"))
            return base.result

        return one.book.step(name, {"base": base.fingerprint}, same, (f"{name}.pt",), alone=True)
    recipe = settings.train.recipe(
        table.epochs, seed=settings.seed, rate=table.rate, distil=table.distil
    )
    inputs = {"base": base.fingerprint, "spec": spec.to_json(), "recipe": recipe.to_json()}
    inputs |= teacher.inputs
    return train_classifier(
        one,
        name,
        spec,
        recipe=recipe,
        inputs=inputs,
        start=lambda shrunk: inherited(one, shrunk),
        teacher=teacher.name,
    )
