"""Post-training int8 quantisation of ONNX classifiers and of cascade folders."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress import events
from edgecompress.errors import GateError, InputError
from edgecompress.files import building, write_bytes, write_json

from ...runner.spec import Cascade, Preprocess
from ..cascading.evaluate import read_cascade
from ..data.photos import PhotoSet, shared
from .calibrate import find_quantisers, logits
from .gate import Loss, answers, fewest_kept, loss
from .graph import Graph, read_graph
from .qdq import Quantisers, write_qdq
from .views import Inputs, record_inputs

RECORD = "quantization.json"
FORMAT = 1
SENSITIVITY_PHOTOS = 32
"""So many photos order the layers; the gate's own photos then say how many stay float32."""


@dataclass(frozen=True)
class Settings:
    """What a quantisation is asked for.

    Attributes:
        calibration: photos (views of them, where there are fewer) for the ranges.
        gate: the same for the gate.
        drop: the largest expected drop of top-1 of each network, as a share.
        paired: weights of which no two that meet sum up to more than 128: for processors that add
            two products in 16 bits (x86 without VNNI).
    """

    calibration: int = 128
    gate: int = 256
    drop: float = 0.005
    paired: bool = False


@dataclass(frozen=True)
class Member:
    """One quantised network.

    Attributes:
        kept: names of the layers that stay float32, the most sensitive first.
        layers: names of all layers that could be int8, in order of execution.
        first: the loss with every layer int8.
        final: with `kept` in float32.
        logits: what it then says of the gate's photos, float32 `[n, classes]`.
        sensitivity: of each layer, the divergence where it alone is int8; None where nobody asked.
        model: the QDQ file's bytes.
    """

    kept: tuple[str, ...]
    layers: tuple[str, ...]
    first: Loss
    final: Loss
    logits: np.ndarray
    sensitivity: dict[str, float] | None
    model: bytes


def quantize_network(
    onnx: Path,
    inputs: Sequence[np.ndarray],
    preprocess: Preprocess,
    out: Path,
    *,
    paired: bool = False,
) -> None:
    """Write any float32 ONNX classifier in QDQ form, every layer int8, with no look at accuracy.

    Args:
        inputs: uint8 `[r, r, 3]` or `[1, r, r, 3]` each, for the ranges.
        preprocess: the normalisation that the network expects.
        paired: as in `Settings`.

    Raises:
        InputError: there are no inputs, they do not fit, or the file cannot be quantised.
        CompileError: the network does not run.
    """
    graph = read_graph(onnx)
    shape = (graph.side, graph.side, 3)
    if not len(inputs) or any(one.shape not in (shape, (1, *shape)) for one in inputs):
        raise InputError(
            f"{onnx} needs photos of shape {list(shape)} for its ranges", "give one or more"
        )
    photos = np.stack([one.reshape(shape) for one in inputs])
    quantisers = find_quantisers(graph, onnx.stem, photos, preprocess, paired=paired)
    write_bytes(out, write_qdq(graph, quantisers).SerializeToString())


def quantize_cascade(
    folder: Path,
    out: Path,
    ranges: PhotoSet,
    gate: PhotoSet,
    *,
    settings: Settings = Settings(),
    measured: PhotoSet | None = None,
) -> dict[str, Any]:
    """Write a cascade folder whose members are int8, whole or not at all.

    The foreground predictor stays float32: it takes little time, and its boxes have no gate.

    Args:
        folder: a float32 cascade folder.
        out: the new one; an old one is replaced.
        ranges: photos for the ranges (`views.split` makes both sets out of one).
        gate: photos for the gate.
        measured: the photos that will be reported on; the record says how many of them were used.

    Returns:
        What is in `quantization.json`.

    Raises:
        InputError: no photo can be read, or a file is damaged or quantised already.
        GateError: a member loses more than the allowed drop, whichever layers stay float32.
        CompileError: a network does not run.
    """
    cascade = read_cascade(folder)
    graphs = {
        stage.network: read_graph(folder / f"{stage.network}.onnx") for stage in cascade.stages
    }
    both = 0 if measured is None else shared([ranges, gate], measured)
    if both:
        events.warn(
            f"{both} of the photos that are reported on also give int8 its ranges and gate; "
            "name others: `photos` in [quantize]"
        )
    calibration = record_inputs(cascade, folder, ranges, settings.calibration)
    judged = record_inputs(cascade, folder, gate, settings.gate)
    members = {
        name: _member(
            graph,
            name,
            cascade.preprocess,
            calibration=calibration,
            judged=judged,
            settings=settings,
        )
        for name, graph in graphs.items()
    }
    labelled = gate.labels == cascade.labels
    record = {
        "format": FORMAT,
        "precision": "int8",
        "allowed_drop": settings.drop,
        "paired_weights": settings.paired,
        "photos": {
            "ranges": _photos(calibration),
            "gate": _photos(judged),
            "measured": both,
        },
        "networks": {
            name: _told(name, member, judged, labelled) for name, member in members.items()
        },
        "cascade": _whole(cascade, members, judged, labelled),
        "float32": _float32(cascade),
    }
    with building(out) as temporary:
        for file in sorted(file for file in folder.iterdir() if file.is_file()):
            shutil.copyfile(file, temporary / file.name)
        for name, member in members.items():
            (temporary / f"{name}.onnx").write_bytes(member.model)
        write_json(temporary / RECORD, record)
    return record


