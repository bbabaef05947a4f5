"""Budgets as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgecompress.compress.budget import Budget, is_budget, member_names, parse_budget
from edgecompress.compress.config import MembersTable
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.shrinking.proposal import MACS, Price, count_macs
from edgecompress.errors import UsageError


@pytest.mark.parametrize(
    ("written", "kind", "value"),
    [
        (0.5, "share", 0.5),
        (1, "share", 1.0),
        ("0.5x", "share", 0.5),
        (" .25 X ", "share", 0.25),
        ("30%", "share", 0.3),
        ("1.5x", "share", 1.5),
        ("900MACs", "MACs", 900),
        ("12 kmacs", "MACs", 12e3),
        ("300MMACs", "MACs", 300e6),
        ("1.2GMACs", "MACs", 1.2e9),
        ("40ms", "ms", 40),
        ("1.5s", "ms", 1500),
    ],
)
def test_what_people_write(written: object, kind: str, value: float) -> None:
    budget = parse_budget(written)
    assert (budget.kind, budget.value) == (kind, pytest.approx(value))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("soon", "not a budget"),
        ("", "not a budget"),
        ("40 parsecs", "no unit 'parsecs'"),
        ("1.2G", "no unit 'G'"),
        ("1.2.3ms", "no number"),
        ("0x", "above 0"),
        ("-1ms", "not a budget"),
        ("1e999ms", "above 0"),
        ("1.57x", "at most 1.5625"),
        (2, "at most 1.5625"),
        (True, "not a budget"),
        (None, "not a budget"),
    ],
)
def test_what_is_refused_says_how_to_write_it(written: object, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse_budget(written)
    assert "GMACs" in caught.value.hint


@given(
    st.sampled_from(["share", "MACs", "ms"]),
    st.floats(1e-6, 1, exclude_min=True),
    st.sampled_from([1.0, 1e3, 1e7, 1e12]),
)
def test_what_is_shown_is_read_back(kind, number: float, factor: float) -> None:
    budget = Budget(number if kind == "share" else number * factor, kind)
    again = parse_budget(str(budget))
    assert again.kind == kind
    assert again.value == pytest.approx(budget.value, rel=1e-11)
    assert parse_budget(again.to_json()) == again


def test_times_to_tune_for_are_told_apart() -> None:
    assert [is_budget(one) for one in ("0.5x", "1GMACs", "40ms", "50%")] == [True] * 4
    assert [is_budget(one) for one in ("10m", "90s", "2h", "90", "soon")] == [False] * 5


def test_members_have_names_that_differ() -> None:
    budgets = tuple(map(parse_budget, (0.25, 0.251, 1, "300MMACs", "1.2GMACs", "12.5ms")))
    names = member_names(budgets)
    assert names == [
        "member25",
        "member25-2",
        "member100",
        "member300M",
        "member1.2G",
        "member12.5ms",
    ]


def test_a_table_of_budgets() -> None:
    table = MembersTable.model_validate({"budgets": ["0.25x", 0.5, "0.3GMACs", "40ms", "1s"]})
    assert table.budgets == (0.25, 0.5, "300MMACs", "40ms", "1000ms")
    assert MembersTable.model_validate(table.model_dump(mode="json")) == table
    # Of different kinds nobody knows yet which is more.
    assert MembersTable.model_validate({"budgets": ["40ms", 0.25]})
    for wrong in ([], ["0.5x", 0.5], ["1GMACs", "1MMACs"], ["40 parsecs"], [1.6]):
        with pytest.raises(ValidationError, match="budget"):
            MembersTable.model_validate({"budgets": wrong})


def test_each_budget_is_held_against_what_it_limits() -> None:
    spec = NetworkSpec("resnet18", 0.125, 1.0, 32, 2)
    share, macs, ms = map(parse_budget, ("0.5x", "1GMACs", "40ms"))
    assert Price().of(share) == Price().of(macs) == (count_macs, MACS)
    assert count_macs(spec) == spec.macs
    with pytest.raises(UsageError, match="40ms needs a board"):
        Price().of(ms)

    def milliseconds(spec: NetworkSpec) -> float:
        return spec.macs / 1e6

    measured = Price(milliseconds, "ms on pi")
    assert measured.of(share) == measured.of(ms) == (milliseconds, "ms on pi")
    assert measured.of(macs) == (count_macs, MACS)
    with pytest.raises(UsageError, match="cannot be held against"):
        Price(milliseconds, "cycles").of(ms)
