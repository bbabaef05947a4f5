"""Predicted crops against true object boxes: how well they overlap, and what of the object is kept.

The runner's own path decides where a cascade looks; nothing is trained or chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from edgecompress import events
from edgecompress.errors import InputError, UsageError

from ..compress.cascading.evaluate import read_cascade
from ..compress.cascading.shipped import find_light
from ..compress.cropping.boxes import iou
from ..compress.data.true_boxes import BoxedPhotos
from ..compress.networks.export import load_network
from ..compress.training.tasks import run_batched
from ..runner.errors import RunnerError
from ..runner.photo import Box, centre_box, crop_box, decode, sample, size_index
from ..runner.spec import Cascade
from . import text

FORMAT = 1
MEASURES = ("iou", "iou_best", "recall", "kept")
CROP, SAME_SIZE = "crop", "same_size"
HEAD = (
    "photos", "where one looks", ">IoU, all objects", ">IoU, best object", ">of the objects kept",
    ">of the photo kept",
)  # fmt: skip

Predict = Callable[[np.ndarray], np.ndarray]
"""uint8 `[n, r, r, 3]` -> float32 `[n, 4]`: boxes as shares of width and height."""


@dataclass(frozen=True)
class Sight:
    """Where a cascade looks in one photo, and what is there. Boxes are in pixels.

    Attributes:
        index: the photo's number in its set.
        width: of the photo.
        height: of the photo.
        objects: true boxes, at least one.
        predicted: the predictor's box, cut at the photo's edges; None where it is empty or not
            finite (the runner then takes the largest centred square).
        size: which of the predictor's crop sizes was taken.
        regions: by name, `predictor`, `crop`, and what they are held against.
    """

    index: int
    width: int
    height: int
    objects: tuple[Box, ...]
    predicted: Box | None
    size: int
    regions: dict[str, Box]


@dataclass(frozen=True)
class Overlap:
    """How one region of a photo meets the true boxes.

    Attributes:
        iou: with the tight box round all objects of the class.
        iou_best: with the one object that it meets best.
        recall: share of the objects' area (counted once where they overlap) inside the region.
        kept: share of the photo's area inside the region.
    """

    iou: float
    iou_best: float
    recall: float
    kept: float


@dataclass(frozen=True)
class Looked:
    """All photos of a set that could be looked at, and what became of the others.

    Attributes:
        cascade: the description of the cascade that looked.
        sights: one a photo.
        failed: file and cause of each photo that could not be read.
        without_boxes: photos that have no true box.
    """

    cascade: Cascade
    sights: tuple[Sight, ...]
    failed: tuple[tuple[str, str], ...]
    without_boxes: int


def open_predictor(name: str) -> tuple[Cascade, Predict]:
    """The cascade of a folder, or one that comes with this package, and its predictor.

    Raises:
        UsageError: there is no such cascade, or it has no foreground predictor.
        InputError: a file is missing or damaged.
    """
    folder = find_light(name)
    cascade = read_cascade(folder)
    told = cascade.predictor
    if told is None:
        raise UsageError(
            f"cascade {cascade.name} has no foreground predictor: it looks at the centre",
            'make one that has: crop = "always" under [compress], then edgecompress compress',
        )
    spec, network = load_network(folder, told.network)
    if spec.resolution != told.resolution:
        raise InputError(f"{folder / told.network}.pt is not the network of {folder}/cascade.json")

    def predict(squashed: np.ndarray) -> np.ndarray:
        return run_batched(network, torch.from_numpy(squashed), cascade.preprocess).numpy()

    return cascade, predict


def look(cascade: Cascade, predict: Predict, photos: BoxedPhotos) -> Looked:
    """Find where a cascade with a predictor looks in each photo.

    Photos that cannot be read, or are of another size than their boxes were drawn on, are counted.

    Raises:
        InputError: not one photo with a box can be read, or the predictor gives no boxes.
    """
    told = cascade.predictor
    assert told is not None  # open_predictor refuses such a cascade
    seen: list[tuple[int, int, int]] = []
    squashed, failed, without = [], [], 0
    paths = photos.photos.paths
    for index, path in enumerate(events.track(paths, f"reading {photos.photos.name}")):
        if not photos.boxes[index]:
            without += 1
            continue
        try:
            image = decode(path)
        except RunnerError as error:
            failed.append((path.name, error.message))
            continue
        width, height = image.size
        if (width, height) != photos.sizes[index]:
            said = "{}x{}".format(*photos.sizes[index])
            failed.append((path.name, f"is {width}x{height}, its boxes are for {said}"))
            continue
        seen.append((index, width, height))
        squashed.append(sample(image, (0, 0, width, height), told.resolution))
    if not seen:
        cause = f": {failed[0][0]} {failed[0][1]}" if failed else ""
        raise InputError(f"no photo of {photos.photos.name} can be compared{cause}")
    if failed:
        events.warn(f"{len(failed)} photos left out, the first: {failed[0][0]} {failed[0][1]}")
    boxes = predict(np.concatenate(squashed))
    if boxes.shape != (len(seen), 4):
        raise InputError(f"network '{told.network}' gives {boxes.shape[1:]}, not boxes")
    sights = [
        Sight(index, width, height, photos.boxes[index], *_regions(cascade, edges, width, height))
        for (index, width, height), edges in zip(seen, boxes.tolist(), strict=True)
    ]
    return Looked(cascade, tuple(sights), tuple(failed), without)


def _regions(
    cascade: Cascade, edges: Sequence[float], width: int, height: int
) -> tuple[Box | None, int, dict[str, Box]]:
    """The predicted box, the index of the crop's size, and all regions of one photo."""
    told = cascade.predictor
    assert told is not None
    size = size_index(edges, width, height, told.sizes)
    predicted = _in_pixels(edges, width, height)
    whole = (0.0, 0.0, float(width), float(height))
    regions = {
        "predictor": predicted or whole,
        CROP: crop_box(edges, width, height, told.sizes),
        SAME_SIZE: centre_box(width, height, told.sizes[size]),
        **{
            f"centre_{share:g}": centre_box(width, height, share)
            for share in sorted({stage.crop for stage in cascade.stages})
        },
        "whole": whole,
    }
    return predicted, size, regions


