"""How much accuracy int8 costs, and which layers stay float32 so that it does not cost more.

The measure is the drop of top-1 that the float network itself expects: where the answers differ,
the probability that it gave its own answer, less the one that it gave the int8 network's. It needs
no labels, and photos on which both agree add no noise to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...runner.cascade import combine, confidence, softmax
from ...runner.spec import Cascade

LEAST_INT8 = 0.1
"""The least share of the layers that is still worth being called an int8 network."""


@dataclass(frozen=True)
class Loss:
    """An int8 network against its float one, over n photos.

    Attributes:
        expected_drop: of top-1, as a share of all photos; never negative.
        standard_error: of that mean.
        agreement: share of equal answers.
        divergence: mean Kullback-Leibler divergence of the probabilities, nats.
        n: photos.
    """

    expected_drop: float
    standard_error: float
    agreement: float
    divergence: float
    n: int


def loss(reference: np.ndarray, got: np.ndarray) -> Loss:
    """What int8 costs.

    Args:
        reference: the float network's logits `[n, classes]`.
        got: the int8 network's. Where they are not finite, its answer counts as the worst.
    """
    probabilities = softmax(reference)
    others = softmax(np.nan_to_num(got, nan=0.0, posinf=0.0, neginf=0.0))
    rows = np.arange(len(reference))
    mine, theirs = reference.argmax(axis=1), others.argmax(axis=1)
    drops = probabilities[rows, mine] - probabilities[rows, theirs]
    smallest = np.finfo(np.float64).tiny
    ratio = np.log(np.maximum(probabilities, smallest) / np.maximum(others, smallest))
    return Loss(
        float(drops.mean()),
        float(drops.std() / np.sqrt(len(drops))),
        float((mine == theirs).mean()),
        float((probabilities * ratio).sum(axis=1).mean()),
        len(reference),
    )


def answers(cascade: Cascade, logits: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What a cascade answers, given all its members' logits `[n, classes]` by name.

    Returns:
        The running logits of the stage that answered, float32 `[n, classes]`, and that stage's
        index, int64 `[n]`; as `runner.cascade.classify` has them.
    """
    running = combine(None, logits[cascade.stages[0].network], cascade.alpha, cascade.accumulate)
    found, stages = running.copy(), np.zeros(len(running), np.int64)
    waiting = np.ones(len(running), bool)
    for index, stage in enumerate(cascade.stages):
        if index:
            own = logits[stage.network]
            running = combine(running, own, cascade.alpha, cascade.accumulate)
        found[waiting], stages[waiting] = running[waiting], index
        if stage.threshold is not None:
            sure = confidence(running, cascade.criterion, stage.temperature)
            waiting &= sure < stage.threshold
    return found, stages


def fewest_kept(
    order: Sequence[str], measure: Callable[[frozenset[str]], Loss], allowed: float
) -> tuple[frozenset[str], Loss] | None:
    """The fewest layers to keep float32, the first of `order`, that meet an allowed drop.

    The number doubles until it is enough, and is then halved down between the last two: more float
    layers are taken to cost no accuracy.

    Args:
        order: names of layers, the most sensitive first.
        measure: the loss with some layers kept float32.
        allowed: the largest expected drop.

    Returns:
        Those layers and their loss; None where even `LEAST_INT8` of the layers is too much.
    """
    most = len(order) - max(1, round(LEAST_INT8 * len(order)))
    low, high = 0, 1
    while True:
        high = min(high, most)
        if high <= low:
            return None
        found = measure(frozenset(order[:high]))
        if found.expected_drop <= allowed:
            break
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        tried = measure(frozenset(order[:middle]))
        if tried.expected_drop <= allowed:
            high, found = middle, tried
        else:
            low = middle
    return frozenset(order[:high]), found
