"""A further virtual board takes the place of no other board of the user's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgecompress.cli.main import app
from edgecompress.errors import UsageError
from edgecompress.rpc import virtual
from edgecompress.rpc.ssh import SshSession
from edgecompress.rpc.virtual_tree import userland
from edgecompress.targets import BoardEntry
from edgecompress.targets.inventory import add, entries, find

PI4, PI5 = "virtual-pi4", "virtual-pi5"
KITCHEN = BoardEntry("kitchen", "rpi4b", "192.168.1.20", user="pi", host_key="SHA256:" + "A" * 43)


@pytest.fixture(autouse=True)
def _inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path / "config"))


def ran(*words: str) -> Any:
    """What `boards` gives."""
    return CliRunner().invoke(app, ["boards", *words, "--json"])


@pytest.mark.parametrize("board", ["rpi4b", PI4])
def test_a_board_of_that_name_stays(
    board: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual one of another machine too."""
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")  # nothing could be started, were it tried
    mine = replace(KITCHEN, board=board)
    add(mine)
    done = ran("start", PI4, "--as", "kitchen")
    told = json.loads(done.stdout)["error"]
    assert told["exit_code"] == UsageError.exit_code
    assert "'kitchen' is another board of yours, at 192.168.1.20" in told["message"]
    assert "edgecompress boards remove kitchen" in told["hint"]
    assert entries() == (mine,)


@pytest.mark.board
def test_a_further_board_is_started_again(
    virtual_board: SshSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the inventory has found out about it since, and in an inventory that is new."""
    packed = userland()
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGECOMPRESS_INVENTORY", str(tmp_path / "lab.toml"))
    shutil.copy(packed, userland())
    try:
        assert json.loads(ran("start", PI4, "--as", "shelf-a").stdout)["running"]
        entry = find("shelf-a")
        assert (entry.board, entry.host) == (PI4, "127.0.0.1")
        add(replace(entry, board="generic-arm64", port=1))
        assert json.loads(ran("start", PI4, "--as", "shelf-a").stdout)["running"]
        assert find("shelf-a") == entry
        refused = json.loads(ran("start", PI5, "--as", "shelf-a").stdout)["error"]
        assert "another board of yours" in refused["message"]
    finally:
        for sort in (PI4, PI5):
            virtual.stop(sort, "shelf-a")