def _in_pixels(edges: Sequence[float], width: int, height: int) -> Box | None:
    if not all(map(math.isfinite, edges)):
        return None
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in edges)
    return (x0 * width, y0 * height, x1 * width, y1 * height) if x0 < x1 and y0 < y1 else None


def region_title(name: str) -> str:
    """A region's name as people read it."""
    known = {
        "predictor": "predicted box",
        CROP: "crop made of it",
        SAME_SIZE: "centred square of the same size",
        "centre_1": "largest centred square",
        "whole": "whole photo",
    }
    share = name.removeprefix("centre_")
    return known.get(name) or f"centred square, {text.percent(float(share), 0)} of the short side"


def overlap(region: Box, objects: Sequence[Box], width: int, height: int) -> Overlap:
    """How a region meets true boxes (at least one), all in pixels of one photo."""
    boxes = np.asarray(objects, np.float64)
    hull = [*boxes[:, :2].min(0), *boxes[:, 2:].max(0)]
    wanted = torch.tensor(np.vstack([boxes, hull]))
    each = iou(torch.tensor([region], dtype=torch.float64).expand_as(wanted), wanted).tolist()
    left, top, right, bottom = region
    inside = np.clip(boxes, [left, top, left, top], [right, bottom, right, bottom])
    return Overlap(
        iou=each[-1],
        iou_best=max(each[:-1]),
        recall=covered(inside) / covered(boxes),
        kept=(right - left) * (bottom - top) / (width * height),
    )


def covered(boxes: np.ndarray) -> float:
    """The area that boxes `[n, 4]` cover together."""
    xs, ys = np.unique(boxes[:, 0::2]), np.unique(boxes[:, 1::2])
    columns = (boxes[:, :1] <= xs[:-1]) & (xs[1:] <= boxes[:, 2:3])
    rows = (boxes[:, 1:2] <= ys[:-1]) & (ys[1:] <= boxes[:, 3:])
    cells = (rows[:, :, None] & columns[:, None, :]).any(0)
    return float(np.diff(ys) @ cells @ np.diff(xs))


