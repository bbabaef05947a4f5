from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgecompress.cli.main import app
from edgecompress.rpc.lease import lease
from edgecompress.rpc.local import LocalSession
from edgecompress.targets import load_board


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("EDGECOMPRESS_LEASE", str(tmp_path / "lease.json"))


def ran(*words: str) -> Any:
    return CliRunner().invoke(app, ["boards", *words])


def test_who_measures_is_shown_and_released(tmp_path: Path) -> None:
    with LocalSession(load_board("host"), tmp_path / "work") as session:
        with lease(session, "tuning"):
            (seen,) = json.loads(ran("watch", "host", "--once", "--json").stdout)["boards"]
            assert (seen["name"], seen["trouble"], seen["doing"]) == ("host", "", "tuning")
            assert "@" in seen["holder"]["owner"] and seen["holder"]["left_s"] > 0
            shown = ran("watch", "host", "--once").stdout
            assert "tuning" in shown and "answers" in shown
            released = json.loads(ran("release", "host", "--json").stdout)
            assert released["released"]["purpose"] == "tuning"
        assert ran("release", "host").stdout == "nobody measures on host\n"


def test_boards_that_are_not_there(tmp_path: Path) -> None:
    assert ran("watch", "kitchen").exit_code == 4
    assert ran("watch", "host", "--every", "soon").exit_code == 2


# Shells have what they start in the background ignore interrupts, and so does all below it.
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


def test_an_interrupt_ends_it_cleanly() -> None:
    program = f"{LISTENING}; from edgecompress.cli.main import main; main()"
    argv = [sys.executable, "-c", program]
    argv += ["boards", "watch", "host", "--json", "--every", "1s"]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout and process.stderr
    try:
        for _ in range(2):
            assert json.loads(process.stdout.readline())["boards"][0]["name"] == "host"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
