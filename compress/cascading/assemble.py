"""The last step: with or without crops, which thresholds, and the cascade folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress import __version__, events
from edgecompress.errors import InputError, UsageError
from edgecompress.files import read_json

from ...runner.spec import Cascade, Predictor, Stage
from ..budget import member_names
from ..config import CompressConfig
from ..data.loader import Crop, PhotoCache, runner_inputs, whole
from ..data.photos import PhotoSet
from ..data.pixels import normalise
from ..likelihood import expected_calibration_error
from ..networks.export import write_cascade
from ..networks.families import Network
from ..networks.foreign.source import short_name
from ..networks.network import NetworkSpec
from ..training.material import Material, centred
from .cascade import Member, OperatingPoint, frontier
from .chooser import Asked, Chooser, chooser
from .crossfit import Estimate, Part, estimate, left_out, parts
from .switch import Decision, Tried, decide

CHECKED_PHOTOS = 4
"""Held-out photos on which ONNX Runtime is compared with PyTorch, beside random inputs."""


@dataclass(frozen=True)
class Variant:
    """One way to build the cascade: all members tuned for one kind of crop.

    Attributes:
        kind: `whole` (largest centred square) or `crop` (predicted).
        predictor: of a `crop` variant.
        members: cheapest first.
        training: what each member's training gave.
        fingerprint: of everything that the networks depend on.
    """

    kind: str
    predictor: tuple[NetworkSpec, Network] | None
    members: Mapping[str, tuple[NetworkSpec, Network]]
    training: Mapping[str, dict[str, Any]]
    fingerprint: str

    @property
    def fixed(self) -> int:
        """MACs that every photo costs before the first member."""
        return 0 if self.predictor is None else self.predictor[0].macs


@dataclass(frozen=True)
class Calibrated:
    """A variant with its operating points on the held-out photos.

    Attributes:
        asked: what its members say.
        parts: all that was tried, once more without each part of the photos.
        chosen: what is wanted; None where no point is.
        estimate: of `chosen`, on photos that did not choose; None of too few photos.
    """

    variant: Variant
    asked: Asked
    points: tuple[OperatingPoint, ...]
    parts: tuple[Part, ...]
    chosen: OperatingPoint | None
    estimate: Estimate | None


@dataclass(frozen=True)
class Kept:
    """The variant that the cascade is made of, and its setting."""

    variant: Variant
    point: OperatingPoint

    @property
    def members(self) -> dict[str, tuple[NetworkSpec, Network]]:
        """The networks that the cascade has."""
        names = list(self.variant.members)
        places = range(len(names)) if self.point.members is None else self.point.members
        return {names[place]: self.variant.members[names[place]] for place in places}


def finish(
    variants: Sequence[Variant],
    settings: CompressConfig,
    material: Material,
    *,
    base: tuple[NetworkSpec, Network],
    done: Mapping[str, dict[str, Any]],
    out: Path,
    fingerprint: str,
) -> Path:
    """Calibrate, decide, export, and measure the result on the photos to report on."""
    choosing = chooser(settings.cascade, members=len(variants[0].members), base_macs=base[0].macs)
    calibrated = [
        _calibrate(one, settings, material, choosing, alone=len(variants) == 1) for one in variants
    ]
    kept, decision = better(calibrated, choosing)
    cascade = _describe(kept, settings, material)
    report = {
        "kind": "trained",
        "fingerprint": fingerprint,
        "config": settings.model_dump(mode="json"),
        "photos": {"fit": len(material.fit_cache), "held_out": len(material.held_cache)},
        "steps": dict(done),
        "variants": {one.variant.kind: _report(one, choosing) for one in calibrated},
        "crop": kept.variant.kind,
        "switch": None if decision is None else decision.to_json(),
        "cascade": {"networks": list(kept.members), "setting": asdict(kept.point)},
        "validation": _validate(kept, settings, material, base),
    }
    return _write(kept, cascade, material, report, out)


def is_written(out: Path, fingerprint: str) -> bool:
    """Whether `out` is the cascade folder that `finish` would write for this fingerprint."""
    try:
        return read_json(out / "compression.json").get("fingerprint") == fingerprint
    except InputError:
        return False


def better(calibrated: Sequence[Calibrated], choosing: Chooser) -> tuple[Kept, Decision | None]:
    """The variant to keep, and of two how that was decided (`switch.decide`); it is told."""
    first, *others = calibrated
    if not others:
        assert first.chosen is not None  # of a single one the chooser has refused what is not there
        return Kept(first.variant, first.chosen), None
    whole, crop = calibrated
    decision = decide(choosing, _tried(whole), _tried(crop))
    verdict = "pays" if decision.second else "does not pay"
    events.note(f"cropping {verdict} on the held-out photos: {decision.why}")
    kept = crop if decision.second else whole
    return Kept(kept.variant, decision.point), decision


def _tried(one: Calibrated) -> Tried:
    return Tried(one.asked, one.points, one.parts, one.chosen)


def _crop(variant: Variant, settings: CompressConfig, material: Material, held: bool) -> Crop:
    photos, cache = _photos(material, held)
    if variant.predictor is None:
        return centred
    return material.predicted(photos, cache, variant.predictor, settings.predictor.sizes)


def _photos(material: Material, held: bool) -> tuple[PhotoSet, PhotoCache]:
    if held:
        return material.held, material.held_cache
    return material.val, material.val_cache


def _ask(variant: Variant, settings: CompressConfig, material: Material, held: bool) -> Asked:
    """What the members of a variant say of the photos held out, or of those to report on."""
    photos, cache = _photos(material, held)
    crop = _crop(variant, settings, material, held)
    table = settings.cascade
    names = member_names(settings.members.allowed)
    times = dict(zip(names, table.costs_ms, strict=True)) if table.costs_ms else {}
    members = tuple(
        Member(network[0].macs, material.logits(photos, cache, crop, network), times.get(name))
        for name, network in events.track(
            list(variant.members.items()), f"members ({variant.kind}) on {photos.name}"
        )
    )
    predictor_ms = 0.0 if variant.predictor is None else table.predictor_ms
    return Asked(members, cache.targets.numpy(), variant.fixed, predictor_ms)


def _calibrate(
    variant: Variant,
    settings: CompressConfig,
    material: Material,
    choosing: Chooser,
    *,
    alone: bool,
) -> Calibrated:
    asked = _ask(variant, settings, material, held=True)
    points = choosing.sweep(asked)
    try:
        chosen = choosing.choose(points, asked)
    except UsageError:
        if alone:
            raise
        return Calibrated(variant, asked, tuple(points), (), None, None)
    made = parts(choosing, asked)
    told = None
    if made:
        answered = left_out(asked, made, lambda _, part: choosing.nearest(part.points, part.fit))
        told = estimate(answered, len(made))
    return Calibrated(variant, asked, tuple(points), tuple(made), chosen, told)


def _report(one: Calibrated, choosing: Chooser) -> dict[str, Any]:
    targets = one.asked.targets
    return {
        "members": [
            {
                "network": name,
                "spec": spec.to_json(),
                "macs": spec.macs,
                "params": spec.params,
                "held_out_top1": round(float((member.logits.argmax(1) == targets).mean()), 5),
                "held_out_calibration_error": round(
                    expected_calibration_error(member.logits, targets), 5
                ),
                "training": one.variant.training[name],
            }
            for (name, (spec, _)), member in zip(
                one.variant.members.items(), one.asked.members, strict=True
            )
        ],
        "predictor_macs": one.variant.fixed,
        "curve": [asdict(point) for point in frontier(one.points, choosing.saved)],
        "chosen": None if one.chosen is None else asdict(one.chosen),
        "cross_fitted": None if one.estimate is None else asdict(one.estimate),
        "ways": [asdict(point) for point in choosing.best_of_each_way(one.points, one.asked)],
        "selections": [
            asdict(point) for point in choosing.best_of_each_selection(one.points, one.asked)
        ],
    }


def _validate(
    one: Kept,
    settings: CompressConfig,
    material: Material,
    base: tuple[NetworkSpec, Network],
) -> dict[str, Any]:
    """Base, members and cascade on the photos that nothing was decided on."""
    cache = material.val_cache
    targets = cache.targets.numpy()
    asked = _ask(one.variant, settings, material, held=False)
    alone = material.logits(material.val, cache, centred, base)
    result = asked.apply(one.point)
    return {
        "photos": len(cache),
        "failed": len(cache.failed),
        "base": {"top1": _top1(alone, targets), "macs": base[0].macs},
        "members": {
            name: {"top1": _top1(member.logits, targets), "macs": member.macs + one.variant.fixed}
            for name, member in zip(one.variant.members, asked.members, strict=True)
        },
        "cascade": {
            "top1": round(result.top1, 5),
            "mean_macs": round(result.mean_macs),
            "hit_rates": [round(rate, 5) for rate in result.hit_rates],
            "mean_ms": None if result.mean_ms is None else round(result.mean_ms, 4),
        },
    }


def _top1(logits: np.ndarray, targets: np.ndarray) -> float:
    return round(float((logits.argmax(1) == targets).mean()), 5)


def _describe(one: Kept, settings: CompressConfig, material: Material) -> Cascade:
    point = one.point
    thresholds = (*point.thresholds, None)
    predictor = None
    if one.variant.predictor is not None:
        spec = one.variant.predictor[0]
        sizes = settings.predictor.sizes
        predictor = Predictor("predictor", spec.resolution, sizes, spec.macs, spec.params)
    return Cascade(
        name=f"{short_name(settings.base.family)}-cascade",
        labels=material.fit.labels,
        preprocess=material.preprocess,
        predictor=predictor,
        stages=tuple(
            Stage(
                network=name,
                resolution=spec.resolution,
                crop=1.0,
                threshold=threshold,
                temperature=temperature,
                macs=spec.macs,
                params=spec.params,
            )
            for (name, (spec, _)), threshold, temperature in zip(
                one.members.items(), thresholds, point.temperatures, strict=True
            )
        ),
        criterion=point.criterion,
        accumulate=point.accumulate,
        alpha=point.alpha,
        origin={
            "method": f"EdgeCompress {__version__}: trained, shrunk and calibrated",
            "photos": f"{material.fit.name}, {len(material.fit)} photos",
            "thresholds": f"{len(material.held)} photos held out of training",
            "crop": "predicted" if predictor else "none: largest centred square",
        },
    )


def _write(
    one: Kept, cascade: Cascade, material: Material, report: dict[str, Any], out: Path
) -> Path:
    networks = one.members
    if one.variant.predictor is not None:
        networks["predictor"] = one.variant.predictor
    positions = material.held_cache.positions[:CHECKED_PHOTOS]
    photos = {
        name: normalise(
            runner_inputs(material.held, positions, whole, spec.resolution), material.preprocess
        )
        for name, (spec, _) in networks.items()
    }
    return write_cascade(out, cascade, networks, report, photos)
