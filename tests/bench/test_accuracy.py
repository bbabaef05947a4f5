"""What predictions are worth, against known values and against the cascade itself."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.bench.accuracy import (
    Z95,
    Answer,
    agreement,
    hits,
    macs_up_to,
    match,
    mean_macs,
    top_share,
    trade_off,
    wilson,
)
from edgecompress.compress.data.photos import PhotoSet
from edgecompress.runner.cascade import Outcome
from edgecompress.runner.records import Record

COUNTS = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def outcome(*classes: int, stage: int = 0, logits: Any = (0.0, 1.0), **fields: Any) -> Outcome:
    """An answer whose most probable classes are `classes`."""
    return Outcome(
        logits=np.asarray(logits, np.float32),
        top5=tuple((one, 0.1) for one in classes),
        box=(0, 0, 1, 1),
        predicted=None,
        size=None,
        stage=stage,
        confidences=fields.get("confidences", (0.5,)),
        stage_top1=fields.get("stage_top1", (classes[0],)),
        timings_ms={"total": 1.0},
    )


def answers(*pairs: tuple[int, Outcome | None]) -> list[Answer]:
    return [
        Answer(Path(f"{index}.jpg"), str(index), target, Record(str(index), said, "no photo"))
        for index, (target, said) in enumerate(pairs)
    ]


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # n / (n + z²) and its mirror image at the ends, the quadratic's roots between them.
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (1, 1, 0.2065493, 1.0),
        (50, 100, 0.4038315, 0.5961685),
    ],
)
def test_wilson_by_the_book(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=1e-6)


@given(COUNTS)
def test_wilson_holds_the_share_inside_0_and_1(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1
    assert low < high


@given(COUNTS)
def test_wilson_is_the_score_test_turned_round(counts: tuple[int, int]) -> None:
    """At each end the share is just z standard errors away, the error taken at that end."""
    right, n = counts
    for end in wilson(right, n):
        error = math.sqrt(end * (1 - end) / n)
        assert abs(right / n - end) == pytest.approx(Z95 * error, rel=1e-4, abs=1e-6)


@given(COUNTS, st.integers(2, 50))
def test_wilson_narrows_with_n(counts: tuple[int, int], times: int) -> None:
    right, n = counts
    low, high = wilson(right, n)
    closer, still = wilson(right * times, n * times)
    assert still - closer < high - low


def test_top_share_counts_answered_photos_only() -> None:
    five = outcome(3, 1, 4, 2, 5)
    said = answers((3, five), (4, five), (9, five), (3, None))
    first, any_of_five = top_share(said, 1), top_share(said, 5)
    assert first is not None and any_of_five is not None
    assert (first.value, first.n) == (1 / 3, 3)
    assert (first.low, first.high) == wilson(1, 3)
    assert any_of_five.value == 2 / 3
    assert top_share(answers((3, None)), 1) is None
    assert top_share([], 5) is None


def test_hits_are_filed_by_stage() -> None:
    said = answers((0, outcome(0, stage=1)), (1, None), (2, outcome(2)), (3, outcome(3, stage=1)))
    first, second, third = hits(said, 3)
    assert [one.target for one in first] == [2]
    assert [one.target for one in second] == [0, 3]
    assert third == []


def test_macs_are_of_all_members_that_ran(direct: Any) -> None:
    assert macs_up_to(direct.cascade) == [1728 + 3072, 1728 + 3072 + 6912]
    bare = dataclasses.replace(direct.cascade, predictor=None)
    assert macs_up_to(bare) == [3072, 3072 + 6912]
    said = answers((0, outcome(0)), (0, outcome(0)), (0, outcome(0, stage=1)), (0, None))
    assert mean_macs(bare, said) == pytest.approx(3072 + 6912 / 3)
    assert mean_macs(bare, answers((0, None))) is None


def test_agreement_by_hand() -> None:
    one = {
        "same": outcome(1, logits=(0.0, 1.0)),
        "near": outcome(1, logits=(0.0, 1.5)),
        "later": outcome(1, logits=(0.0, 90.0)),
        "other": outcome(2, logits=(5.0, 1.0)),
        "failed": None,
        "alone": outcome(1),
    }
    two = {
        "same": outcome(1, logits=(0.0, 1.0)),
        "near": outcome(1, logits=(0.0, 1.25)),
        # Logits of different stages are sums of different networks: they do not compare.
        "later": outcome(1, logits=(0.0, 1.0), stage=1),
        "other": outcome(3, logits=(5.0, 1.125)),
        "failed": outcome(1),
    }
    left = {key: Record(key, said, "no photo") for key, said in one.items()}
    right = {key: Record(key, said) for key, said in two.items()}
    for found in (agreement(left, right), agreement(right, left)):
        assert found is not None
        assert (found.n, found.top1, found.same_stage) == (4, 0.75, 0.75)
        assert found.max_logit_difference == 0.25
    assert agreement({"alone": left["alone"]}, right) is None
    stages = agreement({"later": left["later"]}, right)
    assert stages is not None and stages.max_logit_difference is None


def test_match_keeps_the_sets_order_and_its_failures(photos: PhotoSet, board_run: Any) -> None:
    matched = match(photos, board_run.records)
    assert [answer.path for answer in matched] == list(photos.paths)
    assert [answer.outcome is None for answer in matched] == [False] * 8 + [True] * 2
    assert matched[-1].record is not None, "a missing file has a record too"
    assert all(answer.record is None for answer in match(photos, {}))


def test_trade_off_is_the_cascade_at_each_threshold(direct: Any, photos: PhotoSet) -> None:
    answered = [one for one in match(photos, direct.records) if one.outcome]
    points = trade_off(direct.cascade, answered)
    assert len(points) > 5
    first, last = direct.cascade.stages
    for point in points:
        stages = (dataclasses.replace(first, threshold=point.threshold), last)
        cascade = dataclasses.replace(direct.cascade, stages=stages)
        said = [(one.target, direct.ask(cascade, one.path)) for one in answered]
        assert point.top1 == sum(o.top5[0][0] == target for target, o in said) / len(said)
        at = [o.stage for _, o in said]
        assert point.hit_rates == (at.count(0) / len(at), at.count(1) / len(at))
        again = answers(*said)
        assert point.mean_macs == pytest.approx(mean_macs(direct.cascade, again))


def test_trade_off_is_monotone_from_all_to_none(direct: Any, photos: PhotoSet) -> None:
    points = trade_off(direct.cascade, match(photos, direct.records))
    early = [point.hit_rates[0] for point in points]
    costs = [point.mean_macs for point in points]
    thresholds = [point.threshold for point in points]
    assert (early[0], early[-1]) == (1.0, 0.0)
    assert early == sorted(early, reverse=True)
    assert costs == sorted(costs)
    assert thresholds == sorted(set(thresholds))
    assert all(sum(point.hit_rates) == pytest.approx(1) for point in points)


def test_trade_off_where_a_member_is_wholly_sure(direct: Any) -> None:
    """A confidence may round to 1: the threshold that it fails lies above."""
    sure = outcome(1, confidences=(1.0, 1.0), stage_top1=(1, 2))
    points = trade_off(direct.cascade, answers((1, sure), (1, sure)))
    assert [(one.threshold > 1, one.hit_rates[0]) for one in points] == [
        (False, 1.0),
        (False, 1.0),
        (True, 0.0),
    ]


def test_trade_off_ends_where_the_records_do(direct: Any, photos: PhotoSet, board_run: Any) -> None:
    """The board stops at the member that answers: higher thresholds cannot be told from that."""
    points = trade_off(direct.cascade, match(photos, board_run.records))
    whole = trade_off(direct.cascade, match(photos, direct.records))
    unsure = [o.confidences[0] for o in _outcomes(board_run.records) if o.stage == 0]
    assert points[0].hit_rates == whole[0].hit_rates == (1.0, 0.0)
    assert points[0].top1 == whole[0].top1
    assert 0 < points[-1].threshold <= min(unsure)
    assert points[-1].hit_rates[0] < 1


def test_no_trade_off_of_one_stage_or_no_answer(direct: Any) -> None:
    alone = dataclasses.replace(direct.cascade, stages=direct.cascade.stages[1:])
    assert trade_off(alone, answers((1, outcome(1)))) == []
    assert trade_off(direct.cascade, answers((1, None))) == []


def _outcomes(records: dict[str, Record]) -> list[Outcome]:
    return [record.outcome for record in records.values() if record.outcome]
