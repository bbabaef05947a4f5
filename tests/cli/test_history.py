"""Runs go into the history: good ones, failed ones, and none of them fails because of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgecompress.bench.history import Entry, append, read
from edgecompress.cli import steps
from edgecompress.cli.job import Job
from edgecompress.cli.run import Run
from edgecompress.cli.state import Workspace
from edgecompress.errors import BoardError
from edgecompress.events import Event, listening


def edgecompress(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgecompress.cli.main", "report", "history", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _entry(key: str, p50: float) -> Entry:
    at = f"2026-01-0{key}T00:00:00+00:00"
    return Entry(key, at, "demo", "host", metrics={"p50": p50})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A job whose bench fails."""

    def fail(_: Run) -> None:
        raise BoardError("the board was lost", "look at it")

    monkeypatch.setattr(steps, "STEPS", {"compile": lambda _: None, "bench": fail})
    table = {"name": "j", "board": "host", "data": {"photos": "p"}, "pretrained": {}}
    history = tmp_path / "history.sqlite"
    return Run(Job.model_validate(table), Workspace(tmp_path), "host", history=history)


def test_a_bench_that_failed_is_a_row(run: Run) -> None:
    with pytest.raises(BoardError, match="lost"):
        steps.run_until(run, "bench")
    assert run.history
    (found,) = read(run.history)
    assert (found.model, found.board, found.error) == ("j", "host", "the board was lost")


def test_other_steps_are_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(steps.STEPS, "compile", steps.STEPS["bench"])
    with pytest.raises(BoardError):
        steps.run_until(run, "compile")
    assert run.history and read(run.history) == []


def test_a_history_that_cannot_be_written_is_a_warning(run: Run) -> None:
    from dataclasses import replace

    said: list[Event] = []
    with listening(said.append):
        steps.remember(replace(run, history=Path("/dev/null/x")), _entry("1", 1.0))
    assert [event.kind for event in said] == ["warning"]
    assert "not in the history" in said[0].text


def test_shown_and_written(tmp_path: Path) -> None:
    path, page = tmp_path / "h.sqlite", tmp_path / "h.html"
    for key, p50 in (("1", 10.0), ("2", 30.0)):
        append(path, _entry(key, p50))
    shown = edgecompress("--history", str(path), "--html", str(page))
    assert shown.returncode == 0, shown.stderr
    assert "▁█" in shown.stdout and "30 ms" in shown.stdout
    assert "</html>" in page.read_text()
    told = json.loads(edgecompress("--history", str(path), "--limit", "1", "--json").stdout)
    assert [one["metrics"]["p50"] for one in told["runs"]] == [30.0]


def test_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    empty = edgecompress("--history", str(path))
    assert empty.returncode == 0
    assert "edgecompress report JOB.toml" in empty.stdout
    append(path, _entry("1", 1.0))
    unknown = edgecompress("--history", str(path), "--metric", "speed")
    assert unknown.returncode == 2 and "unknown metric 'speed'" in unknown.stderr
    path.with_suffix(".txt").write_text("no database" * 1000)
    strange = edgecompress("--history", str(path.with_suffix(".txt")))
    assert strange.returncode == 3 and "Traceback" not in strange.stderr