def _member(
    graph: Graph,
    name: str,
    preprocess: Preprocess,
    *,
    calibration: Inputs,
    judged: Inputs,
    settings: Settings,
) -> Member:
    """Quantise a network, with as few float32 layers as the gate needs."""
    photos = calibration.tensors[name]
    quantisers = find_quantisers(graph, name, photos, preprocess, paired=settings.paired)
    allowed = settings.drop
    tried: dict[frozenset[str], np.ndarray] = {}

    def measure(kept: frozenset[str]) -> Loss:
        label = f"gate of {name}, {len(kept)} layers float32"
        model = write_qdq(graph, quantisers, kept)
        tried[kept] = logits(model, name, judged.tensors[name], preprocess, label)
        return loss(judged.logits[name], tried[kept])

    kept: frozenset[str] = frozenset()
    first = final = measure(kept)
    sensitivity = None
    if first.expected_drop > allowed:
        sensitivity = _sensitivities(graph, quantisers, name, preprocess, calibration)
        order = sorted(sensitivity, key=lambda layer: -sensitivity[layer])
        found = fewest_kept(order, measure, allowed)
        if found is None:
            raise GateError(
                f"int8 costs {name} more than the allowed drop of {allowed:.2%} "
                f"({first.expected_drop:.2%} with every layer int8)",
                "give a larger `drop` in [quantize], or --precision float32",
            )
        kept, final = found
    ordered = sorted(kept, key=lambda layer: -(sensitivity or {}).get(layer, 0.0))
    said = f"{len(graph.layers) - len(kept)} of {len(graph.layers)} layers int8"
    events.note(f"{name}: {said}, expected drop of top-1 {final.expected_drop:.2%}")
    model = write_qdq(graph, quantisers, kept).SerializeToString()
    layers = tuple(layer.name for layer in graph.layers)
    return Member(tuple(ordered), layers, first, final, tried[kept], sensitivity, model)


def _sensitivities(
    graph: Graph, quantisers: Quantisers, name: str, preprocess: Preprocess, calibration: Inputs
) -> dict[str, float]:
    """For each layer, the divergence of the answers where it alone is int8."""
    count = min(SENSITIVITY_PHOTOS, len(calibration))
    places = [i * len(calibration) // count for i in range(count)]
    photos = calibration.tensors[name][places]
    reference = calibration.logits[name][places]
    names = [layer.name for layer in graph.layers]
    found = {}
    for layer in events.track(names, f"sensitivity of {name}'s layers"):
        model = write_qdq(graph, quantisers, set(names) - {layer})
        found[layer] = loss(reference, logits(model, name, photos, preprocess)).divergence
    return found


def _told(name: str, member: Member, judged: Inputs, labelled: bool) -> dict[str, Any]:
    """A network's part of the record."""
    return {
        "layers": len(member.layers),
        "int8": len(member.layers) - len(member.kept),
        "float32": list(member.kept),
        **asdict(member.final),
        "all_int8": asdict(member.first),
        "top1": _top1(judged.logits[name], member.logits, judged, labelled),
        "sensitivity": member.sensitivity,
    }


def _whole(
    cascade: Cascade, members: Mapping[str, Member], judged: Inputs, labelled: bool
) -> dict[str, Any]:
    """The cascade's part: a member that is less sure than before hands photos on."""
    reference, before = answers(cascade, judged.logits)
    got, after = answers(cascade, {name: member.logits for name, member in members.items()})
    return {
        **asdict(loss(reference, got)),
        "same_stage": float((before == after).mean()),
        "top1": _top1(reference, got, judged, labelled),
    }


def _top1(
    reference: np.ndarray, got: np.ndarray, judged: Inputs, labelled: bool
) -> dict[str, float] | None:
    """Accuracy of float and int8 logits; None where the photos are of other classes."""
    if not labelled:
        return None
    both = {"float32": reference, "int8": got}
    return {key: float((one.argmax(axis=1) == judged.targets).mean()) for key, one in both.items()}


def _photos(inputs: Inputs) -> dict[str, Any]:
    return {
        "name": inputs.name,
        "photos": inputs.photos,
        "views": len(inputs),
        "unreadable": inputs.unreadable,
    }


def _float32(cascade: Cascade) -> dict[str, str]:
    """The networks that stay as they are, with the reason."""
    if cascade.predictor is None:
        return {}
    return {cascade.predictor.network: "the crop predictor: its boxes have no gate"}
