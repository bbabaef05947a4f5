"""Solved thresholds against all thresholds tried one by one; alpha against what it must be."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.compress.cascading.thresholds import (
    NONE,
    Judged,
    Solved,
    candidates,
    descend,
    likeliest,
    solve,
)
from edgecompress.compress.likelihood import fit_alpha, fit_temperature
from edgecompress.runner.cascade import softmax


def _judged(seed: int, stages: int, n: int, levels: int) -> Judged:
    """Confidences of few different values: ties are what goes wrong."""
    rng = np.random.default_rng(seed)
    sure = rng.integers(0, levels + 1, (stages - 1, n)) / levels
    right = rng.random((stages, n)) < np.linspace(0.4, 0.8, stages)[:, None]
    return Judged(sure, right, np.cumsum(rng.integers(1, 50, stages)).astype(float))


def _one_by_one(judged: Judged) -> list[tuple[int, float]]:
    """Photos named rightly and cost of every combination of thresholds, in plain loops."""
    found = []
    lines = [[0.0, *sorted(set(row.tolist())), NONE] for row in judged.sure]
    for thresholds in itertools.product(*lines):
        right, cost = 0, 0.0
        for photo in range(judged.right.shape[1]):
            stage = next(
                (k for k, t in enumerate(thresholds) if judged.sure[k, photo] >= t),
                len(thresholds),
            )
            right += bool(judged.right[stage, photo])
            cost += judged.cost[stage]
        found.append((right, cost))
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 9), st.integers(1, 5))
def test_no_combination_is_better_than_the_solved_ones(
    seed: int, stages: int, n: int, levels: int
) -> None:
    judged = _judged(seed, stages, n, levels)
    tried = _one_by_one(judged)
    front = {
        (right, cost)
        for right, cost in tried
        if not any((r > right and c <= cost) or (r >= right and c < cost) for r, c in tried)
    }
    solved = solve(judged)
    assert {(one.right, one.cost) for one in solved} == front
    assert [one.cost for one in solved] == sorted(one.cost for one in solved)
    for one in solved:
        stage = judged.stage(one.thresholds)
        assert one.hits == tuple(np.bincount(stage, minlength=stages))
        assert one.right == judged.right[stage, np.arange(n)].sum()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 9), st.integers(1, 5), st.floats(0, 2)
)
def test_no_thresholds_within_a_cost_are_likelier(
    seed: int, stages: int, n: int, levels: int, share: float
) -> None:
    chance = np.random.default_rng(seed).random((stages, n))
    judged = replace(_judged(seed, stages, n, levels), chance=chance)
    limit = share * n * float(judged.cost.mean())
    tried = []
    for thresholds in itertools.product(*([0.0, *set(row.tolist()), NONE] for row in judged.sure)):
        stage = judged.stage(thresholds)
        tried.append((chance[stage, np.arange(n)].sum(), judged.cost[stage].sum()))
    allowed = [total for total, cost in tried if cost <= limit]
    found = likeliest(judged, limit)
    if found is None:
        assert not allowed
        return
    total, solved = found
    stage = judged.stage(solved.thresholds)
    assert total == pytest.approx(max(allowed))
    assert total == pytest.approx(chance[stage, np.arange(n)].sum())
    assert solved.cost == pytest.approx(judged.cost[stage].sum())
    assert solved.cost <= limit
    assert solved.right == judged.right[stage, np.arange(n)].sum()
    assert solved.hits == tuple(np.bincount(stage, minlength=stages))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(1, 3))
def test_descending_reaches_a_place_that_no_single_threshold_betters(
    seed: int, stages: int, coarse: int
) -> None:
    judged = _judged(seed, stages, 40, 30)
    for start in solve(judged, cells=3 ** (stages - 1))[:: coarse + 1]:
        found = descend(judged, start, start.right)
        stage = judged.stage(found.thresholds)
        assert found.right == judged.right[stage, np.arange(40)].sum()
        assert found.cost == pytest.approx(judged.cost[stage].sum())
        assert found.right >= start.right
        assert found.cost <= start.cost
        for place in range(stages - 1):
            for one in candidates(judged.sure[place], 1000):
                moved = list(found.thresholds)
                moved[place] = one
                other = judged.stage(moved)
                right, cost = judged.right[other, np.arange(40)].sum(), judged.cost[other].sum()
                assert right < start.right or cost >= found.cost - 1e-9


def test_a_coarse_choice_is_made_good_by_descending() -> None:
    judged = _judged(3, 3, 300, 1000)
    exact = solve(judged, cells=400**2)
    rough = solve(judged, cells=36)[-1]
    best = min(one.cost for one in exact if one.right >= rough.right)
    found = descend(judged, rough, rough.right)
    assert best <= found.cost < rough.cost
    assert isinstance(found, Solved)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(3, 50))
def test_thresholds_part_all_confidences(values: list[float], most: int) -> None:
    sure = np.array(values)
    tried = candidates(sure, most)
    assert len(tried) <= most and (np.diff(tried) > 0).all()
    through = [int((sure >= one).sum()) for one in tried]
    assert through[0] == len(sure) and through[-1] == 0
    if len(set(values)) + 2 <= most:
        wanted = {int((sure >= one).sum()) for one in [*values, NONE]}
        assert set(through) == wanted


def _evidence(skills: tuple[float, ...], n: int, seed: int = 0) -> tuple[list, np.ndarray]:
    """Independent views of a class: noise of one, and a class that stands out by a skill.

    The class's likelihood is that of the sum of `skill * view`: there lies the best weight.
    """
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 5, n)
    views = []
    for skill in skills:
        view = rng.normal(size=(n, 5))
        view[np.arange(n), targets] += skill
        views.append(view)
    return views, targets


@pytest.mark.parametrize(("first", "second"), [(1.0, 1.0), (1.0, 2.0), (1.5, 0.75)])
def test_the_learned_alpha_is_the_one_of_independent_evidence(first: float, second: float) -> None:
    views, targets = _evidence((first, second), 20_000)
    assert fit_alpha(views, targets) == pytest.approx(second / first, rel=0.06)
    # A member whose logits are scaled is weighted by the inverse.
    assert fit_alpha([views[0], 4 * views[1]], targets) == pytest.approx(
        second / first / 4, rel=0.06
    )


def test_the_learned_alpha_has_the_largest_likelihood_of_all() -> None:
    views, targets = _evidence((1.0, 1.3, 2.0), 400)

    def loss(alpha: float) -> float:
        total, running = 0.0, views[0]
        for view in views[1:]:
            running = running + alpha * view
            chances = softmax(running / fit_temperature(running, targets))
            total -= np.log(chances[np.arange(len(targets)), targets]).mean()
        return total

    best = loss(fit_alpha(views, targets))
    assert all(best <= loss(math.exp(one)) + 1e-6 for one in np.linspace(-2.9, 2.9, 60))
