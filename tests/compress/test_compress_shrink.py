"""Compound shrinking: exponents from measured points, members for budgets."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.compress.budget import LARGEST_SHARE
from edgecompress.compress.material import CACHE_MARGIN
from edgecompress.compress.network import NetworkSpec
from edgecompress.compress.shrink import (
    DIMENSIONS,
    Dimension,
    TrialPoint,
    along,
    exponent_errors,
    exponents,
    powers,
    propose,
    trial_specs,
)
from edgecompress.errors import UsageError

BASE = NetworkSpec("resnet18", 1.0, 1.0, 128, 10)
PHOTOS = 1_000_000  # so many that the standard error does not count


def _points(lost: dict[str, float], photos: int = PHOTOS) -> list[TrialPoint]:
    trials = trial_specs(BASE, 0.5)
    return [
        TrialPoint(None, BASE, 0.8, photos),
        *(TrialPoint(name, trials[name], 0.8 - lost[name], photos) for name in DIMENSIONS),
    ]


def test_trials_shrink_one_dimension_to_about_the_share() -> None:
    for name, spec in trial_specs(BASE, 0.5).items():
        changed = [d for d in DIMENSIONS if getattr(spec, d) != getattr(BASE, d)]
        assert changed == [name]
        assert spec.macs / BASE.macs == pytest.approx(0.5, abs=0.06)


def test_what_costs_more_accuracy_shrinks_less() -> None:
    shares = exponents(_points({"depth": 0.08, "width": 0.02, "resolution": 0.04}))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["width"] > shares["resolution"] > shares["depth"]
    # l^2 / loss, by hand.
    weights = {
        point.dimension: math.log(BASE.macs / point.spec.macs) ** 2 / (0.8 - point.accuracy)
        for point in _points({"depth": 0.08, "width": 0.02, "resolution": 0.04})[1:]
    }
    assert shares["depth"] == pytest.approx(weights["depth"] / sum(weights.values()))


def test_noise_is_not_taken_for_a_gain() -> None:
    # On 100 photos one cannot tell -2 points from +1: all dimensions count alike.
    shares = exponents(_points({"depth": -0.02, "width": 0.01, "resolution": 0.03}, photos=100))
    assert max(shares.values()) < 0.45


def test_a_network_without_depth_to_give_keeps_it() -> None:
    thin = NetworkSpec("resnet18", 1.0, 0.5, 128, 10)
    trials = trial_specs(thin, 0.5)
    points = [TrialPoint(None, thin, 0.8, PHOTOS)]
    points += [TrialPoint(name, trials[name], 0.7, PHOTOS) for name in DIMENSIONS]
    shares = exponents(points)
    assert shares["depth"] == 0
    assert sum(shares.values()) == pytest.approx(1)
    with pytest.raises(UsageError):
        exponents(points[:1])


@settings(max_examples=8, deadline=None)
@given(st.lists(st.floats(0.05, 1), min_size=3, max_size=3), st.floats(0.08, 0.95))
def test_proposals_keep_the_budget_and_use_it(weights: list[float], budget: float) -> None:
    shares = {d: w / sum(weights) for d, w in zip(DIMENSIONS, weights, strict=True)}
    spec = propose(BASE, shares, budget)
    assert spec.macs <= budget * BASE.macs
    assert spec.macs >= 0.6 * budget * BASE.macs
    assert spec.resolution % 8 == 0
    assert spec.width <= BASE.width


def test_a_budget_of_one_is_the_base_and_tiny_ones_are_refused() -> None:
    shares = dict.fromkeys(DIMENSIONS, 1 / 3)
    assert propose(BASE, shares, 1.0) == BASE
    with pytest.raises(UsageError, match="budget"):
        propose(BASE, shares, 1e-6)


def test_above_one_the_base_looks_closer() -> None:
    shares = dict.fromkeys(DIMENSIONS, 1 / 3)
    for budget, side in {1.01: 128, 1.3: 136, LARGEST_SHARE: 160}.items():
        assert propose(BASE, shares, budget) == replace(BASE, resolution=side)
        assert replace(BASE, resolution=side).macs <= budget * BASE.macs
    odd = replace(BASE, resolution=100)
    assert [propose(odd, shares, budget).resolution for budget in (1.0, 1.2)] == [100, 104]
    # Photos are kept as large as the largest network sees them.
    assert round(CACHE_MARGIN * BASE.resolution) == 160


def test_the_cost_may_be_measured() -> None:
    asked: list[NetworkSpec] = []

    def milliseconds(spec: NetworkSpec) -> float:
        asked.append(spec)
        return 2.0 + spec.macs / 1e8  # a fixed cost that MACs do not show

    spec = propose(BASE, dict.fromkeys(DIMENSIONS, 1 / 3), 0.5, milliseconds)
    assert milliseconds(spec) <= 0.5 * milliseconds(BASE)
    assert len(asked) < 15


def test_shares_say_what_shrinks() -> None:
    only_resolution = along(BASE, {"depth": 0.0, "width": 0.0, "resolution": 1.0}, 0.25)
    assert only_resolution == NetworkSpec("resnet18", 1.0, 1.0, 64, 10)


@given(
    st.dictionaries(st.sampled_from(DIMENSIONS), st.floats(0.02, 0.3), min_size=3, max_size=3),
    st.sets(st.sampled_from([0.3, 0.4, 0.5, 0.7]), min_size=1, max_size=3),
)
@settings(max_examples=5, deadline=None)
def test_points_that_obey_the_law_give_it_back(
    laws: dict[Dimension, float], kept: set[float]
) -> None:
    points = [TrialPoint(None, BASE, 0.9, PHOTOS)]
    for share in kept:
        for name, spec in trial_specs(BASE, share).items():
            saved = math.log(BASE.macs / spec.macs)
            points.append(TrialPoint(name, spec, 0.9 - laws[name] * saved**2, PHOTOS))
    wanted = {name: 1 / law for name, law in laws.items()}
    total = sum(wanted.values())
    for name, share in exponents(points).items():
        assert share == pytest.approx(wanted[name] / total, rel=1e-6)


def test_more_photos_make_exponents_surer() -> None:
    lost = {"depth": 0.08, "width": 0.05, "resolution": 0.06}
    few, many = (exponent_errors(_points(lost, photos)) for photos in (500, 50_000))
    for name in DIMENSIONS:
        assert 0 < many[name] < few[name] < 0.5
    # A tenfold standard error, where no loss is below it.
    assert few["width"] == pytest.approx(10 * many["width"], rel=0.5)
    assert exponent_errors(_points(lost, 500)) == few


def test_milliseconds_have_powers_and_exponents_of_their_own() -> None:
    def milliseconds(spec: NetworkSpec) -> float:
        # Fewer pixels help less than MACs say, narrower layers more.
        return 10 * spec.depth * spec.width**3 * (spec.resolution / BASE.resolution) ** 1.0

    priced = [
        replace(point, cost=milliseconds(point.spec))
        for point in _points(dict.fromkeys(DIMENSIONS, 0.04))
    ]
    found = powers(priced)
    for name, power in {"depth": 1, "width": 3, "resolution": 1}.items():
        assert found[name] == pytest.approx(power)
    by_time, by_macs = exponents(priced), exponents(_points(dict.fromkeys(DIMENSIONS, 0.04)))
    assert by_time["width"] > by_macs["width"]
    assert by_time["resolution"] < by_macs["resolution"]
    half = along(BASE, by_time, 0.5, found)
    assert milliseconds(half) == pytest.approx(5, rel=0.1)  # pixels come in steps of 8


def test_where_the_narrowest_is_too_much_the_others_go_further() -> None:
    small = NetworkSpec("resnet18", 0.125, 1.0, 64, 10)
    only_width: dict[Dimension, float] = {"depth": 0.05, "width": 0.9, "resolution": 0.05}
    spec = propose(small, only_width, 0.3)
    assert spec.macs <= 0.3 * small.macs
    assert spec.resolution < along(small, only_width, 0.3).resolution
