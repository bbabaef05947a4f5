"""Choices measured on photos that they did not see, and the switch that depends on it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgecompress.compress.cascading.cascade import Member, OperatingPoint, chances_at, frontier
from edgecompress.compress.cascading.chooser import Asked, Chooser, chooser
from edgecompress.compress.cascading.crossfit import estimate, left_out, mcnemar, paired, parts
from edgecompress.compress.cascading.switch import Decision, Tried, decide
from edgecompress.compress.config import CascadeTable, CompressConfig
from edgecompress.errors import UsageError

CLASSES = 5
ALL = Chooser("auto", (1.6, "learned"), (1, 2, 3))


def _asked(seed: int, n: int = 150, more: float = 0.0, fixed: int = 0) -> Asked:
    """Three members of growing cost and skill on photos that are easy or hard for all of them."""
    rng = np.random.default_rng(seed)
    targets, ease = rng.integers(0, CLASSES, n), rng.gamma(2, 0.5, n)
    members = []
    for macs, skill in ((100, 1.0), (400, 2.0), (1000, 3.0)):
        logits = rng.normal(size=(n, CLASSES)).astype(np.float32)
        logits[np.arange(n), targets] += (skill + more) * ease
        members.append(Member(macs, logits, ms=macs / 50 + 1))
    return Asked(tuple(members), targets, fixed, fixed / 50)


def test_every_way_and_selection_is_tried_and_what_is_told_holds() -> None:
    asked = _asked(0)
    points = ALL.sweep(asked)
    assert {point.members for point in points} == {
        (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2),
    }  # fmt: skip
    assert {point.criterion for point in points} == {"margin", "max_softmax"}
    curve = frontier(points)
    for point in [*curve, *points[::40]]:
        assert asked.apply(point) == point
    # All of the members together are one selection of them.
    alone = replace(ALL, sizes=None).sweep(asked)
    assert {point.members for point in alone} == {None}
    assert curve[-1].top1 >= frontier(alone)[-1].top1


def test_what_is_left_out_may_be_better_or_cheaper() -> None:
    asked = _asked(1)
    bad = Member(150, np.zeros_like(asked.members[0].logits))
    first, *rest = asked.members
    with_bad = replace(asked, members=(first, bad, *rest[1:]))
    chosen = ALL.choose(ALL.sweep(with_bad), with_bad)
    assert chosen.members is not None and 1 not in chosen.members


@pytest.mark.parametrize("seed", range(3))
def test_a_budget_is_used_up_and_not_overdrawn(seed: int) -> None:
    asked = _asked(seed, fixed=7)
    for limit in (150.0, 400.0, 900.0):
        wanted = replace(ALL, macs=limit)
        point = wanted.choose(wanted.sweep(asked), asked)
        told = asked.answers(point)
        assert point.mean_macs == pytest.approx(told.macs.mean())
        assert point.mean_macs <= limit
        # Within a cost the likeliest is wanted, and not what chance has made the most accurate.
        chance = chances_at(asked.members, asked.targets, point).mean()
        others = [one for one in wanted.sweep(asked) if one.mean_macs <= limit]
        for one in others[:: max(1, len(others) // 100)]:
            assert chance >= chances_at(asked.members, asked.targets, one).mean() - 1e-6
    with pytest.raises(UsageError, match="the cheapest takes"):
        replace(ALL, macs=50.0).choose(ALL.sweep(asked), asked)


def test_a_budget_with_something_to_spare_holds_on_other_photos() -> None:
    # Chosen on 60 photos, it is overdrawn on others half of the time: not so with a standard error
    # left of it.
    limit, overdrawn, chosen = 400.0, {0.0: 0, 1.0: 0}, []
    for seed in range(24):
        both = _asked(200 + seed, n=3060)
        asked, fresh = both.take(np.arange(60)), both.take(np.arange(60, 3060))
        for spare in overdrawn:
            wanted = replace(ALL, macs=limit, spare=spare, criterion="margin", alphas=("learned",))
            points = wanted.sweep(asked)
            point = wanted.choose(points, asked)
            overdrawn[spare] += fresh.apply(point).mean_macs > limit
            if spare:
                chosen.append(point)
                assert point in wanted.best_of_each_way(points, asked)
                assert point in wanted.best_of_each_selection(points, asked)
    assert overdrawn[1.0] < 0.6 * overdrawn[0.0]
    # No more is left than that: the budget is there to be used.
    assert np.mean([point.mean_macs for point in chosen]) > 0.8 * limit


@pytest.mark.parametrize("macs", [None, 350.0])
def test_the_best_of_each_way_are_chosen_as_the_best_of_all_is(macs: float | None) -> None:
    asked = _asked(3)
    wanted = replace(ALL, macs=macs)
    points = wanted.sweep(asked)
    chosen = wanted.choose(points, asked)
    ways = wanted.best_of_each_way(points, asked)
    selections = wanted.best_of_each_selection(points, asked)
    assert len(ways) == 2 * 3
    assert len({point.members for point in selections}) == len(selections)
    if macs is not None:
        assert chosen in ways and chosen in selections
        assert all(point.mean_macs <= macs for point in [*ways, *selections])
        assert len(selections) == 4  # the others cost more, whoever answers
    else:
        assert len(selections) == 7
        assert chosen.top1 >= max(point.top1 for point in ways) - ALL.slack


def test_milliseconds_are_budgeted_as_they_were_measured() -> None:
    asked = _asked(2, fixed=50)
    # On this board the middle member is slow: the others are better within the same time.
    slow = replace(asked.members[1], ms=100.0)
    asked = replace(asked, members=(asked.members[0], slow, asked.members[2]))
    wanted = replace(ALL, ms=15.0)
    point = wanted.choose(wanted.sweep(asked), asked)
    told = asked.answers(point)
    assert told.ms is not None and point.mean_ms is not None
    assert point.mean_ms == pytest.approx(told.ms.mean())
    assert point.mean_ms <= 15 and told.ms.min() >= 1 + 3
    assert point.members is not None and 1 not in point.members
    with pytest.raises(UsageError, match=r"ms a photo: the cheapest takes 4 ms"):
        replace(ALL, ms=1.0).choose(wanted.sweep(asked), asked)
    unknown = replace(asked, members=tuple(replace(one, ms=None) for one in asked.members))
    with pytest.raises(UsageError, match="milliseconds"):
        wanted.sweep(unknown)


def test_a_part_is_not_seen_by_what_is_chosen_for_it() -> None:
    asked = _asked(3, n=40)
    wanted = replace(ALL, macs=300.0, criterion="margin", alphas=("learned",))
    made = parts(wanted, asked)
    places = np.concatenate([part.left_out for part in made])
    assert sorted(places) == list(range(40)) and len(made) == 5
    for part in made[:2]:
        wrong = asked.targets.copy()
        wrong[part.left_out] = (wrong[part.left_out] + 1) % CLASSES
        again = parts(wanted, replace(asked, targets=wrong))
        same = next(one for one in again if (one.left_out == part.left_out).all())
        assert same.points == part.points
    told = left_out(asked, made, lambda _, part: wanted.nearest(part.points, part.fit))
    for part in made:
        own = asked.answers(wanted.nearest(part.points, part.fit))
        assert (told.right[part.left_out] == own.right[part.left_out]).all()
        assert (told.macs[part.left_out] == own.macs[part.left_out]).all()
    assert parts(wanted, asked.take(np.array([0]))) == []


def test_cross_fitting_takes_the_flattery_out() -> None:
    flattery, honest = [], []
    wanted = replace(ALL, macs=500.0, alphas=(0.5, 1.6, "learned"))
    for seed in range(8):
        both = _asked(100 + seed, n=3040)
        asked, fresh = both.take(np.arange(40)), both.take(np.arange(40, 3040))
        chosen = wanted.choose(wanted.sweep(asked), asked)
        truth = fresh.apply(chosen).top1
        made = parts(wanted, asked)
        told = left_out(asked, made, lambda _, part: wanted.nearest(part.points, part.fit))
        flattery.append(chosen.top1 - truth)
        honest.append(estimate(told, len(made)).top1 - truth)
    assert np.mean(flattery) > 0.02
    assert abs(np.mean(honest)) < np.mean(flattery)
    assert abs(np.mean(honest)) < 3 * np.std(honest) / math.sqrt(len(honest))


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(lost: int, gained: int) -> None:
    n = lost + gained
    tail = sum(math.comb(n, k) for k in range(min(lost, gained) + 1))
    assert mcnemar(lost, gained) == pytest.approx(min(1.0, 2 * tail / 2**n))


def test_mcnemar_of_many_pairs() -> None:
    """As the normal distribution has it, with the correction for whole counts."""
    lost, gained = 9_850, 10_150
    z = (gained - lost - 1) / math.sqrt(lost + gained)
    assert mcnemar(lost, gained) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)


def test_pairs_are_counted() -> None:
    asked = _asked(4)
    points = [point for point in ALL.sweep(asked) if point.members in {(0,), (2,)}]
    cheap, dear = (asked.answers(point) for point in points)
    test = paired(cheap, dear)
    assert test.cost == 900 and test.cost_error == 0 and test.first_cost == 100
    change = dear.right.astype(float) - cheap.right
    assert test.top1 == pytest.approx(change.mean())
    assert test.top1_error == pytest.approx(change.std() / math.sqrt(len(change)))
    assert test.gained - test.lost == round(test.top1 * len(change))


def _decide(whole: Asked, crop: Asked, **wish: float) -> Decision:
    wanted = replace(ALL, criterion="margin", alphas=(1.6,), **wish)

    def tried(asked: Asked) -> Tried:
        points = wanted.sweep(asked)
        chosen: OperatingPoint | None
        try:
            chosen = wanted.choose(points, asked)
        except UsageError:
            chosen = None
        return Tried(asked, points, parts(wanted, asked), chosen)

    return decide(wanted, tried(whole), tried(crop))


def test_crops_that_gain_nothing_are_left_out() -> None:
    whole = _asked(5)
    found = _decide(whole, replace(whole, fixed=40), macs=400.0)
    assert not found.second and "standard error" in found.why
    assert found.tests["same_cost"].p > 0.05
    # Noise of its own, no more skill: beyond noise it is not better.
    assert not _decide(whole, _asked(5, fixed=40, more=-0.2), macs=400.0).second


def test_crops_that_name_more_photos_are_kept() -> None:
    whole = _asked(6)
    found = _decide(whole, _asked(6, more=1.5, fixed=20), macs=300.0)
    assert found.second and found.tests["same_cost"].p < 0.05
    assert found.point.mean_macs <= 300
    assert found.to_json()["tests"]["same_cost"]["gained"] > 0


def test_crops_that_save_at_equal_accuracy_are_kept() -> None:
    whole = _asked(7)
    cheap = tuple(replace(one, macs=one.macs // 2) for one in whole.members)
    found = _decide(whole, replace(whole, members=cheap, fixed=10), top1=0.6)
    assert found.second and "less cost" in found.why
    assert found.tests["same_top1"].cost < 0


def test_a_way_that_cannot_be_had_is_not_kept() -> None:
    whole, crop = _asked(8), _asked(8, fixed=500)
    assert not _decide(whole, crop, macs=200.0).second
    assert _decide(crop, whole, macs=200.0).second
    with pytest.raises(UsageError, match="with crops or without"):
        _decide(crop, crop, macs=200.0)


def test_the_table_says_what_is_wanted() -> None:
    table = CascadeTable(costs_ms=(1.0, 3.0, 9.0), ms=5.0, criterion="auto", alphas=(1, "learned"))
    wanted = chooser(table, members=3, base_macs=1000)
    assert (wanted.saved, wanted.ms, wanted.sizes) == ("ms", 5.0, (1, 2, 3))
    share = chooser(CascadeTable(macs=0.5, subsets=False), members=3, base_macs=1000)
    assert (share.saved, share.macs, share.sizes) == ("macs", 500.0, (3,))
    for wrong in ({"ms": 0}, {"macs": 0.5, "top1": 0.9}, {"alphas": ["taught"]}):
        with pytest.raises(ValidationError):
            CascadeTable.model_validate(wrong)
    with pytest.raises(ValidationError, match="costs_ms: 2 for 3 members"):
        CompressConfig.model_validate({"cascade": {"costs_ms": [1, 2]}})
