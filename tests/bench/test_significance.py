"""Tests of chance: known values, and levels that hold on simulated runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.bench.significance import (
    FEWEST_PHOTOS,
    fewest,
    mcnemar,
    paired_difference,
    ratio_intervals,
    unpaired_difference,
)


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 5, 0.0625),
        (0, 6, 0.03125),
        (10, 10, 1.0),
        # scipy.stats.binomtest(k, n).pvalue
        (2, 12, 0.0129394531),
        (40, 70, 0.00544743),
        (5000, 5300, 0.00321582),
    ],
)
def test_mcnemar_of_known_counts(lost: int, gained: int, p: float) -> None:
    assert mcnemar(lost, gained) == pytest.approx(p, rel=2e-4)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_newcombes_own_examples() -> None:
    """Table II of "Interval Estimation for the Difference..." (1998): 56/70 against 48/80."""
    found = unpaired_difference(48, 80, 56, 70)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (
        pytest.approx(0.0524, abs=5e-4),
        pytest.approx(0.3339, abs=5e-4),
    )
    assert found.significant and found.p is None


shares = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(shares)
def test_an_interval_holds_its_value_and_turns_with_the_order(
    pairs: list[tuple[bool, bool]],
) -> None:
    a, b = [one for one, _ in pairs], [one for _, one in pairs]
    found, other = paired_difference(a, b), paired_difference(b, a)
    assert -1 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1
    assert (other.low, other.high) == (pytest.approx(-found.high), pytest.approx(-found.low))
    assert (other.gained, other.lost) == (found.lost, found.gained)


def test_pairs_see_more_than_two_samples() -> None:
    """Eight photos lost and none gained of 400: plain to see with pairs, hidden without them."""
    a = [True] * 300 + [False] * 100
    b = [True] * 292 + [False] * 108
    assert paired_difference(a, b).significant
    assert not unpaired_difference(300, 400, 292, 400).significant


def test_a_ratio_is_found_and_repeats() -> None:
    rng = np.random.default_rng(1)
    photos = rng.lognormal(3, 0.6, (200, 1))
    first = photos * rng.normal(1, 0.02, (200, 2))
    second = 1.1 * photos * rng.normal(1, 0.02, (200, 2))
    paired = ratio_intervals(first, second, True)
    assert paired == ratio_intervals(first, second, True)
    low, high = paired["mean"]
    assert 1.08 < low < 1.1 < high < 1.12
    other_low, other_high = ratio_intervals(first, second, False)["mean"]
    assert other_high - other_low > 3 * (high - low)


def test_the_level_holds() -> None:
    """Two runs of the same board differ significantly about once in twenty times, not more."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(100):
        first, second = rng.lognormal(3, 0.3, (2, 80, 1))
        low, high = ratio_intervals(first, second, False)["p50"]
        wrong += not low <= 1 <= high
    assert wrong <= 12


def test_what_too_few_values_cannot_tell() -> None:
    times = np.arange(1.0, 41.0)[:, None]
    assert ratio_intervals(times, times, True).keys() == {"p50", "mean"}
    assert ratio_intervals(times[:9], times[:9], True) == {}
    assert ratio_intervals(np.zeros((40, 1)), times, False) == {}
    assert {fewest(name) for name in ("p50", "mean")} == {10}
    assert (fewest("p90"), fewest("p99")) == (50, 500)


def test_many_runs_of_few_photos_are_few() -> None:
    """One photo, a hundred times: its runs lie close together, and say nothing of others."""
    rng = np.random.default_rng(3)
    for photos in (1, FEWEST_PHOTOS - 1):
        first, second = rng.lognormal(3, 0.3, (2, photos, 1)) * rng.normal(
            1, 0.01, (2, photos, 100)
        )
        assert ratio_intervals(first, second, True) == {}
        assert ratio_intervals(first, np.tile(second, (20, 1)), False) == {}
    enough = rng.lognormal(3, 0.3, (FEWEST_PHOTOS, 10))
    assert "p50" in ratio_intervals(enough, enough, True)


def test_many_photos_take_seconds() -> None:
    times = np.random.default_rng(0).lognormal(3, 0.3, (50_000, 1))
    assert ratio_intervals(times, 1.5 * times, True)["p99"] == pytest.approx((1.5, 1.5))
