"""Dynamic inference: predict a box, crop, and ask members of growing cost until one is confident.

The networks are a callable: the board passes compiled ones, the host PyTorch. The rest is this one
code path.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Optional

import numpy as np
from PIL import Image

from .errors import RunnerError
from .photo import Box, centre_box, crop_box, sample, size_index
from .spec import Cascade

Network = Callable[[str, np.ndarray], np.ndarray]
"""(network's name, uint8 `[1, r, r, 3]`) -> float32 `[1, k]`: k logits, or a box of 4 shares."""

TOP = 5


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a cascade says of one photo.

    Attributes:
        logits: float32 `[classes]`, the running logits at the stage that answered.
        top5: class index and probability, the most probable first.
        box: the crop that the answering stage saw, pixels of the decoded photo.
        predicted: the predictor's box as shares of width and height; None without a predictor, or
            where its values are not finite (the crop is then the whole photo).
        size: index of the crop's size in the predictor's `sizes`; None without a predictor.
        stage: index of the stage that answered.
        confidences: of each stage that ran, in order.
        stage_top1: the class that the running logits named after each stage that ran.
        timings_ms: `predict` (squash and predictor), `crop` (all members' resampling), each member
            that ran by its network's name, and `total` (all of it), milliseconds.
    """

    logits: np.ndarray
    top5: tuple[tuple[int, float], ...]
    box: Box
    predicted: Optional[tuple[float, float, float, float]]
    size: Optional[int]
    stage: int
    confidences: tuple[float, ...]
    stage_top1: tuple[int, ...]
    timings_ms: dict[str, float]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis; float64, so that 1000 classes still add up to 1."""
    exponents = np.asarray(logits, np.float64)
    exponents = np.exp(exponents - exponents.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def confidence(logits: np.ndarray, criterion: str, temperature: float) -> np.ndarray:
    """How sure running logits are, from 0 to 1.

    Args:
        logits: `[..., classes]`.
        criterion: `margin`, the difference of the two largest probabilities (EdgeCompress), or
            `max_softmax`, the largest one.
        temperature: what the logits are divided by first (Guo et al., "On Calibration of Modern
            Neural Networks", 2017).

    Returns:
        float64 `[...]`.
    """
    probabilities = softmax(np.asarray(logits, np.float64) / temperature)
    if criterion == "max_softmax":
        return probabilities.max(axis=-1)
    if probabilities.shape[-1] < 2:
        return probabilities[..., 0]
    largest = np.partition(probabilities, -2, axis=-1)
    return largest[..., -1] - largest[..., -2]


def combine(
    running: Optional[np.ndarray], logits: np.ndarray, alpha: float, accumulate: bool
) -> np.ndarray:
    """The running logits after one more member.

    Args:
        running: those before, or None at the first member.
        logits: the member's own, same shape.
        alpha: weight of a later member's logits where they accumulate.
        accumulate: whether they are added to the running ones, or replace them.
    """
    if running is None or not accumulate:
        return np.asarray(logits, np.float32)
    return np.asarray(running + np.float32(alpha) * np.asarray(logits, np.float32), np.float32)


def classify(
    cascade: Cascade,
    image: Image.Image,
    network: Network,
    clock: Callable[[], float] = time.perf_counter,
    every_stage: bool = False,
) -> Outcome:
    """Classify one decoded photo.

    Args:
        image: RGB, from `photo.decode`.
        clock: seconds, for the timings.
        every_stage: run the members after the one that answers too, for threshold curves. The
            answer is the same; `confidences`, `stage_top1` and `timings_ms` then cover all stages.

    Raises:
        RunnerError: (`model`) a network gives another shape than it should, or logits that are
            not finite. A box that is not finite only widens the crop.
    """
    timings: dict[str, float] = {}
    width, height = image.size
    start = clock()

    def timed(part: str, since: float) -> float:
        now = clock()
        timings[part] = timings.get(part, 0.0) + (now - since) * 1e3
        return now

    now = start
    predicted: Optional[Box] = None
    size: Optional[int] = None
    predicted_box: Optional[Box] = None
    if cascade.predictor is not None:
        squashed = sample(image, (0, 0, width, height), cascade.predictor.resolution)
        x0, y0, x1, y1 = edges = _output(network, cascade.predictor.network, squashed, 4).tolist()
        predicted = (x0, y0, x1, y1) if np.isfinite(edges).all() else None
        size = size_index(edges, width, height, cascade.predictor.sizes)
        predicted_box = crop_box(edges, width, height, cascade.predictor.sizes)
        now = timed("predict", now)

    running: Optional[np.ndarray] = None
    confidences: list[float] = []
    stage_top1: list[int] = []
    answer: Optional[tuple[int, np.ndarray, Box]] = None
    for index, stage in enumerate(cascade.stages):
        box = predicted_box or centre_box(width, height, stage.crop)
        tensor = sample(image, box, stage.resolution)
        now = timed("crop", now)
        logits = _output(network, stage.network, tensor, len(cascade.labels))
        if not np.isfinite(logits).all():
            raise RunnerError("model", f"network '{stage.network}' gave logits that are not finite")
        running = combine(running, logits, cascade.alpha, cascade.accumulate)
        confidences.append(float(confidence(running, cascade.criterion, stage.temperature)))
        stage_top1.append(int(np.argmax(running)))
        now = timed(stage.network, now)
        if answer is None and (stage.threshold is None or confidences[-1] >= stage.threshold):
            answer = (index, running, box)
            if not every_stage:
                break
    assert answer is not None  # the last stage has no threshold: spec.py sees to it
    timed("total", start)
    index, logits, box = answer
    return Outcome(
        logits=logits,
        top5=top_classes(softmax(logits / np.float32(cascade.stages[index].temperature))),
        box=box,
        predicted=predicted,
        size=size,
        stage=index,
        confidences=tuple(confidences),
        stage_top1=tuple(stage_top1),
        timings_ms=timings,
    )


def top_classes(probabilities: np.ndarray, count: int = TOP) -> tuple[tuple[int, float], ...]:
    """The `count` most probable classes with their probabilities; the lower index wins a tie."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return tuple((int(index), float(probabilities[index])) for index in order)


def _output(network: Network, name: str, tensor: np.ndarray, size: int) -> np.ndarray:
    """A network's output row: float32 `[size]`."""
    output = np.asarray(network(name, tensor))
    if output.shape != (1, size):
        raise RunnerError(
            "model",
            f"network '{name}' gives {list(output.shape)}, not [1, {size}]",
            "compile the bundle again from the cascade folder",
        )
    return output[0].astype(np.float32, copy=True)
