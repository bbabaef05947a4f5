"""The few fixed sides that crops may have, chosen for the boxes that the predictor draws."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgecompress import events
from edgecompress.errors import UsageError
from edgecompress.files import read_json

from ..config import PredictorTable
from ..data.loader import runner_inputs, whole
from ..training.learn import Compression
from ..training.tasks import run_batched
from ..training.workbook import Done

STEPS = 16
"""Sides are sixteenths of the short side."""

LEAST = 4
"""The smallest side, in steps: a quarter of the short side, as in the paper."""

COUNT = 4
"""How many sides there are, the whole short side among them: as many as in the paper."""

NEVER_SMALLER = (1.0,)
"""Crop sizes with which a crop is the whole photo's square: a predictor for nothing."""


def needed_sides(boxes: np.ndarray, shapes: Sequence[tuple[int, int]]) -> np.ndarray:
    """The side of the square that holds each box, `[n]`, as a share of the short side, at most 1.

    Args:
        boxes: `[n, 4]`, shares of width and height.
        shapes: width and height of each photo, pixels.
    """
    pixels = np.asarray(shapes, np.float64)
    spans = (boxes[:, 2:] - boxes[:, :2]).clip(0, 1) * pixels
    return np.minimum(spans.max(axis=1) / pixels.min(axis=1), 1.0)


def best_sizes(sides: np.ndarray, count: int = COUNT) -> tuple[float, ...]:
    """The `count` sides, the last one 1, with which crops show the least that was not asked for.

    Each crop takes the next side that is large enough, so what is shown in vain is
    `mean(taken² - needed²)`. All choices among the sixteenths are tried. Of the best one, sides
    below 1 that no crop takes are left out.

    Args:
        sides: needed ones, shares of the short side.
        count: 1 to 6.

    Raises:
        UsageError: there are no sides, or the count is another one.
    """
    if not len(sides) or not 1 <= count <= 6:
        raise UsageError(
            f"{count} crop sizes cannot be chosen from {len(sides)} boxes",
            "give [compress.predictor] sizes yourself: sizes = [0.25, 0.5, 0.75, 1.0]",
        )
    marks = np.arange(LEAST, STEPS) / STEPS
    tried = [(*chosen, 1.0) for chosen in itertools.combinations(marks.tolist(), count - 1)]
    best = min(tried, key=lambda sizes: wasted(sides, sizes))
    used = set(_taken(sides, best).tolist())
    return tuple(size for size in best if size in used or size == 1.0)


def wasted(sides: np.ndarray, sizes: Sequence[float]) -> float:
    """Mean area beyond the needed square, as a share of the short side's square."""
    return float((_taken(sides, sizes) ** 2 - np.asarray(sides) ** 2).mean())


def _taken(sides: np.ndarray, sizes: Sequence[float]) -> np.ndarray:
    """The side of each crop: the next that is large enough."""
    return np.asarray(sizes)[np.searchsorted(np.asarray(sizes), sides)]


def choose_sizes(one: Compression, predictor: Done) -> Done:
    """Sides for the predictor's boxes of the held-out photos, and what the fixed ones waste."""

    def work(_: str) -> dict[str, Any]:
        material = one.material
        photos, cache = material.held, material.held_cache
        spec, network = one.load("predictor")
        seen = runner_inputs(photos, cache.positions, whole, spec.resolution)
        boxes = run_batched(network, seen, material.preprocess).numpy()
        shapes = [(photo.shape[2], photo.shape[1]) for photo in cache.pixels]
        sides = needed_sides(boxes, shapes)
        sizes = best_sizes(sides)
        fixed = PredictorTable().sizes
        if sizes == NEVER_SMALLER:
            events.warn(
                "the foreground predictor takes nearly the whole of every photo for foreground:"
                " crops would show all of it"
            )
        else:
            events.note("crop sizes: " + ", ".join(f"{size:g}" for size in sizes))
        return {
            "sizes": list(sizes),
            "wasted": round(wasted(sides, sizes), 5),
            "fixed": list(fixed),
            "fixed_wasted": round(wasted(sides, fixed), 5),
            "needed_area": round(float((sides**2).mean()), 5),
            "photos": len(sides),
        }

    inputs = {
        "predictor": predictor.fingerprint,
        "count": COUNT,
        "steps": STEPS,
        "least": LEAST,
        "unused": "left out",
    }
    return one.book.step("sizes", inputs, work)


def with_sizes(one: Compression, predictor: Done) -> tuple[Compression, Done | None]:
    """The same compression with crop sizes: the job's own; or chosen, and the step that did it."""
    table = one.settings.predictor
    if table.sizes:
        return one, None
    done = choose_sizes(one, predictor)
    table = table.model_copy(update={"sizes": tuple(done.result["sizes"])})
    settings = one.settings.model_copy(update={"predictor": table})
    return replace(one, settings=settings), done


def kept_sizes(one: Compression) -> tuple[float, ...]:
    """The job's own crop sizes, or those that were chosen in its work folder.

    Raises:
        InputError: none were chosen there.
    """
    own = one.settings.predictor.sizes
    return own or tuple(read_json(one.book.path("sizes.json"), "step record")["result"]["sizes"])
