"""Steps of dynamic cropping: boxes by activation maps, and the predictor that learns them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgecompress import events
from edgecompress.files import writing

from .augment import Augment
from .boxes import iou
from .cam import cam_boxes, grad_cam
from .evaluate import normalise
from .families import Network
from .families.predictor import EDGES
from .learn import Compression, keep_training
from .loader import PhotoCache, runner_inputs, whole
from .network import NetworkSpec
from .tasks import BoxTask, Held
from .train import Recipe
from .workbook import Done


def draw_boxes(one: Compression, base: Done) -> Done:
    """Boxes round what the base looks at, for the photos to train on and those held out."""
    side = one.settings.predictor.cam_resolution

    def work(_: str) -> dict[str, Any]:
        network = one.load("base")[1]
        boxes = {
            "fit": _cam_boxes(one, network, one.material.fit_cache, side),
            "held": _cam_boxes(one, network, one.material.held_cache, side),
        }
        with writing(one.book.path("boxes.pt")) as temporary:
            torch.save(boxes, temporary)
        edges = boxes["fit"]
        area = (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])
        everything = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand_as(boxes["held"])
        return {
            "mean_area": round(area.mean().item(), 4),
            # What a predictor that always says "all of it" scores: the mark to beat.
            "whole_photo_iou": round(iou(everything, boxes["held"]).mean().item(), 5),
            "photos": len(edges),
        }

    inputs = {"base": base.fingerprint, "side": side}
    return one.book.step("boxes", inputs, work, ("boxes.pt",))


def _cam_boxes(one: Compression, network: Network, cache: PhotoCache, side: int) -> Tensor:
    parts = torch.arange(len(cache)).split(64)
    boxes = []
    for part in events.track(parts, "drawing boxes by activation maps"):
        squashed = cache.squashed(part.tolist(), side).permute(0, 2, 3, 1)
        images = normalise(squashed, one.material.preprocess)
        boxes.append(cam_boxes(grad_cam(network, images, cache.targets[part]), side))
    return torch.cat(boxes)


def train_predictor(one: Compression, boxes: Done) -> Done:
    """The foreground predictor; measured by its mean IoU with the held-out photos' boxes."""
    settings, table, material = one.settings, one.settings.predictor, one.material
    spec = NetworkSpec("foreground_predictor", table.width, 1.0, table.resolution, EDGES)
    recipe = Recipe(
        epochs=table.epochs,
        batch=settings.train.batch,
        rate=table.rate,
        optimizer="adamw",
        decay=settings.train.decay,
        seed=settings.seed,
    )

    def work(fingerprint: str) -> dict[str, Any]:
        drawn = torch.load(one.book.path("boxes.pt"), weights_only=True)
        held = runner_inputs(material.held, material.held_cache.positions, whole, table.resolution)
        task = BoxTask(
            cache=material.fit_cache,
            boxes=drawn["fit"],
            resolution=table.resolution,
            preprocess=material.preprocess,
            augment=Augment((0.5, 1.0)),
            kind=table.loss,
            held=Held(held, drawn["held"]),
        )
        return keep_training(
            one,
            "predictor",
            (spec, one.build(spec)),
            task=task,
            recipe=recipe,
            fingerprint=fingerprint,
        )

    inputs = {
        "boxes": boxes.fingerprint,
        "spec": spec.to_json(),
        "recipe": recipe.to_json(),
        "loss": table.loss,
    }
    return one.book.step("predictor", inputs, work, ("predictor.pt",), ("predictor.checkpoint",))
