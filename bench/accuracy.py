"""What predictions are worth: accuracy with its interval, hit rates, MACs, agreement, trade-off.

All of it is computed again from the records, the board's or PyTorch's, never taken from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ..runner.cascade import Outcome
from ..runner.errors import RunnerError
from ..runner.records import Record, photo_id
from ..runner.spec import Cascade

Z95 = 1.959963984540054
"""The normal distribution's 97.5 % quantile, for two-sided 95 % intervals."""

CURVE_POINTS = 41

NEVER = 1.01
"""A threshold that no confidence reaches; 1 itself is reached where a softmax rounds to it."""


class Labelled(Protocol):
    """What is needed of a photo set (`compress.data.photos.PhotoSet` is one)."""

    @property
    def name(self) -> str:
        """What the set is called."""
        ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        ...

    @property
    def targets(self) -> tuple[int, ...]:
        """Class index of each photo."""
        ...


@dataclass(frozen=True)
class Answer:
    """A photo, what is on it, and what came of it.

    Attributes:
        path: the file.
        photo: its id.
        target: class index.
        record: None where the run has none of this photo.
    """

    path: Path
    photo: str
    target: int
    record: Record | None

    @property
    def outcome(self) -> Outcome | None:
        """What was answered; None where nothing was."""
        return None if self.record is None else self.record.outcome


@dataclass(frozen=True)
class Share:
    """A share of n with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Agreement:
    """How two runs compare on the photos that both answered.

    Attributes:
        top1: share of equal first classes.
        max_logit_difference: the largest absolute difference of two logits, over the photos that
            both answered at the same stage; None where there is none.
        same_stage: share of photos that both answered at the same stage.
        n: photos that both answered.
    """

    top1: float
    max_logit_difference: float | None
    same_stage: float
    n: int


@dataclass(frozen=True)
class Point:
    """A cascade's accuracy and cost at one threshold.

    Attributes:
        threshold: of every stage but the last; up to `NEVER`.
        top1: share of photos named rightly.
        mean_macs: of a photo, predictor included.
        hit_rates: share of photos that each stage answers.
    """

    threshold: float
    top1: float
    mean_macs: float
    hit_rates: tuple[float, ...]


_NO_LOGITS = np.zeros(0, np.float32)


def match(photos: Labelled, records: Mapping[str, Record]) -> list[Answer]:
    """The record of each photo of a set, in the set's order, without its logits: these are large.

    A photo that is listed again is an answer again, with the target that it has there.
    """
    answers = []
    for path, target in zip(photos.paths, photos.targets, strict=True):
        try:
            identity = photo_id(path)
        except RunnerError:
            identity = str(path)
        answers.append(Answer(path, identity, target, _light(records.get(identity))))
    return answers


def _light(record: Record | None) -> Record | None:
    if record is None or record.outcome is None:
        return record
    return replace(record, outcome=replace(record.outcome, logits=_NO_LOGITS))


def wilson(right: int, n: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson, 1927); n must be positive.

    It stays inside 0..1 and holds its level at small n and near 1, where the usual normal interval
    does not (Brown, Cai and DasGupta, "Interval Estimation for a Binomial Proportion", 2001).
    """
    share = right / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Where all or none are right, an end is the share itself: rounding must not move it inwards.
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def top_share(answers: Iterable[Answer], k: int) -> Share | None:
    """Share of answered photos whose class is among the first k; None where none was answered."""
    hits = [
        answer.target in [index for index, _ in answer.outcome.top5[:k]]
        for answer in answers
        if answer.outcome is not None
    ]
    if not hits:
        return None
    low, high = wilson(sum(hits), len(hits))
    return Share(sum(hits) / len(hits), low, high, len(hits))


def hits(answers: Iterable[Answer], stages: int) -> list[list[Answer]]:
    """The answers of each stage."""
    by_stage: list[list[Answer]] = [[] for _ in range(stages)]
    for answer in answers:
        if answer.outcome is not None:
            by_stage[answer.outcome.stage].append(answer)
    return by_stage


def macs_up_to(cascade: Cascade) -> list[int]:
    """MACs of a photo that each stage answers: predictor and all members up to it."""
    first = cascade.predictor.macs if cascade.predictor else 0
    return (np.cumsum([stage.macs for stage in cascade.stages]) + first).tolist()


def mean_macs(cascade: Cascade, answers: Iterable[Answer]) -> float | None:
    """MACs of a photo on average; None where none was answered."""
    costs = macs_up_to(cascade)
    spent = [costs[answer.outcome.stage] for answer in answers if answer.outcome is not None]
    return float(np.mean(spent)) if spent else None


def agreement(one: Mapping[str, Record], other: Mapping[str, Record]) -> Agreement | None:
    """Compare two runs; None where they have no answered photo in common."""
    both = top1 = same_stage = 0
    largest: float | None = None
    for key, record in one.items():
        a, b = record.outcome, other[key].outcome if key in other else None
        if a is None or b is None:
            continue
        both += 1
        top1 += a.top5[0][0] == b.top5[0][0]
        same_stage += a.stage == b.stage
        if a.stage == b.stage and a.logits.shape == b.logits.shape:
            largest = max(largest or 0.0, float(np.abs(a.logits - b.logits).max()))
    if both == 0:
        return None
    return Agreement(top1 / both, largest, same_stage / both, both)


def trade_off(cascade: Cascade, answers: Sequence[Answer]) -> list[Point]:
    """Accuracy and cost over the threshold, the same one for all stages but the last.

    Thresholds are quantiles of the confidences that were seen. Where members after the answering
    one were not run, the curve ends at the thresholds that the records can tell about.
    """
    known = [(answer.target, answer.outcome) for answer in answers if answer.outcome is not None]
    if len(cascade.stages) < 2 or not known:
        return []
    early = [c for _, outcome in known for c in outcome.confidences[: len(cascade.stages) - 1]]
    quantiles = np.quantile(early, np.linspace(0, 1, CURVE_POINTS))
    points = []
    for threshold in sorted({0.0, *(float(q) for q in quantiles), NEVER}):
        point = _at(cascade, known, threshold)
        if point is not None:
            points.append(point)
    return points


def _at(cascade: Cascade, known: Sequence[tuple[int, Outcome]], threshold: float) -> Point | None:
    """The cascade at one threshold; None where a photo's records end before its answer."""
    last = len(cascade.stages) - 1
    costs = macs_up_to(cascade)
    stages, right = [], 0
    for target, outcome in known:
        stage = next((i for i, c in enumerate(outcome.confidences[:last]) if c >= threshold), last)
        if stage >= len(outcome.stage_top1):
            return None
        stages.append(stage)
        right += outcome.stage_top1[stage] == target
    counts = np.bincount(stages, minlength=last + 1)
    return Point(
        threshold=threshold,
        top1=right / len(known),
        mean_macs=float(np.dot(counts, costs)) / len(known),
        hit_rates=tuple((counts / len(known)).tolist()),
    )