def document(looked: Looked, photos: BoxedPhotos) -> dict[str, Any]:
    """All numbers, JSON-able: means over photos with their standard errors, all photos and those
    whose class the cascade knows; and the crop against each other region, photo by photo."""
    cascade = looked.cascade
    assert cascade.predictor is not None
    known = photos.known(cascade.labels)
    own = [sight for sight in looked.sights if known[sight.index]]
    told = {"all": looked.sights, "known": own}
    return {
        "format": FORMAT,
        "cascade": cascade.name,
        "photos": photos.photos.name,
        "labels": len(cascade.labels),
        "failed": [{"file": file, "error": error} for file, error in looked.failed],
        "without_boxes": looked.without_boxes,
        "without_prediction": sum(sight.predicted is None for sight in looked.sights),
        "sizes": list(cascade.predictor.sizes),
        "groups": [_group(key, sights, cascade.predictor.sizes) for key, sights in told.items()],
    }


def _group(key: str, sights: Sequence[Sight], sizes: Sequence[float]) -> dict[str, Any]:
    names = list(sights[0].regions) if sights else []
    values = {
        name: np.array(
            [
                list(asdict(overlap(s.regions[name], s.objects, s.width, s.height)).values())
                for s in sights
            ]
        )
        for name in names
    }
    counts = np.bincount([sight.size for sight in sights], minlength=len(sizes))
    return {
        "group": key,
        "n": len(sights),
        "size_shares": (counts / len(sights)).tolist() if sights else None,
        "regions": [{"region": name, **_means(values[name])} for name in names],
        "crop_against": [
            {"region": name, **_means(values[CROP] - values[name])}
            for name in names
            if name != CROP
        ],
    }


def _means(values: np.ndarray) -> dict[str, dict[str, float | None]]:
    """Mean and standard error of each measure; `values` is `[photos, measures]`."""
    n = len(values)
    errors = values.std(0, ddof=1) / math.sqrt(n) if n > 1 else [None] * len(MEASURES)
    return {
        measure: {"mean": float(mean), "se": None if error is None else float(error)}
        for measure, mean, error in zip(MEASURES, values.mean(0), errors, strict=True)
    }


def group_title(group: Mapping[str, Any]) -> str:
    """Which photos a group has."""
    return f"{'all' if group['group'] == 'all' else 'of its own classes'}: {group['n']}"


def rows_of(told: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table's rows, for `HEAD`."""
    return [
        (
            group_title(group),
            region_title(row["region"]),
            *(_with_error(row[name], 1.0, 3) for name in ("iou", "iou_best")),
            *(_with_error(row[name], 100.0, 1, " %") for name in ("recall", "kept")),
        )
        for group in told["groups"]
        for row in group["regions"]
    ]


def _with_error(value: Mapping[str, Any], scale: float, digits: int, unit: str = "") -> str:
    error = "" if value["se"] is None else f" ± {value['se'] * scale:.{digits}f}"
    return f"{value['mean'] * scale:.{digits}f}{error}{unit}"


def sentences(told: Mapping[str, Any]) -> list[str]:
    """What the numbers say, one thing a line."""
    lines = []
    for group in told["groups"]:
        who = f"{group['n']} photos" if group["group"] == "all" else f"{group['n']} of its classes"
        if not group["n"]:
            lines.append("no photo is of a class that the cascade knows")
            continue
        crop = next(row for row in group["regions"] if row["region"] == CROP)
        held, kept = (_with_error(crop[key], 100, 1, " %") for key in ("recall", "kept"))
        lines.append(f"{who}: the crop is {kept} of the photo and holds {held} of the objects")
        for name in (SAME_SIZE, "whole"):
            lines.append(f"{who}: {_against(group, name)}")
    counted = (("failed", len(told["failed"])), ("without_boxes", told["without_boxes"]))
    what = {"failed": "could not be compared", "without_boxes": "have no true box"}
    lines += [f"{count} photos {what[key]} and are left out" for key, count in counted if count]
    if told["without_prediction"]:
        lines.append(
            f"in {told['without_prediction']} photos the predictor gave no box, which counts as the"
            " whole photo"
        )
    return lines


def _against(group: Mapping[str, Any], name: str) -> str:
    one = next(row for row in group["crop_against"] if row["region"] == name)["iou"]
    said = (
        f"the crop's IoU with all objects is {one['mean']:+.3f} against the {region_title(name)}'s"
    )
    if one["se"] is None:
        return f"{said}, of one photo"
    # Two standard errors: the usual 95 %.
    sure = abs(one["mean"]) > 2 * one["se"]
    return f"{said}, ± {one['se']:.3f} photo by photo: {'no chance' if sure else 'may be chance'}"
