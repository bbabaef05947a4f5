"""Temperatures and the weight of later logits, of the largest likelihood on held-out photos."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from ..runner.cascade import softmax

_LEAST, _MOST = 0.05, 20.0
"""Of temperatures and of alpha."""


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature of the smallest negative log-likelihood (Guo et al. 2017), in 0.05..20.

    Args:
        logits: `[n, classes]`.
        targets: `[n]`.
    """
    centred = np.asarray(logits, np.float32)
    centred = centred - centred.max(axis=1, keepdims=True)
    named = centred[np.arange(len(targets)), targets]

    def slopes(inverse: float) -> tuple[float, float]:
        weights = np.exp(np.float32(inverse) * centred)
        total = weights.sum(axis=1)
        weights *= centred
        mean = weights.sum(axis=1) / total
        square = np.einsum("ij,ij->i", weights, centred) / total
        slope = (mean - named).mean(dtype=np.float64)
        return float(slope), float((square - mean**2).mean(dtype=np.float64))

    # The loss is convex in 1/T: Newton's steps, kept between two slopes of different sign.
    low, high = 1 / _MOST, 1 / _LEAST
    inverse = 1.0
    for _ in range(40):
        slope, curvature = slopes(inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else math.nan
        if not low < step < high:
            step = math.sqrt(low * high)
        if abs(math.log(step / inverse)) < 1e-4:
            break
        inverse = step
    return 1 / inverse


def chances(logits: np.ndarray, targets: np.ndarray, temperature: float) -> np.ndarray:
    """The probability that logits `[n, classes]` give to each target, `[n]`."""
    return softmax(logits / temperature)[np.arange(len(targets)), targets]


def likeliest_chances(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The probability that logits `[n, classes]` give to each target at their likeliest
    temperature, `[n]`."""
    return chances(logits, targets, fit_temperature(logits, targets))


def gained(new: np.ndarray, old: np.ndarray) -> tuple[float, float]:
    """The mean of what `new` gives the photos' classes more than `old`, and its standard error.

    Args:
        new: probabilities `[n]`.
        old: probabilities of the same photos `[n]`.
    """
    more = new - old
    return float(more.mean()), float(more.std()) / math.sqrt(len(more))


def fit_alpha(logits: Sequence[np.ndarray], targets: np.ndarray) -> float:
    """The weight of later members' logits with the smallest negative log-likelihood, in 0.05..20.

    The likelihood is the product over all stages but the first, each with the temperature that is
    best for it. Of two members the loss is convex in the two logits' weights, `1 / T` and
    `alpha / T`: there is one minimum.

    Args:
        logits: of two or more members, `[n, classes]` each, cheapest first.
        targets: `[n]`.
    """
    first = np.asarray(logits[0], np.float64)
    later = np.cumsum(np.asarray(logits[1:], np.float64), axis=0)
    rows = np.arange(len(targets))

    def loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
        alpha, *inverses = np.exp(logs)
        total, slopes = 0.0, np.zeros(len(logs))
        for place, (inverse, added) in enumerate(zip(inverses, later, strict=True), 1):
            running = first + alpha * added
            chances = softmax(inverse * running)
            total -= np.log(np.maximum(chances[rows, targets], 1e-300)).mean()
            chances[rows, targets] -= 1.0
            slopes[0] += alpha * inverse * np.einsum("ij,ij->", chances, added) / len(rows)
            slopes[place] = inverse * np.einsum("ij,ij->", chances, running) / len(rows)
        return float(total), slopes

    bound = (math.log(_LEAST), math.log(_MOST))
    start = np.zeros(len(logits))
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[bound] * len(start),
        options={"ftol": 1e-8},
    )  # fmt: skip
    return math.exp(float(found.x[0]))


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
