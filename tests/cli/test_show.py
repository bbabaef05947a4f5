"""What boards and colleagues write is shown, and does nothing to the terminal."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from edgecompress import events
from edgecompress.cli import doctor, show
from edgecompress.cli.checks import Check

EVIL = "gone\x1b[2J\x1b]0;title\x07 [red]ä"
SHOWN = r"gone\x1b[2J\x1b]0;title\x07 [red]ä"


def test_results_move_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    show.say(f"first\n{EVIL}")
    show.table(EVIL, [EVIL], [[EVIL]])
    said = capsys.readouterr().out
    assert said.startswith(f"first\n{SHOWN}\n")
    assert said.count(SHOWN) == 4
    assert "\x1b" not in said
    assert "\x07" not in said


def test_what_doctor_finds_moves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "host_checks", lambda: [Check("disk", "warning", EVIL, EVIL)])
    app = typer.Typer()
    doctor.register(app)
    said = CliRunner().invoke(app, []).output
    assert said.count(SHOWN) == 2
    assert "\x1b" not in said


def test_progress_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    with show.progress():
        events.note(EVIL)
        events.warn(EVIL)
        with events.task(EVIL) as task:
            task.say(EVIL)
    said = capsys.readouterr().err
    # A task's name where it begins; its name and its text where it ends.
    assert said.count(SHOWN) == 5
    assert "\x1b" not in said
