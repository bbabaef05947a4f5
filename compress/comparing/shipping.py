"""A comparison's choice as a light cascade folder: small enough to travel with code (`shipped`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgecompress import __version__
from edgecompress.errors import UsageError
from edgecompress.files import building, write_json

from ...runner.spec import Cascade, Predictor, Stage, cascade_from_json
from ..cascading.evaluate import evaluate
from ..cascading.shipped import DESCRIPTION, FACTS
from ..cropping.crop_sizes import kept_sizes
from ..networks.families import Network
from ..networks.network import NetworkSpec
from ..training.learn import Compression, Trained
from .comparison import FULL, PREDICTOR, ComparisonTable, Row


@dataclass(frozen=True)
class Choice:
    """What a comparison chose within a budget, and how good it is there.

    Attributes:
        row: the choice's.
        base: the uncompressed network's, of the same seed.
    """

    row: Row
    base: Row


def chosen(rows: Sequence[Row], budget: float, method: str = FULL) -> Choice:
    """A method's row within a budget, with the seed that is best on photos held out.

    Raises:
        UsageError: the comparison has none there.
    """
    ours = [row for row in rows if row.method == method and row.budget == budget]
    if not ours:
        raise UsageError(f"the comparison chose nothing within {budget:g} of the base's MACs")
    row = max(ours, key=lambda one: (one.held_out, -one.macs, -one.seed))
    base = next(one for one in rows if one.method == "base" and one.seed == row.seed)
    return Choice(row, base)


def _require_weights(one: Compression, names: Sequence[str]) -> None:
    paths = (one.book.path(f"{name}.pt") for name in names)
    missing = next((path for path in paths if not path.exists()), None)
    if missing is not None:
        raise UsageError(
            f"a cascade needs the weights of its networks, and {missing} is not there",
            "copy the .pt files of the machine that trained them, or train (leave out --so-far)",
        )


def as_cascade(one: Compression, row: Row, name: str) -> tuple[Cascade, dict[str, Trained]]:
    """A row's networks as a cascade that the runner runs.

    Raises:
        UsageError: the comparison's folder has records of them, but no weights.
    """
    _require_weights(one, (*row.networks, *((PREDICTOR,) if row.cropped else ())))
    networks = {network: one.load(network) for network in row.networks}
    predictor = None
    if row.cropped:
        networks[PREDICTOR] = one.load(PREDICTOR)
        spec = networks[PREDICTOR][0]
        predictor = Predictor(PREDICTOR, spec.resolution, kept_sizes(one), spec.macs, spec.params)
    point = row.point or {}
    thresholds = (*point.get("thresholds", ()), None)
    temperatures = point.get("temperatures", (1.0,))
    cascade = Cascade(
        name=name,
        labels=one.material.fit.labels,
        preprocess=one.material.preprocess,
        predictor=predictor,
        stages=tuple(
            Stage(network, spec.resolution, 1.0, threshold, temperature, spec.macs, spec.params)
            for (network, spec), threshold, temperature in zip(
                ((key, networks[key][0]) for key in row.networks),
                thresholds, temperatures, strict=True,
            )
        ),
        criterion=point.get("criterion", one.settings.cascade.one_criterion),
        accumulate=point.get("accumulate", False),
        alpha=point.get("alpha", 1.0),
        origin={
            "method": f"EdgeCompress {__version__}: trained, shrunk, chosen within {row.budget:g}"
            " of the base's MACs",
            "photos": f"{one.material.fit.name}, {len(one.material.fit)} photos",
            "thresholds": f"{len(one.material.held)} photos held out of training",
            "crop": "predicted" if predictor else "none: largest centred square",
        },
    )  # fmt: skip
    return cascade, networks


def ship(
    one: Compression, choice: Choice, table: ComparisonTable, out: Path, command: str
) -> dict[str, Any]:
    """Write a light folder, whole or not at all, and measure what is in it.

    Args:
        table: of the comparison that chose.
        out: the folder; its name is the cascade's.
        command: what the user typed, for the model card.

    Returns:
        `facts.json`: numbers of the light folder itself, on the photos to report on.
    """
    row, settings = choice.row, one.settings
    cascade, networks = as_cascade(one, row, out.name)
    cascade_from_json(cascade.to_json())
    with building(out) as folder:
        write_json(folder / DESCRIPTION, cascade.to_json())
        for name, (spec, network) in networks.items():
            save_light(folder / f"{name}.pt", spec, network)
        told = evaluate(folder, one.material.val)
        facts = {
            "name": out.name,
            "version": __version__,
            "command": command,
            "seed": row.seed,
            "budget": row.budget,
            "photos": {
                "fit": len(one.material.fit),
                "held_out": len(one.material.held),
                "reported": told.n,
                "set": one.material.val.name,
            },
            "base": {
                "spec": one.load("base")[0].to_json(),
                "macs": choice.base.macs,
                "top1": round(choice.base.top1, 5),
            },
            "cascade": {
                "top1": round(told.top1, 5),
                "mean_macs": round(told.mean_macs),
                "hit_rates": [round(rate, 5) for rate in told.hit_rates],
                "float32_top1": round(row.top1, 5),
            },
            "networks": {
                name: {"spec": spec.to_json(), "macs": spec.macs, "params": spec.params}
                for name, (spec, _) in networks.items()
            },
            "bytes": sum(path.stat().st_size for path in folder.glob("*.pt")),
            "config": settings.model_dump(mode="json"),
            "comparison": table.model_dump(mode="json", exclude={"workers"}),
        }
        write_json(folder / FACTS, facts)
    return facts


def save_light(path: Path, spec: NetworkSpec, network: Network) -> None:
    """Weights of convolutions and linear layers in float16; the few others, whose range is wider,
    stay as they are."""
    torch.save({"spec": spec.to_json(), "state_dict": _halved(network.state_dict())}, path)


def _halved(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: value.half() if value.is_floating_point() and value.ndim > 1 else value
        for name, value in state.items()
    }
