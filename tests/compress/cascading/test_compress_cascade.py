"""Thresholds and calibration, against the runner's own decisions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgecompress.compress.cascading.cascade import (
    Member,
    OperatingPoint,
    apply,
    choose,
    frontier,
    sweep,
)
from edgecompress.compress.likelihood import expected_calibration_error, fit_temperature
from edgecompress.errors import UsageError
from edgecompress.runner.cascade import classify
from edgecompress.runner.spec import Cascade, Preprocess, Stage

CLASSES = 5


def _members(seed: int = 0, n: int = 120) -> tuple[list[Member], np.ndarray]:
    """Three members of growing cost and skill."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, CLASSES, n)
    members = []
    for macs, skill in ((10, 1.0), (40, 2.0), (100, 3.0)):
        logits = rng.normal(size=(n, CLASSES)).astype(np.float32)
        logits[np.arange(n), targets] += skill
        members.append(Member(macs, logits))
    return members, targets


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from(["margin", "max_softmax"]),
    st.booleans(),
    st.floats(0.2, 3),
    st.lists(st.floats(0, 1), min_size=2, max_size=2),
)
def test_a_point_is_what_the_runner_does(
    seed: int, criterion: str, accumulate: bool, alpha: float, thresholds: list[float]
) -> None:
    members, targets = _members(seed, 12)
    temperatures = (0.8, 1.5, 1.1)
    cascade = Cascade(
        name="made-up",
        labels=tuple("abcde"),
        preprocess=Preprocess((0, 0, 0), (1, 1, 1)),
        predictor=None,
        stages=tuple(
            Stage(f"m{k}", 8, 1.0, threshold, temperatures[k], members[k].macs, 1)
            for k, threshold in enumerate((*thresholds, None))
        ),
        criterion=criterion,
        accumulate=accumulate,
        alpha=alpha,
        origin={},
    )
    image = Image.new("RGB", (8, 8))
    outcomes = [
        classify(cascade, image, lambda name, _, i=i: members[int(name[1])].logits[i : i + 1])
        for i in range(len(targets))
    ]
    point = OperatingPoint(tuple(thresholds), temperatures, accumulate, alpha, 0, 0, ())
    found = apply(members, targets, point, criterion=criterion, fixed=7)
    right = [o.top5[0][0] == t for o, t in zip(outcomes, targets, strict=True)]
    macs = [7 + (10, 50, 150)[outcome.stage] for outcome in outcomes]
    assert found.top1 == pytest.approx(np.mean(right))
    assert found.mean_macs == pytest.approx(np.mean(macs))
    assert sum(found.hit_rates) == pytest.approx(1)


def test_the_sweep_holds_its_ends_and_gains() -> None:
    members, targets = _members()
    points = sweep(members, targets, criterion="margin", fixed=5)
    curve = frontier(points)
    macs = [point.mean_macs for point in curve]
    assert macs == sorted(macs)
    assert macs[0] == 15  # everything answered by the first member
    alone = (members[2].logits.argmax(1) == targets).mean()
    assert curve[-1].top1 >= alone
    assert {point.alpha for point in points if not point.learned} == {0.5, 1.0, 1.6, 2.5}
    assert len({point.alpha for point in points if point.learned}) == 1
    for point in curve:
        again = apply(members, targets, point, criterion="margin", fixed=5)
        assert again == point


def test_choosing() -> None:
    members, targets = _members()
    points = sweep(members, targets, criterion="margin")
    best = max(point.top1 for point in points)
    cheap = choose(points, macs=30)
    assert cheap.mean_macs <= 30
    assert all(point.top1 <= cheap.top1 for point in points if point.mean_macs <= 30)
    enough = choose(points, top1=0.8)
    assert enough.top1 >= 0.8
    assert all(point.mean_macs >= enough.mean_macs for point in points if point.top1 >= 0.8)
    assert choose(points, slack=0.0).top1 == best
    with pytest.raises(UsageError, match="MACs"):
        choose(points, macs=1)
    with pytest.raises(UsageError, match="top-1"):
        choose(points, top1=1.0)


def test_one_member_has_nothing_to_choose() -> None:
    members, targets = _members()
    (point,) = sweep(members[:1], targets, criterion="margin")
    assert point.thresholds == ()
    assert point.hit_rates == (1.0,)


@given(st.floats(0.2, 5))
def test_temperature_undoes_what_logits_were_scaled_by(scale: float) -> None:
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(4000, CLASSES))
    chances = np.exp(logits)
    chances /= chances.sum(1, keepdims=True)
    targets = (chances.cumsum(1) < rng.random((4000, 1))).sum(1)
    found = fit_temperature(scale * logits, targets)
    assert math.log(found / scale) == pytest.approx(0, abs=0.1)
    before = expected_calibration_error(scale * logits, targets)
    after = expected_calibration_error(scale * logits, targets, found)
    assert after < 0.05
    assert after <= before + 0.02
