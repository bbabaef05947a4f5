"""What members take: measured where time is asked for, else as the job says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgecompress.compress.cascading.chooser import chooser
from edgecompress.compress.config import CompressConfig
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.shrinking.proposal import Price
from edgecompress.compress.shrinking.times import require_times, with_times
from edgecompress.compress.training.learn import Compression
from edgecompress.compress.training.workbook import Workbook
from edgecompress.errors import UsageError

MEMBERS = {
    "member25": NetworkSpec("resnet18", 0.25, 0.5, 32, 2),
    "member50": NetworkSpec("resnet18", 0.25, 1.0, 48, 2),
}
PREDICTOR = NetworkSpec("foreground_predictor", 0.5, 0.5, 32, 4)


def _one(folder: Path, **cascade: Any) -> Compression:
    settings = CompressConfig.model_validate(
        {"members": {"budgets": [0.25, 0.5]}, "cascade": cascade}
    )
    material: Any = None  # times do not depend on photos
    return Compression(settings, material, Workbook(folder))


def _price(asked: list[NetworkSpec]) -> Price:
    def cost(spec: NetworkSpec) -> float:
        asked.append(spec)
        return spec.macs / 1e6

    return Price(cost, "ms on a board")


def test_members_and_predictor_are_measured_once(tmp_path: Path) -> None:
    asked: list[NetworkSpec] = []
    for _ in range(2):
        one, done = with_times(_one(tmp_path, ms=3.0), _price(asked), MEMBERS, PREDICTOR)
    assert asked == [*MEMBERS.values(), PREDICTOR]
    table = one.settings.cascade
    assert table.costs_ms == tuple(spec.macs / 1e6 for spec in MEMBERS.values())
    assert table.predictor_ms == PREDICTOR.macs / 1e6
    assert done is not None and done.result["where"] == "ms on a board"
    wanted = chooser(table, members=2, base_macs=1000)
    assert (wanted.saved, wanted.ms) == ("ms", 3.0)


def test_a_member_that_was_left_out_keeps_its_place(tmp_path: Path) -> None:
    one, _ = with_times(_one(tmp_path), _price([]), {"member50": MEMBERS["member50"]}, None)
    first, second = one.settings.cascade.costs_ms
    assert first == second == MEMBERS["member50"].macs / 1e6
    assert one.settings.cascade.predictor_ms == 0


def test_what_the_job_says_is_kept_and_macs_measure_nothing(tmp_path: Path) -> None:
    asked: list[NetworkSpec] = []
    for price, cascade in ((_price(asked), {"costs_ms": [1.0, 2.0]}), (Price(), {})):
        one = _one(tmp_path, **cascade)
        same, done = with_times(one, price, MEMBERS, PREDICTOR)
        assert same is one
        assert done is None
    assert not asked


def test_a_budget_in_milliseconds_needs_somebody_who_measures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="30ms needs a board"):
        require_times(_one(tmp_path, ms=30), Price())
    require_times(_one(tmp_path, ms=30), _price([]))
    require_times(_one(tmp_path, ms=30, costs_ms=[1.0, 2.0]), Price())
    require_times(_one(tmp_path), Price())
