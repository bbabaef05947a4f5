"""What the report says of how a cascade was chosen."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from edgecompress.bench.cascade_section import cascade_sentences
from edgecompress.compress.cascading.cascade import Member
from edgecompress.compress.cascading.chooser import Asked, Chooser
from edgecompress.compress.cascading.crossfit import estimate, left_out, parts
from edgecompress.compress.cascading.switch import Tried, decide


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """As compression.json has it, made by the code that makes it."""
    from dataclasses import asdict

    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 60)
    members = []
    for macs, skill in ((10**6, 0.5), (4 * 10**6, 2.0)):
        logits = rng.normal(size=(60, 3))
        logits[np.arange(60), targets] += skill
        members.append(Member(macs, logits))
    asked = Asked(tuple(members), targets)
    wanted = Chooser("auto", ("learned",), (2,), macs=3e6)
    points = wanted.sweep(asked)
    made = parts(wanted, asked)
    chosen = wanted.choose(points, asked)
    told = left_out(asked, made, lambda _, part: wanted.nearest(part.points, part.fit))
    tried = Tried(asked, points, made, chosen)
    return {
        "crop": "whole",
        "switch": decide(wanted, tried, tried).to_json(),
        "variants": {
            "whole": {
                "chosen": asdict(chosen),
                "cross_fitted": asdict(estimate(told, len(made))),
            }
        },
    }


def test_the_estimate_stands_beside_what_chose(record: dict[str, Any]) -> None:
    cropping, way, numbers = cascade_sentences(record)
    assert "left out" in cropping and "p = 1" in cropping
    assert "confidence" in way
    variant = record["variants"]["whole"]
    for share in (variant["chosen"]["top1"], variant["cross_fitted"]["top1"]):
        assert f"{100 * share:.1f} %" in numbers
    assert "60 photos" in numbers and "5 parts" in numbers


@pytest.mark.parametrize("wrong", [None, "x", {"top1": 2}, {"photos": True}, {"top1": "nan"}])
def test_damaged_records_are_left_out(record: dict[str, Any], wrong: Any) -> None:
    damaged = copy.deepcopy(record)
    kept = damaged["variants"]["whole"]["cross_fitted"]
    damaged["variants"]["whole"]["cross_fitted"] = (
        {**kept, **wrong} if isinstance(wrong, dict) and "photos" not in wrong else wrong
    )
    assert len(list(cascade_sentences(damaged))) == 1
    assert list(cascade_sentences({**damaged, "switch": wrong, "variants": wrong})) == []
    assert list(cascade_sentences(None)) == []
