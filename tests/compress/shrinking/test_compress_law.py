"""The law of shrinking: fitted to measured points."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.shrinking.law import (
    DIMENSIONS,
    LEAST_BEND,
    MOST_BEND,
    STRAIGHT,
    Dimension,
    Law,
    Line,
    TrialPoint,
    cut_of,
    fit_law,
    rates,
)
from edgecompress.compress.shrinking.shrink import trial_specs
from edgecompress.errors import UsageError

BASE = NetworkSpec("resnet18", 1.0, 1.0, 128, 10)


def points(lost: dict[Dimension, float], error: float = 0.0, share: float = 0.5):
    """One trial a dimension, with what each lost."""
    trials = trial_specs(BASE, share)
    return [
        TrialPoint(None, BASE),
        *(TrialPoint(name, trials[name], lost[name], error) for name in DIMENSIONS),
    ]


def test_a_cut_is_the_logarithm_of_what_is_left() -> None:
    half = replace(BASE, resolution=64)
    assert cut_of(BASE, half, "resolution") == pytest.approx(math.log(4))
    assert cut_of(BASE, half, "width") == cut_of(BASE, half, "depth") == 0
    # Pixels are what they are; blocks and channels are counted in MACs, whatever else is cut.
    changed: dict[Dimension, NetworkSpec] = {
        "depth": replace(BASE, depth=0.5),
        "width": replace(BASE, width=0.5),
        "inner": replace(BASE, inner=0.5),
    }
    for name, spec in changed.items():
        saved = math.log(BASE.macs / spec.macs)
        assert saved > 0.3
        assert cut_of(BASE, replace(spec, resolution=64), name) == pytest.approx(saved)
    # No block goes with so little, and a larger network is not cut.
    assert cut_of(BASE, replace(BASE, depth=0.99), "depth") == 0
    assert cut_of(BASE, replace(BASE, resolution=160), "resolution") == 0


@given(
    st.dictionaries(st.sampled_from(DIMENSIONS), st.floats(0.02, 0.2), min_size=len(DIMENSIONS)),
    st.lists(st.floats(0.2, 0.8), min_size=1, max_size=3, unique_by=lambda share: round(share, 1)),
    st.floats(LEAST_BEND, MOST_BEND),
)
@settings(max_examples=12, deadline=None)
def test_points_that_obey_a_law_give_it_back(
    slopes: dict[Dimension, float], kept: list[float], bend: float
) -> None:
    bend = bend if len(kept) > 1 else STRAIGHT
    trials = [(name, spec) for share in kept for name, spec in trial_specs(BASE, share).items()]
    cuts = [(name, cut_of(BASE, spec, name)) for name, spec in trials]
    ends = {name: [cut for other, cut in cuts if other == name] for name in DIMENSIONS}
    obeyed = Law({n: Line(slopes[n], min(ends[n]), max(ends[n])) for n in DIMENSIONS}, bend)
    lost = [obeyed.lost({name: cut}) for name, cut in cuts]
    assume(min(lost) > 0.002)
    points = [TrialPoint(name, spec, loss) for (name, spec), loss in zip(trials, lost, strict=True)]
    law = fit_law([TrialPoint(None, BASE), *points])
    assert law.measured == (len(kept) > 1)
    assert law.bend == pytest.approx(bend, rel=0.01)
    for name, cut in cuts:
        assert law.lost({name: cut}) == pytest.approx(obeyed.lost({name: cut}), rel=0.02)
        assert law.lines[name].knee == pytest.approx(obeyed.lines[name].knee)
        assert law.lines[name].end == pytest.approx(obeyed.lines[name].end)
    assert Law.from_json(law.to_json()) == law


def test_losses_go_in_bent_lines_and_add_up() -> None:
    law = Law({"width": Line(0.02, 1.0, 2.0), "depth": Line(0.03, 0.5, 0.5)}, 3.0)
    for cut, lost in {0: 0, 0.5: 0.01, 1: 0.02, 2: 0.08, 3: 0.14}.items():
        assert law.lost({"width": cut}) == pytest.approx(lost)
    assert law.lost({"width": 1.5, "depth": 0.25}) == pytest.approx(0.05 + 0.0075)


def test_one_bend_is_shared_and_bounded() -> None:
    """Trials that contradict each other are evened out: each dimension's own further trials would
    say that narrowing twice loses nothing more."""
    few = points(dict.fromkeys(DIMENSIONS, 0.04))
    lost: dict[Dimension, float] = {"depth": 0.16, "width": 0.04, "inner": 0.16, "resolution": 0.16}
    law = fit_law([*few, *points(lost, share=0.25)[1:]])
    assert 1.5 < law.bend < MOST_BEND
    line = law.lines["width"]
    assert law.lost({"width": line.end}) > 1.3 * law.lost({"width": line.knee})
    for deep, bound in {0.0401: LEAST_BEND, 0.9: MOST_BEND}.items():
        more = points(dict.fromkeys(DIMENSIONS, deep), share=0.25)[1:]
        assert fit_law([*few, *more]).bend == pytest.approx(bound, rel=0.6)


def test_noise_is_not_taken_for_a_gain() -> None:
    # With a standard error of 4 points one cannot tell -2 from +1: both count as 4.
    lost: dict[Dimension, float] = {"depth": -0.02, "width": 0.01, "inner": 0, "resolution": 0.03}
    law = fit_law(points(lost, error=0.04))
    for name, line in law.lines.items():
        assert law.lost({name: line.knee}) == pytest.approx(0.04)


def test_what_saves_nothing_is_not_cut() -> None:
    thin = NetworkSpec("resnet18", 1.0, 0.5, 128, 10)
    trials = trial_specs(thin, 0.5)
    measured = [TrialPoint(None, thin)]
    measured += [TrialPoint(name, trials[name], 0.1) for name in DIMENSIONS]
    assert set(fit_law(measured).lines) == {"width", "inner", "resolution"}
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
    # The side goes with its square in MACs, with its root here; blocks and what is within saved
    # no time at all.
    assert found["resolution"] == pytest.approx(0.25, abs=0.04)
    assert found["width"] == pytest.approx(1, abs=0.1)
    assert found["depth"] == found["inner"] == 1
    assert set(fit_law(priced).lines) == {"width", "resolution"}
    assert rates(points(dict.fromkeys(DIMENSIONS, 0.04))) == pytest.approx(
        dict.fromkeys(DIMENSIONS, 1.0)
    )
