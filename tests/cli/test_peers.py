"""The step that compares a job's networks with other engines: each once, whatever goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgecompress.bench import peers as peers_room
from edgecompress.bench.peers import Comparison, Row
from edgecompress.bench.peers.engines import PEERS
from edgecompress.bench.schema import Peers
from edgecompress.cli import peers as step
from edgecompress.cli import steps
from edgecompress.cli.job import Job
from edgecompress.cli.run import Run
from edgecompress.cli.state import Workspace
from edgecompress.errors import CompileError
from edgecompress.targets import BoardEntry
from edgecompress.targets.inventory import add


class Engines:
    """Stands in for `compare`, which has tests of its own; counts and may fail."""

    def __init__(self) -> None:
        self.compared: list[str] = []
        self.threads: list[int] = []
        self.fails: BaseException | None = None

    def compare(self, onnx: Path, board: Any, threads: list[int], *_: Any, **__: Any) -> Comparison:
        if self.fails is not None and onnx.stem == "b":
            raise self.fails
        self.compared.append(onnx.stem)
        self.threads += threads
        rows = (Row("edgecompress", "EdgeCompress", threads[0], 1.0, (0.5, 0.4, 0.6)),)
        return Comparison(onnx.stem, board.name, 1000, 1.0, rows)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    found = Engines()
    monkeypatch.setattr(peers_room, "compare", found.compare)
    return found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A job with two networks that asks for the comparison."""
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path / "config"))
    job = Job.model_validate(
        {
            "name": "j",
            "board": "host",
            "data": {"photos": "p"},
            "pretrained": {},
            "bench": {"peers": True, "threads": 1},
        }
    )
    run = Run(job, Workspace(tmp_path / "out"), "host")
    run.cascade.mkdir(parents=True)
    for name in "ab":
        (run.cascade / f"{name}.onnx").write_text(name)
    return run


def told(run: Run) -> Peers:
    return Peers(**json.loads(run.peers.read_text()))


def test_each_network_once(run: Run, engines: Engines) -> None:
    steps.peers(run)
    steps.peers(run)
    assert engines.compared == ["a", "b"]
    assert engines.threads == [1, 1]
    assert [network.network for network in told(run).networks] == ["a", "b"]
    assert told(run).measured == "time"
    # Only what changed is compared again.
    (run.cascade / "b.onnx").write_text("other")
    steps.peers(run)
    assert engines.compared == ["a", "b", "b"]


def test_cut_off_it_goes_on_with_the_next(run: Run, engines: Engines) -> None:
    engines.fails = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        steps.peers(run)
    assert not run.peers.exists()
    engines.fails = None
    steps.peers(run)
    assert engines.compared == ["a", "b"]


def test_what_fails_is_a_row(run: Run, engines: Engines) -> None:
    engines.fails = CompileError("no such operator")
    steps.peers(run)
    rows = told(run).networks[1].rows
    assert [(row.engine, row.reason) for row in rows] == [("edgecompress", "no such operator")]


def test_an_engine_that_is_installed_later_takes_part(
    run: Run, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.peers(run)
    monkeypatch.setattr(step, "installed", lambda: {"ncnn": "9.9"})
    steps.peers(run)
    assert engines.compared == ["a", "b", "a", "b"]


def test_over_ssh_nothing_is_measured(run: Run, engines: Engines) -> None:
    from dataclasses import replace

    add(BoardEntry("lab", "rpi4b", "192.0.2.1", user="pi"))
    steps.peers(replace(run, board_name="lab"))
    assert engines.compared == []
    assert told(run).measured == "nothing"
    assert all("over SSH" in network.rows[0].reason for network in told(run).networks)


def test_a_job_that_does_not_ask_has_none(run: Run, engines: Engines) -> None:
    from dataclasses import replace

    bench = run.job.bench.model_copy(update={"peers": False})
    steps.peers(replace(run, job=run.job.model_copy(update={"bench": bench})))
    assert engines.compared == [] and not run.peers.exists()


def test_the_real_engines_are_asked_for_their_versions() -> None:
    found = step.installed()
    assert {"counting", *(peer.name for peer in PEERS)} == found.keys()
    assert {"onnxruntime", "ncnn", "mnn", "litert"} < found.keys()
    assert found["onnxruntime"].startswith("1.")
