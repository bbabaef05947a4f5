"""The law of shrinking: fitted to measured points."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.shrinking.law import (
    ASSUMED_POWER,
    DIMENSIONS,
    LEAST_POWER,
    MOST_POWER,
    Dimension,
    Law,
    TrialPoint,
    cut_of,
    fit_law,
    rates,
)
from edgecompress.compress.shrinking.shrink import trial_specs
from edgecompress.errors import UsageError

BASE = NetworkSpec("resnet18", 1.0, 1.0, 128, 10)
PHOTOS = 1_000_000  # so many that the standard error does not count


def points(lost: dict[Dimension, float], photos: int = PHOTOS, share: float = 0.5):
    """One trial a dimension, with what each lost."""
    trials = trial_specs(BASE, share)
    return [
        TrialPoint(None, BASE, 0.8, photos),
        *(TrialPoint(name, trials[name], 0.8 - lost[name], photos) for name in DIMENSIONS),
    ]


def test_a_cut_is_the_logarithm_of_what_is_left() -> None:
    half = replace(BASE, resolution=64)
    assert cut_of(BASE, half, "resolution") == pytest.approx(math.log(4))
    assert cut_of(BASE, half, "width") == cut_of(BASE, half, "depth") == 0
    assert cut_of(BASE, replace(BASE, width=0.5), "width") == pytest.approx(math.log(4))
    shallow = replace(BASE, depth=0.5, resolution=64)
    saved = math.log(BASE.macs / replace(BASE, depth=0.5).macs)
    assert cut_of(BASE, shallow, "depth") == pytest.approx(saved)
    # No block goes with so little, and a larger network is not cut.
    assert cut_of(BASE, replace(BASE, depth=0.99), "depth") == 0
    assert cut_of(BASE, replace(BASE, resolution=160), "resolution") == 0


@given(
    st.dictionaries(st.sampled_from(DIMENSIONS), st.floats(0.02, 0.2), min_size=3, max_size=3),
    st.sets(st.sampled_from([0.25, 0.4, 0.5, 0.7]), min_size=1, max_size=3),
    st.floats(LEAST_POWER, MOST_POWER),
)
@settings(max_examples=12, deadline=None)
def test_points_that_obey_a_law_give_it_back(
    losses: dict[Dimension, float], kept: set[float], power: float
) -> None:
    power = power if len(kept) > 1 else ASSUMED_POWER
    obeyed = [TrialPoint(None, BASE, 0.9, PHOTOS)]
    for share in kept:
        for name, spec in trial_specs(BASE, share).items():
            lost = losses[name] * cut_of(BASE, spec, name) ** power
            assume(lost > 0.002)
            obeyed.append(TrialPoint(name, spec, 0.9 - lost, PHOTOS))
    law = fit_law(obeyed)
    assert law.measured == (len(kept) > 1)
    assert law.power == pytest.approx(power, rel=1e-6)
    assert law.losses == pytest.approx(losses, rel=1e-6)
    for point in obeyed[1:]:
        assert point.dimension is not None
        cut = {point.dimension: cut_of(BASE, point.spec, point.dimension)}
        assert law.lost(cut) == pytest.approx(0.9 - point.accuracy, rel=1e-6)
    assert Law.from_json(law.to_json()) == law


def test_a_power_beyond_sense_is_bounded() -> None:
    # A quarter of the MACs loses hardly more than a half does; and then very much more.
    for deep, bound in {0.0501: LEAST_POWER, 0.7: MOST_POWER}.items():
        few = points(dict.fromkeys(DIMENSIONS, 0.05))
        more = points(dict.fromkeys(DIMENSIONS, deep), share=0.25)[1:]
        assert fit_law([*few, *more]).power == bound


def test_noise_is_not_taken_for_a_gain() -> None:
    # On 100 photos one cannot tell -2 points from +1: both count as the standard error, 4 points.
    law = fit_law(points({"depth": -0.02, "width": 0.01, "resolution": 0.03}, photos=100))
    lost = [
        law.lost({name: cut_of(BASE, trial_specs(BASE, 0.5)[name], name)}) for name in law.losses
    ]
    assert lost == pytest.approx([0.04] * 3)


def test_what_saves_nothing_is_not_cut() -> None:
    thin = NetworkSpec("resnet18", 1.0, 0.5, 128, 10)
    trials = trial_specs(thin, 0.5)
    measured = [TrialPoint(None, thin, 0.8, PHOTOS)]
    measured += [TrialPoint(name, trials[name], 0.7, PHOTOS) for name in DIMENSIONS]
    assert set(fit_law(measured).losses) == {"width", "resolution"}
    with pytest.raises(UsageError, match="cannot be shrunk"):
        fit_law(measured[:1])


def test_milliseconds_have_rates_of_their_own() -> None:
    def milliseconds(spec: NetworkSpec) -> float:
        # Fewer pixels help less than MACs say.
        return 10 * math.sqrt(spec.resolution / BASE.resolution) * (spec.width**2)

    priced = [
        replace(p, cost=milliseconds(p.spec)) for p in points(dict.fromkeys(DIMENSIONS, 0.04))
    ]
    found = rates(priced)
    # The side goes with its square in MACs, with its root here; depth saved no time at all.
    assert found["resolution"] == pytest.approx(0.25, abs=0.04)
    assert found["width"] == pytest.approx(1, abs=0.1)
    assert found["depth"] == 1
    assert set(fit_law(priced).losses) == {"width", "resolution"}
    assert rates(points(dict.fromkeys(DIMENSIONS, 0.04))) == pytest.approx(
        dict.fromkeys(DIMENSIONS, 1.0)
    )
