"""Steps of dynamic cropping: boxes by activation maps, and the predictor that learns them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecompress import events

from ..config import PredictorTable
from ..data.augment import Augment
from ..data.loader import PhotoCache, runner_inputs, whole
from ..data.pixels import normalise
from ..machine.devices import chosen_device, device_of
from ..networks.families import Network
from ..networks.families.predictor import EDGES, ForegroundPredictor
from ..networks.network import NetworkSpec
from ..training.learn import Compression, keep_training
from ..training.tasks import Held
from ..training.train import Recipe
from ..training.workbook import Done
from .box_task import BoxTask
from .boxes import best_constant, iou, mean_iou
from .cam import cam_boxes, mean_maps
from .guided import KEPT_SIDE, Guided

SIZES = (
    (32, 0.5), (32, 0.75), (40, 0.75), (48, 0.75), (48, 1.0), (56, 1.0), (64, 1.0), (80, 1.0),
    (80, 1.25), (96, 1.25), (96, 1.5), (112, 1.5), (128, 1.5), (128, 2.0),
)  # fmt: skip
"""Resolutions and widths of predictors, by MACs: the two grow together."""

SIDE_STEP = 16
"""Between the sides at which activation maps are drawn."""

WHOLE = (0.0, 0.0, 1.0, 1.0)


def draw_boxes(one: Compression, base: Done) -> Done:
    """Boxes round what the base looks at, for the photos to train on and those held out.

    The result says what a predictor can be held against: the IoU of "the whole photo" and of the
    best constant box with the held-out photos' boxes, and that of the boxes of the photos with
    those of their mirrored views, `mirrored_iou`. Boxes that mirroring moves are hard to learn.
    """
    table = one.settings.predictor

    def work(_: str) -> dict[str, Any]:
        network = one.load("base")[1]
        network.to(chosen_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
        drawn = {
            "fit": _cam_boxes(one, network, one.material.fit_cache, mirror=table.smooth),
            "held": _cam_boxes(one, network, one.material.held_cache, mirror=True),
        }
        boxes = {name: found.boxes for name, found in drawn.items()}
        with one.book.writing("boxes.pt") as temporary:
            torch.save({**boxes, "maps": drawn["fit"].maps}, temporary)
        edges, held = boxes["fit"], drawn["held"]
        constant = best_constant(edges)
        assert held.mirrored is not None
        return {
            "mean_area": round((edges[:, 2:] - edges[:, :2]).prod(1).mean().item(), 4),
            # What a predictor that always says "all of it" scores: the mark to beat.
            "whole_photo_iou": round(mean_iou(torch.tensor(WHOLE), held.boxes), 5),
            "constant": [round(edge, 4) for edge in constant.tolist()],
            "constant_iou": round(mean_iou(constant, held.boxes), 5),
            "mirrored_iou": round(iou(held.straight, held.mirrored).mean().item(), 5),
            "photos": len(edges),
        }

    inputs = {
        "base": base.fingerprint,
        "sides": _sides(one),
        "smooth": table.smooth,
        "cam": table.cam,
        "threshold": table.threshold,
        "kept_side": KEPT_SIDE,
    }
    return one.book.step("boxes", inputs, work, ("boxes.pt",), alone=True)


def _sides(one: Compression) -> list[int]:
    """Input sides at which maps are drawn."""
    table = one.settings.predictor
    if not table.smooth:
        return [table.cam_resolution]
    ends = one.settings.base.resolution, table.cam_resolution
    return sorted({*ends, SIDE_STEP * round(sum(ends) / (2 * SIDE_STEP))})


@dataclass(frozen=True)
class _Drawn:
    """Boxes `[n, 4]` of some photos: those that count, those of the photos as they are, and those
    of the mirrored photos, turned back. The maps `[n, KEPT_SIDE, KEPT_SIDE]` are of the first."""

    boxes: Tensor
    maps: Tensor
    straight: Tensor
    mirrored: Tensor | None


def _cam_boxes(one: Compression, network: Network, cache: PhotoCache, *, mirror: bool) -> _Drawn:
    table, sides = one.settings.predictor, _sides(one)
    size = max(sides)
    parts = torch.arange(len(cache)).split(64)
    found: list[tuple[Tensor, ...]] = []
    for part in events.track(parts, "drawing boxes by activation maps"):
        device = device_of(network)
        squashed = (cache.squashed(part.tolist(), side).permute(0, 2, 3, 1) for side in sides)
        views = [normalise(photos.to(device), one.material.preprocess) for photos in squashed]
        targets = cache.targets[part].to(device)
        maps = mean_maps(network, views, targets, size, table.cam)
        turned = maps
        if mirror:
            turned = mean_maps(network, views, targets, size, table.cam, mirrored=True)
        both = (maps + turned) / 2 if table.smooth else maps
        found.append(
            (
                cam_boxes(both, size, table.threshold).cpu(),
                F.adaptive_avg_pool2d(both, KEPT_SIDE).cpu(),
                cam_boxes(maps, size, table.threshold).cpu(),
                cam_boxes(turned, size, table.threshold).cpu(),
            ),
        )
    boxes, drawn, straight, mirrored = (torch.cat(one) for one in zip(*found, strict=True))
    return _Drawn(boxes, drawn, straight, mirrored if mirror else None)


def predictor_spec(table: PredictorTable, allowed: float) -> NetworkSpec:
    """The largest foreground predictor of at most `allowed` MACs.

    What the table says of resolution or width is kept, whatever it costs. If not even the smallest
    fits, it is taken.
    """
    sizes = dict.fromkeys(
        (
            resolution if table.resolution == "auto" else table.resolution,
            width if table.width == "auto" else table.width,
        )
        for resolution, width in SIZES
    )
    specs = [
        NetworkSpec("foreground_predictor", width, 1.0, resolution, EDGES)
        for resolution, width in sizes
    ]
    fitting = list(takewhile(lambda spec: spec.macs <= allowed, specs))
    return fitting[-1] if fitting else specs[0]


def train_predictor(one: Compression, boxes: Done) -> Done:
    """The foreground predictor; measured by its mean IoU with the held-out photos' boxes."""
    settings, table, material = one.settings, one.settings.predictor, one.material
    base = settings.base.spec(len(material.fit.labels)).macs
    spec = predictor_spec(table, table.macs * base)
    recipe = Recipe(
        epochs=table.epochs,
        batch=settings.train.batch,
        rate=table.rate,
        optimizer="adamw",
        decay=table.decay,
        precision=settings.train.precision,
        seed=settings.seed,
    )

    def work(fingerprint: str) -> dict[str, Any]:
        if spec.macs > table.macs * base:
            events.warn(
                f"the foreground predictor takes {spec.macs / base:.1%} of the base's MACs: more"
                f" than the {table.macs:.1%} of [compress.predictor] macs"
            )
        drawn = torch.load(one.book.path("boxes.pt"), weights_only=True)
        held = runner_inputs(material.held, material.held_cache.positions, whole, spec.resolution)
        task = BoxTask(
            cache=material.fit_cache,
            boxes=drawn["fit"],
            resolution=spec.resolution,
            preprocess=material.preprocess,
            augment=Augment((0.5, 1.0)),
            kind=table.loss,
            held=Held(held, drawn["held"]),
            maps=drawn["maps"] if table.guided else None,
        )
        network = one.build(spec)
        assert isinstance(network, ForegroundPredictor)
        network.begin_at(drawn["fit"].mean(0).tolist())
        learner = None
        if table.guided:
            learner = one.seeded(lambda: Guided(network, len(material.fit.labels)))
        found = keep_training(
            one, "predictor", (spec, network), task=task, recipe=recipe, fingerprint=fingerprint,
            learner=learner,
        )  # fmt: skip
        marks = {key: boxes.result[key] for key in ("whole_photo_iou", "constant_iou")}
        told = f"the foreground predictor's mean IoU is {found['held_out']:.3f}"
        if found["held_out"] <= max(marks.values()):
            events.warn(f"{told}: a constant box does as well ({max(marks.values()):.3f})")
        else:
            events.note(
                f"{told}; the best constant box {marks['constant_iou']:.3f}, the whole photo"
                f" {marks['whole_photo_iou']:.3f}, mirrored views among themselves"
                f" {boxes.result['mirrored_iou']:.3f}"
            )
        return {**found, "share_of_base": round(spec.macs / base, 5), **marks}

    inputs = {
        "boxes": boxes.fingerprint,
        "spec": spec.to_json(),
        "recipe": recipe.to_json(),
        "loss": table.loss,
        "start": "mean box",
        "guided": table.guided,
    }
    return one.book.step("predictor", inputs, work, ("predictor.pt",), ("predictor.checkpoint",))
