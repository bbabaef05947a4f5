"""The last step: with or without crops, which thresholds, and the cascade folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress import __version__, events
from edgecompress.errors import InputError
from edgecompress.files import read_json

from ..runner.spec import Cascade, Predictor, Stage
from .cascade import (
    Member,
    OperatingPoint,
    apply,
    choose,
    expected_calibration_error,
    frontier,
    sweep,
)
from .config import CompressConfig
from .evaluate import normalise
from .export import write_cascade
from .families import Network
from .foreign.source import short_name
from .loader import Crop, PhotoCache, runner_inputs, whole
from .material import Material, centred
from .network import NetworkSpec
from .photos import PhotoSet

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
    """A variant with its operating points on the held-out photos."""

    variant: Variant
    members: tuple[Member, ...]
    points: tuple[OperatingPoint, ...]
    chosen: OperatingPoint


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
    targets = material.held_cache.targets.numpy()
    calibrated = [_calibrate(one, settings, material, targets, base[0]) for one in variants]
    best = better(calibrated)
    if len(calibrated) > 1:
        verdict = "pays" if best.variant.kind == "crop" else "does not pay"
        events.note(f"cropping {verdict} on the held-out photos: see compression.json")
    cascade = _describe(best, settings, material)
    report = {
        "kind": "trained",
        "fingerprint": fingerprint,
        "config": settings.model_dump(mode="json"),
        "photos": {"fit": len(material.fit_cache), "held_out": len(material.held_cache)},
        "steps": dict(done),
        "variants": {one.variant.kind: _report(one, targets) for one in calibrated},
        "crop": best.variant.kind,
        "validation": _validate(best, settings, material, base),
    }
    return _write(best, cascade, material, report, out)


def is_written(out: Path, fingerprint: str) -> bool:
    """Whether `out` is the cascade folder that `finish` would write for this fingerprint."""
    try:
        return read_json(out / "compression.json").get("fingerprint") == fingerprint
    except InputError:
        return False


def better(calibrated: Sequence[Calibrated]) -> Calibrated:
    """The variant to keep: cropping has to be at least as accurate at the MACs of the other.

    Compared at the operating point that was chosen for whole photos: the most accurate point of
    the crop variant that takes no more MACs, its predictor's included, must beat it.
    """
    first, *others = calibrated
    for other in others:
        within = [
            point for point in frontier(other.points) if point.mean_macs <= first.chosen.mean_macs
        ]
        if within and within[-1].top1 > first.chosen.top1:
            return Calibrated(other.variant, other.members, other.points, within[-1])
    return first


def _crop(variant: Variant, settings: CompressConfig, material: Material, held: bool) -> Crop:
    photos, cache = _photos(material, held)
    if variant.predictor is None:
        return centred
    return material.predicted(photos, cache, variant.predictor, settings.predictor.sizes)


def _photos(material: Material, held: bool) -> tuple[PhotoSet, PhotoCache]:
    if held:
        return material.held, material.held_cache
    return material.val, material.val_cache


def _members(
    variant: Variant, settings: CompressConfig, material: Material, held: bool
) -> tuple[Member, ...]:
    photos, cache = _photos(material, held)
    crop = _crop(variant, settings, material, held)
    return tuple(
        Member(one[0].macs, material.logits(photos, cache, crop, one))
        for one in events.track(
            list(variant.members.values()), f"members ({variant.kind}) on {photos.name}"
        )
    )


def _calibrate(
    variant: Variant,
    settings: CompressConfig,
    material: Material,
    targets: np.ndarray,
    base: NetworkSpec,
) -> Calibrated:
    table = settings.cascade
    members = _members(variant, settings, material, held=True)
    points = sweep(
        members, targets, criterion=table.criterion, fixed=variant.fixed, alphas=table.alphas
    )
    chosen = choose(
        points,
        macs=None if table.macs is None else table.macs * base.macs,
        top1=table.top1,
        slack=table.slack,
    )
    return Calibrated(variant, members, tuple(points), chosen)


def _report(one: Calibrated, targets: np.ndarray) -> dict[str, Any]:
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
                one.variant.members.items(), one.members, strict=True
            )
        ],
        "predictor_macs": one.variant.fixed,
        "curve": [asdict(point) for point in frontier(one.points)],
        "chosen": asdict(one.chosen),
    }


def _validate(
    one: Calibrated,
    settings: CompressConfig,
    material: Material,
    base: tuple[NetworkSpec, Network],
) -> dict[str, Any]:
    """Base, members and cascade on the photos that nothing was decided on."""
    cache = material.val_cache
    targets = cache.targets.numpy()
    members = _members(one.variant, settings, material, held=False)
    alone = material.logits(material.val, cache, centred, base)
    result = apply(
        members,
        targets,
        one.chosen,
        criterion=settings.cascade.criterion,
        fixed=one.variant.fixed,
    )
    return {
        "photos": len(cache),
        "failed": len(cache.failed),
        "base": {"top1": _top1(alone, targets), "macs": base[0].macs},
        "members": {
            name: {"top1": _top1(member.logits, targets), "macs": member.macs + one.variant.fixed}
            for name, member in zip(one.variant.members, members, strict=True)
        },
        "cascade": {
            "top1": round(result.top1, 5),
            "mean_macs": round(result.mean_macs),
            "hit_rates": [round(rate, 5) for rate in result.hit_rates],
        },
    }


def _top1(logits: np.ndarray, targets: np.ndarray) -> float:
    return round(float((logits.argmax(1) == targets).mean()), 5)


def _describe(one: Calibrated, settings: CompressConfig, material: Material) -> Cascade:
    point = one.chosen
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
                one.variant.members.items(), thresholds, point.temperatures, strict=True
            )
        ),
        criterion=settings.cascade.criterion,
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
    one: Calibrated, cascade: Cascade, material: Material, report: dict[str, Any], out: Path
) -> Path:
    networks = dict(one.variant.members)
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
