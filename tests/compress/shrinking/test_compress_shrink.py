"""Compound shrinking: networks for budgets, by a law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.compress.budget import LARGEST_SHARE
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.shrinking.law import (
    DIMENSIONS,
    Dimension,
    Law,
    Line,
    TrialPoint,
    cut_of,
    fit_law,
)
from edgecompress.compress.shrinking.shrink import (
    dimensions_of,
    exponent_errors,
    exponents,
    next_depth,
    plans,
    propose,
    shapes,
    trial_specs,
    widest,
)
from edgecompress.compress.training.material import CACHE_MARGIN
from edgecompress.errors import UsageError

BASE = NetworkSpec("resnet18", 1.0, 1.0, 128, 10)


def _law(losses: Mapping[Dimension, float], bend: float = 1.0) -> Law:
    """Dimensions that lose so much by a cut of 1, of which those beyond a half lose more."""
    return Law({name: Line(lost, 0.7, 1.6) for name, lost in losses.items()}, bend)


ALIKE = _law(dict.fromkeys(DIMENSIONS, 0.05), 3.0)


def _lost(law: Law, base: NetworkSpec, spec: NetworkSpec) -> float:
    return law.lost({name: cut_of(base, spec, name) for name in law.lines})


def _points(lost: dict[Dimension, float], error: float) -> list[TrialPoint]:
    trials = trial_specs(BASE, 0.5)
    return [
        TrialPoint(None, BASE),
        *(TrialPoint(name, trials[name], lost[name], error) for name in DIMENSIONS),
    ]


def test_trials_shrink_one_dimension_to_about_the_share() -> None:
    for name, spec in trial_specs(BASE, 0.5).items():
        changed = [d for d in DIMENSIONS if getattr(spec, d) != getattr(BASE, d)]
        assert changed == [name]
        assert spec.macs / BASE.macs == pytest.approx(0.5, abs=0.06)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.floats(0.01, 0.2), min_size=4, max_size=4),
    st.floats(0.2, 6),
    st.floats(0.08, 0.95),
)
def test_proposals_keep_the_budget_and_lose_little(
    losses: list[float], bend: float, budget: float
) -> None:
    law = _law(dict(zip(DIMENSIONS, losses, strict=True)), bend)
    spec = propose(BASE, law, budget)
    assert spec.macs <= budget * BASE.macs
    assert spec.resolution % 8 == 0
    assert max(spec.width, spec.inner) <= BASE.width == BASE.inner
    # No other blocks and side, with the width that the budget leaves, lose much less.
    narrow = widest(BASE, budget * BASE.macs)
    within = widest(BASE, budget * BASE.macs, of="inner")
    low = widest(replace(BASE, resolution=64), budget * BASE.macs)
    shallow = widest(replace(BASE, depth=0.5), budget * BASE.macs)
    for other in (narrow, within, low, shallow):
        if other is not None:
            assert _lost(law, BASE, spec) <= 1.1 * _lost(law, BASE, other) + 0.01


def test_one_dimension_gives_all_until_its_next_step_is_dearer_than_anothers() -> None:
    losses: dict[Dimension, float] = {"depth": 0.06, "width": 0.05, "inner": 0.04}
    spec = propose(BASE, _law({**losses, "resolution": 0.05}), 0.5)
    assert replace(spec, inner=1.0) == BASE
    assert 0.4 < spec.inner < 0.6
    shared = propose(BASE, _law({**losses, "resolution": 0.05}, 3.0), 0.25)
    assert shared.macs > 0.22 * BASE.macs
    assert 0.4 < shared.inner < 0.65
    assert shared.width < 1 or shared.resolution < 128


def test_what_rounding_leaves_of_a_budget_is_looked_for_in_other_shapes() -> None:
    # Of 32 channels no multiple of 8 is nearly 28: as estimated, the first shape would do.
    base = NetworkSpec("resnet18d", 0.5, 1.0, 128, 10)
    law = _law(dict.fromkeys(DIMENSIONS, 0.03), 3.0)
    assert propose(base, law, 0.5).macs > 0.9 * 0.5 * base.macs


def test_blocks_are_not_emptied_beyond_what_was_tried() -> None:
    # Inner width looks the cheapest by far; but nobody has tried more than a third of it.
    lines = {name: Line(0.05, 0.7, 1.6) for name in DIMENSIONS}
    tried = cut_of(BASE, replace(BASE, inner=0.33), "inner")
    law = Law({**lines, "inner": Line(0.001, tried, tried)})
    spec = propose(BASE, law, 0.15)
    assert 0 < cut_of(BASE, spec, "inner") <= tried + 1e-9
    assert spec.macs <= 0.15 * BASE.macs


def test_every_family_but_foreign_ones_can_be_narrowed_inside() -> None:
    assert dimensions_of("resnet18") == DIMENSIONS
    assert "inner" not in dimensions_of("foreground_predictor")
    assert "inner" not in dimensions_of("module:anything:make")
    least = trial_specs(BASE, 0.01)["inner"]
    assert least.macs > 0.01 * BASE.macs  # blocks are not all there is
    assert replace(least, inner=1.0) == BASE


def test_pixels_that_save_nothing_are_not_taken() -> None:
    # 104 pixels leave maps as large as 128 do at the end of five halvings that round up, nearly.
    base = NetworkSpec("efficientnet_lite0", 0.5, 1.0, 96, 10)
    found = shapes(base, _law({"resolution": 0.1, "width": 0.1}))
    macs = [shape.spec.macs for shape in found]
    assert macs == sorted(set(macs), reverse=True)
    assert {shape.spec.depth for shape in found} == {1.0}
    # The side of 88 saves a twentieth of the MACs for a fifth of the pixels: width is cheaper.
    assert replace(base, resolution=88).macs > 0.9 * base.macs
    assert propose(base, _law({"resolution": 0.1, "width": 0.1}), 0.9).resolution == 96


def test_a_budget_of_one_is_the_base_and_tiny_ones_are_refused() -> None:
    assert propose(BASE, ALIKE, 1.0) == BASE
    for law in (ALIKE, _law({"resolution": 0.1}), _law({"width": 0.1})):
        with pytest.raises(UsageError, match="budget"):
            propose(BASE, law, 1e-6)


def test_what_the_law_says_nothing_of_stays() -> None:
    for name in DIMENSIONS:
        spec = propose(BASE, _law({name: 0.1}), 0.6)
        assert spec.macs <= 0.6 * BASE.macs
        assert [d for d in DIMENSIONS if getattr(spec, d) != getattr(BASE, d)] == [name]
        shares = exponents(shapes(BASE, _law({name: 0.1})), _law({name: 0.1}))
        assert shares[name] == pytest.approx(1)


def test_above_one_the_base_looks_closer() -> None:
    for budget, side in {1.01: 128, 1.3: 136, LARGEST_SHARE: 160}.items():
        assert propose(BASE, ALIKE, budget) == replace(BASE, resolution=side)
        assert replace(BASE, resolution=side).macs <= budget * BASE.macs
    odd = replace(BASE, resolution=100)
    assert [propose(odd, ALIKE, budget).resolution for budget in (1.0, 1.2)] == [100, 104]
    # Photos are kept as large as the largest network sees them.
    assert round(CACHE_MARGIN * BASE.resolution) == 160


def test_the_cost_may_be_measured() -> None:
    asked: list[NetworkSpec] = []

    def milliseconds(spec: NetworkSpec) -> float:
        asked.append(spec)
        return 2.0 + spec.macs / 1e8  # a fixed cost that MACs do not show

    spec = propose(BASE, ALIKE, 0.5, milliseconds)
    assert milliseconds(spec) <= 0.5 * milliseconds(BASE)
    assert len(asked) < 15


def test_milliseconds_that_follow_pixels_less_keep_pixels() -> None:
    follows: dict[Dimension, float] = {
        "depth": 1.0,
        "width": 1.0,
        "inner": 1.0,
        "resolution": 0.2,
    }
    law = _law({**dict.fromkeys(DIMENSIONS, 0.05), "resolution": 0.03}, 2.0)
    found = shapes(BASE, law)
    by_macs, by_time = exponents(found, law), exponents(found, law, follows)
    assert by_time["resolution"] < by_macs["resolution"]
    best = plans(found, law, 0.5, follows)[0]
    assert best.spec.resolution > plans(found, law, 0.5)[0].spec.resolution


def test_exponents_add_up_and_more_photos_make_them_surer() -> None:
    lost: dict[Dimension, float] = {
        "depth": 0.08,
        "width": 0.05,
        "inner": 0.09,
        "resolution": 0.06,
    }
    errors = []
    for error in (0.023, 0.0007):
        points = _points(lost, error)
        law = fit_law(points)
        found = shapes(BASE, law)
        shares = exponents(found, law)
        assert sum(shares.values()) == pytest.approx(1)
        assert max(shares, key=shares.__getitem__) == "width"
        errors.append(exponent_errors(found, points))
        assert exponent_errors(found, points) == errors[-1]
    few, many = errors
    assert sum(many.values()) < 0.5 * sum(few.values())


def test_depth_goes_block_by_block() -> None:
    found, depth = [], 1.0
    while (below := next_depth(replace(BASE, depth=depth), 1.0, -1)) is not None:
        depth = below
        found.append(replace(BASE, depth=depth).params)
    assert len(found) == 4  # eight blocks, of which each stage keeps one
    assert found == sorted(found, reverse=True)
    assert next_depth(BASE, 1.0, 1) is None
    assert next_depth(replace(BASE, depth=depth), 1.0, 1) is not None
