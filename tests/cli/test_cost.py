"""What networks cost on a job's board."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgecompress import events
from edgecompress.cli.cost import NETWORK, KeptCost, Measured, job_cost, shapes, told
from edgecompress.cli.job import Job, compress_config
from edgecompress.cli.run import Run
from edgecompress.cli.state import Workspace
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.errors import BoardError, UsageError

SMALL = NetworkSpec("resnet18", 0.125, 1.0, 32, 2)


def _run(board: str, out: Path, **compress: Any) -> Run:
    job = Job.model_validate(
        {
            "name": "priced",
            "board": board,
            "data": {"photos": "x", "train": "y"},
            "compress": compress,
            "bench": {"threads": 1, "warmup": 1},
        }
    )
    return Run(job, Workspace(out), board)


def _cost(run: Run) -> KeptCost | None:
    return job_cost(run, compress_config(run.job).resolved(run.quick))


def test_an_equal_network_is_measured_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    measured: list[NetworkSpec] = []

    def measure(spec: NetworkSpec, folder: Path) -> Measured:
        assert folder.is_dir()
        measured.append(spec)
        return Measured(7.0)

    def again() -> KeptCost:
        return KeptCost("here", {"threads": 1}, measure)

    assert again()(SMALL) == 7.0
    # The multiplier is another one, its channels are not.
    other = NetworkSpec("resnet18", 0.126, 1.0, 32, 2)
    assert shapes(other) == shapes(SMALL)
    assert again()(other) == again()(SMALL) == 7.0
    assert measured == [SMALL]
    # Another resolution, depth or condition is another network, or another cost.
    assert shapes(NetworkSpec("resnet18", 0.125, 0.5, 32, 2)) != shapes(SMALL)
    for spec, where in ((NetworkSpec("resnet18", 0.125, 1.0, 40, 2), 1), (SMALL, 2)):
        known = {path.name for path in (tmp_path / "costs").iterdir()}
        KeptCost("here", {"threads": where}, lambda *_: Measured(8.0))(spec)
        assert len({path.name for path in (tmp_path / "costs").iterdir()} - known) == 1


def _measurements(*kinds: str) -> dict[str, Any]:
    """A board's, with a doubt of each kind."""
    doubts = [{"kind": kind, "text": f"{kind} of it"} for kind in kinds]
    return {"latency_ms": {NETWORK: {"n": 30, "p50": 7.0}}, "latency": {"doubts": doubts}}


def test_a_throttled_time_is_none() -> None:
    for kinds in (["throttled"], ["throttled", "load", "few"]):
        with pytest.raises(BoardError, match=r"'pi' has no time .* throttled of it") as caught:
            told("pi", _measurements(*kinds))
        assert "what was measured is kept" in caught.value.hint
    # What is no disturbance would be the same the next time.
    assert told("pi", _measurements("governor", "spread", "few", "short")) == Measured(7.0)
    assert told("pi", _measurements("clock", "load", "governor")).doubt == "clock of it; load of it"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        *(
            ({"latency_ms": {NETWORK: {"n": 30, "p50": p50}}}, "a photo takes")
            for p50 in (0, -7.0, float("nan"), float("inf"), 1e9, 10**400, "7", None, [7.0])
        ),
        ({"latency_ms": {NETWORK: {"n": 30}}}, "p50"),
        ({"latency_ms": {NETWORK: {"p50": 7.0}}}, "'n'"),
        ({"latency_ms": {NETWORK: [7.0]}}, "list"),
        ({"latency_ms": 7.0}, "float"),
        ({"latency": None}, "NoneType"),
        ({"latency": {}}, "doubts"),
        ({"latency": {"doubts": [{"kind": "load"}]}}, "text"),
        ({"latency": {"doubts": 7}}, "int"),
    ],
)
def test_a_time_that_cannot_be_is_none(change: dict[str, Any], cause: str) -> None:
    with pytest.raises(BoardError, match="what 'pi' measured makes no sense") as caught:
        told("pi", _measurements("load") | change)
    assert cause in caught.value.message
    assert caught.value.hint == "check the board: edgecompress doctor --board pi"


def test_a_network_that_was_not_timed_has_no_time() -> None:
    for times in ({}, {NETWORK: {"n": 0, "p50": None}}):
        with pytest.raises(BoardError, match="'pi' did not time the network"):
            told("pi", _measurements() | {"latency_ms": times})


def test_a_disturbed_time_holds_for_one_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    times = iter([Measured(9.0, "others had half of it"), Measured(7.0)])
    heard: list[str] = []

    def again() -> KeptCost:
        return KeptCost("here", {"threads": 1}, lambda *_: next(times))

    first = again()
    with events.listening(lambda event: heard.append(event.text)):
        assert first(SMALL) == first(SMALL) == 9.0
    assert sum("others had half of it; 9 ms holds for this run" in text for text in heard) == 1
    assert not list(tmp_path.rglob("*.json"))
    assert again()(SMALL) == again()(SMALL) == 7.0


def test_a_board_without_times_is_refused_and_macs_need_none(tmp_path: Path) -> None:
    assert _cost(_run("virtual-pi4", tmp_path)) is None
    asking = (
        {"members": {"budgets": ["40ms"]}},
        {"shrink": {"cost": "ms"}},
        {"cascade": {"ms": 30}},
    )
    for table in asking:
        with pytest.raises(UsageError, match="emulated") as caught:
            _cost(_run("virtual-pi4", tmp_path, **table))
        assert "MACs" in caught.value.hint
        assert "cycles" in caught.value.hint
    given = {"ms": 30, "costs_ms": [10, 20, 30]}
    assert _cost(_run("virtual-pi4", tmp_path, cascade=given)) is None
    with pytest.raises(UsageError, match="cycles cannot be estimated for host"):
        _cost(_run("host", tmp_path, shrink={"cost": "cycles"}))


@pytest.mark.slow
def test_more_computation_takes_longer_on_the_host(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    cost = _cost(_run("host", tmp_path / "out", members={"budgets": ["40ms"]}))
    assert cost is not None
    small, large = (cost(NetworkSpec("resnet18", 0.25, 1.0, side, 2)) for side in (32, 160))
    assert 0 < small < large
    bundles = list(tmp_path.rglob("bundles/*"))
    assert not bundles
