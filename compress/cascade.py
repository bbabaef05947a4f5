"""Choosing a cascade's thresholds, temperatures and alpha on photos that no training touched."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgecompress.errors import UsageError

from ..runner.cascade import combine, confidence, softmax

ALPHAS = (0.5, 1.0, 1.6, 2.5)
"""Weights of a later member's logits that are tried; EdgeCompress uses 1.6."""


@dataclass(frozen=True)
class Member:
    """What one member says of the held-out photos.

    Attributes:
        macs: of one run.
        logits: `[n, classes]`.
    """

    macs: int
    logits: np.ndarray


@dataclass(frozen=True)
class OperatingPoint:
    """One setting of a cascade and what it gives on the held-out photos.

    Attributes:
        thresholds: of each member but the last.
        temperatures: of each member.
        top1: share of photos named rightly.
        mean_macs: of a photo, `fixed` included.
        hit_rates: share of photos that each member answers.
    """

    thresholds: tuple[float, ...]
    temperatures: tuple[float, ...]
    accumulate: bool
    alpha: float
    top1: float
    mean_macs: float
    hit_rates: tuple[float, ...]


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature of the smallest negative log-likelihood (Guo et al. 2017), in 0.05..20.

    Args:
        logits: `[n, classes]`.
        targets: `[n]`.
    """

    def loss(log_temperature: float) -> float:
        likely = softmax(logits / math.exp(log_temperature))[np.arange(len(targets)), targets]
        return float(-np.log(np.maximum(likely, 1e-300)).mean())

    # The loss has one minimum in 1/T (it is convex there): golden section finds it.
    low, high = math.log(0.05), math.log(20.0)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def expected_calibration_error(
    logits: np.ndarray, targets: np.ndarray, temperature: float = 1.0, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equal bins of confidence (Guo et al. 2017)."""
    probabilities = softmax(logits / temperature)
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    which = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [
        abs(right[which == one].mean() - sure[which == one].mean()) * (which == one).mean()
        for one in range(bins)
        if (which == one).any()
    ]
    return float(sum(gaps))


@dataclass(frozen=True)
class Running:
    """A cascade's running logits after each member, judged.

    Attributes:
        sure: confidence `[members, n]`.
        right: whether the first class is the target `[members, n]`.
        cost: MACs of a photo that this member answers `[members]`.
    """

    sure: np.ndarray
    right: np.ndarray
    cost: np.ndarray


def running_logits(
    members: Sequence[Member], *, alpha: float, accumulate: bool
) -> list[np.ndarray]:
    """What each stage would answer with, `[n, classes]` each."""
    running: list[np.ndarray] = []
    for member in members:
        before = running[-1] if running else None
        running.append(combine(before, member.logits, alpha, accumulate))
    return running


def _judge(
    members: Sequence[Member],
    running: Sequence[np.ndarray],
    targets: np.ndarray,
    *,
    criterion: str,
    temperatures: Sequence[float],
    fixed: int,
) -> Running:
    pairs = zip(running, temperatures, strict=True)
    return Running(
        sure=np.stack([confidence(one, criterion, temperature) for one, temperature in pairs]),
        right=np.stack([one.argmax(axis=1) == targets for one in running]),
        cost=np.cumsum([member.macs for member in members]) + fixed,
    )


def _measure(judged: Running, point: OperatingPoint) -> OperatingPoint:
    """The point with what it gives filled in."""
    stage = _stages(judged.sure, point.thresholds)
    return replace(
        point,
        top1=float(judged.right[stage, np.arange(stage.size)].mean()),
        mean_macs=float(judged.cost[stage].mean()),
        hit_rates=tuple(float((stage == k).mean()) for k in range(len(judged.cost))),
    )


def _stages(sure: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Which stage answers each photo, `[n]`."""
    answers = np.ones_like(sure, bool)
    answers[:-1] = sure[:-1] >= np.asarray(thresholds)[:, None]
    return answers.argmax(axis=0)


def apply(
    members: Sequence[Member],
    targets: np.ndarray,
    point: OperatingPoint,
    *,
    criterion: str,
    fixed: int = 0,
) -> OperatingPoint:
    """The same setting, measured on other photos."""
    running = running_logits(members, alpha=point.alpha, accumulate=point.accumulate)
    judged = _judge(
        members,
        running,
        targets,
        criterion=criterion,
        temperatures=point.temperatures,
        fixed=fixed,
    )
    return _measure(judged, point)


def sweep(
    members: Sequence[Member],
    targets: np.ndarray,
    *,
    criterion: str,
    fixed: int = 0,
    alphas: Sequence[float] = ALPHAS,
    steps: int = 20,
) -> list[OperatingPoint]:
    """Every setting that is tried: logits replaced or accumulated with each alpha, and a grid of
    thresholds at even shares of the photos.

    Args:
        members: cheapest first.
        targets: `[n]`.
        criterion: as in the runner.
        fixed: MACs that every photo costs (the predictor's).
        steps: thresholds tried a member.
    """
    ways = [(False, 1.0)]
    if len(members) > 1:
        ways += [(True, alpha) for alpha in alphas]
    points = []
    for accumulate, alpha in ways:
        running = running_logits(members, alpha=alpha, accumulate=accumulate)
        temperatures = tuple(round(fit_temperature(one, targets), 4) for one in running)
        judged = _judge(
            members, running, targets, criterion=criterion, temperatures=temperatures, fixed=fixed
        )
        grids = [_grid(sure, steps) for sure in judged.sure[:-1]]
        for thresholds in itertools.product(*grids):
            point = OperatingPoint(thresholds, temperatures, accumulate, alpha, 0.0, 0.0, ())
            points.append(_measure(judged, point))
    return points


def _grid(sure: np.ndarray, steps: int) -> list[float]:
    """Thresholds that let through from all photos to none, in even steps."""
    inner = np.quantile(sure, np.linspace(0, 1, steps + 1)[1:-1])
    return [0.0, *sorted({round(float(one), 5) for one in inner}), 1.01]


def frontier(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """The points that no cheaper one matches in accuracy, cheapest first."""
    best: list[OperatingPoint] = []
    for point in sorted(points, key=lambda one: (one.mean_macs, -one.top1)):
        if not best or point.top1 > best[-1].top1:
            best.append(point)
    return best


def choose(
    points: Sequence[OperatingPoint],
    *,
    macs: float | None = None,
    top1: float | None = None,
    slack: float = 0.005,
) -> OperatingPoint:
    """The most accurate point within `macs`; or the cheapest with at least `top1`; or, of neither,
    the cheapest within `slack` of the most accurate one.

    Raises:
        UsageError: no point meets the condition.
    """
    curve = frontier(points)
    if macs is not None:
        within = [point for point in curve if point.mean_macs <= macs]
        if not within:
            raise UsageError(
                f"no cascade runs within {macs / 1e6:.4g} M MACs a photo: the cheapest takes "
                f"{curve[0].mean_macs / 1e6:.4g} M",
                "raise [compress.cascade] macs, or add a smaller member to budgets",
            )
        return within[-1]
    wanted = curve[-1].top1 - slack if top1 is None else top1
    enough = [point for point in curve if point.top1 >= wanted]
    if not enough:
        raise UsageError(
            f"no cascade reaches a top-1 of {wanted:.3f} on the held-out photos: the best has "
            f"{curve[-1].top1:.3f}",
            "lower [compress.cascade] top1, or train longer",
        )
    return enough[0]
