"""Nothing that is to stay secret is in what is printed, written or refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgecompress import events
from edgecompress.bench.board_run import run_on_boards
from edgecompress.bench.report import Material, build_report, write_report
from edgecompress.cli.job import BenchTable, LatencyTable
from edgecompress.compress.data.photos import PhotoSet
from edgecompress.rpc.ssh import SshSession
from edgecompress.targets.inventory import add

TOKEN = "hunter2-token-of-the-proxy"
PHRASE = "correct horse battery staple"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".ssh").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


def new_private_key(path: Path, phrase: str = "") -> list[str]:
    """Make one; its secret lines."""
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", str(path)]
    subprocess.run(make, check=True)
    return path.read_text().splitlines()[1:-1]


def told(*argv: str) -> str:
    """All that a verb says, with and without --json."""
    command = [sys.executable, "-m", "edgecompress.cli.main", *argv]
    said = []
    for more in ([], ["--json"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        said += [done.stdout, done.stderr]
    return "\n".join(said)


def test_verbs_and_refusals_keep_secrets(home: Path) -> None:
    locked = new_private_key(home / "locked", PHRASE)
    (home / ".ssh/config").write_text(
        f"Host tool\n ProxyCommand false --token {TOKEN} %h\nHost broken\n ProxyJump {TOKEN}@a b\n"
    )
    said = told("keys", "new", "lab")
    signing = (home / "config/keys/lab.key").read_text().splitlines()[1:-1]
    assert signing
    add_words = ["boards", "add", "attic", "--board", "rpi4b"]
    said += told(*add_words, "--host", "tool", "--identity", str(home / "locked"))
    for argv in (
        ["boards", "list"],
        ["boards", "setup", "attic"],
        ["doctor", "--board", "attic"],
        ["keys", "list"],
        ["keys", "show", "lab"],
        ["keys", "new", "lab"],
        ["keys", "trust", "lab", "--board", "attic"],
    ):
        said += told(*argv)
    assert "by its ProxyCommand" in said
    assert "there is a key 'lab' already" in said
    (home / "config/keys/lab.key").write_text("\n".join(signing))
    said += told("keys", "show", "lab")
    assert "is no private key" in said
    for secret in (*locked, *signing, PHRASE, TOKEN):
        assert secret not in said


@pytest.mark.board
def test_a_report_says_nothing_of_how_a_board_is_reached(
    virtual_board: SshSession, tiny_arm: Any, photo_files: tuple[Path, ...], home: Path
) -> None:
    """Neither user, key, address nor jump host are in what a run leaves."""
    key = home / "the-private-key"
    key.write_bytes(Path(virtual_board.entry.identity_file).read_bytes())
    key.chmod(0o600)
    entry = dataclasses.replace(virtual_board.entry, name="lab", identity_file=str(key))
    add(dataclasses.replace(entry, board="rpi4b"))
    photos = PhotoSet("p", photo_files[:2], (0, 1), tuple(f"class {i}" for i in range(10)))
    latency = LatencyTable(photos=1, runs=1, seconds=0, retries=0, cool_seconds=0)
    options = BenchTable(threads=1, warmup=0, latency=latency)
    heard: list[events.Event] = []
    with events.listening(heard.append):
        boards = {"lab": partial(SshSession, entry)}
        run = run_on_boards(boards, tiny_arm.bundle, photos, home / "out", options)
        report = build_report(
            Material("t", virtual_board.board, tiny_arm.bundle, photos, run, None)
        )
    write_report(report, home / "out/report.json")
    files = [path for path in (home / "out").rglob("*") if path.is_file()]
    assert len(files) > 2
    said = "\n".join([*(path.read_text() for path in files), *map(str, heard)])
    secret = key.read_text().splitlines()[1:-1]
    for word in (*secret, key.name, "127.0.0.1", str(entry.port), entry.host_key):
        assert word not in said
