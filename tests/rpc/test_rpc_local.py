"""Sessions, tried on this machine: what limits and ends commands is the same over SSH."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgecompress.errors import BoardError, UsageError
from edgecompress.rpc import Session, connect, probe
from edgecompress.rpc import process as rpc_process
from edgecompress.rpc.deadline import Deadline
from edgecompress.rpc.local import LocalSession
from edgecompress.rpc.scripts import python
from edgecompress.targets import load_board

NASTY = ["a b", "$(id)", "`id`", "'q'\"", "new\nline", "*", "!", "\\", "~", "", "-n", "ä", ";exit"]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with LocalSession(load_board("host"), tmp_path / "board") as opened:
        yield opened


def gone(marker: str, within: float = 5.0) -> bool:
    """Whether no process has `marker` among its arguments."""
    for _ in Deadline(within).attempts():
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            command = process.info["cmdline"] or []
            if marker in command and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        if not found:
            return True
    return False


def wait_for(marker: str) -> None:
    """Until a process has `marker` among its arguments: starting returns before it has."""
    for _ in Deadline(20).attempts():
        if not gone(marker, within=0):
            return
    pytest.fail(f"no process with {marker} has started")


def test_arguments_and_variables_arrive_as_they_are(session: Session) -> None:
    show = "import os, sys; print(repr(sys.argv[1:]), repr(os.environ['ODD']))"
    done = session.run(
        ["python3", "-c", show, *NASTY], timeout=20, env={"ODD": "x y;$(id)\n'"}
    ).check("echo")
    assert done.stdout.strip() == f"{NASTY!r} {'x y;$(id)' + chr(10) + chr(39)!r}"


def test_modules_in_the_working_folder_are_not_ours(session: Session) -> None:
    """It may be a home, with anything in it."""
    for name in ("json", "platform", "random", "numpy"):
        session.write(f"{name}.py", b"raise SystemExit('not this one')\n")
    show = "import json, random, sys; print(sys.argv[1:], __name__, json.loads('[1]'))"
    done = session.run(python(show, *NASTY), timeout=20).check("echo")
    assert done.stdout.strip() == f"{NASTY!r} __main__ [1]"
    assert probe(session).cores


def test_a_program_with_an_equals_sign_is_a_program(session: Session) -> None:
    session.write("a=b", b"#!/bin/sh\necho ran $1\n")
    Path(session.workdir, "a=b").chmod(0o755)
    assert session.run(["./a=b", "it"], timeout=10).stdout == "ran it\n"


@pytest.mark.parametrize("argv", [[], ["-c"], ["echo", "a\0b"]])
def test_what_is_no_command_is_refused(session: Session, argv: list[str]) -> None:
    with pytest.raises(UsageError):
        session.run(argv, timeout=5)
    with pytest.raises(UsageError):
        session.run(["true"], timeout=5, env={"A B": "1"})


def test_exit_status_and_both_streams(session: Session) -> None:
    done = session.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=10)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    with pytest.raises(BoardError, match="it failed: err"):
        done.check("it failed")
    assert session.run(["no-such-program"], timeout=10).returncode == 127


def test_much_output_on_both_streams_blocks_nobody(session: Session) -> None:
    script = "import sys; sys.stderr.write('e' * 3_000_000); sys.stdout.write('o' * 3_000_000)"
    done = session.run(["python3", "-c", script], timeout=30)
    assert (len(done.stdout), len(done.stderr)) == (3_000_000, 3_000_000)


def test_lines_come_while_the_command_runs(session: Session) -> None:
    seen: list[tuple[str, float]] = []
    done = session.stream(
        ["sh", "-c", "echo one; sleep 1; echo two; printf three"],
        timeout=10,
        on_line=lambda line: seen.append((line, time.monotonic())),
    )
    assert [line for line, _ in seen] == ["one", "two", "three"]
    assert seen[1][1] - seen[0][1] > 0.5
    assert done.stdout == "one\ntwo\nthree"


def test_a_timeout_kills_the_whole_family(session: Session) -> None:
    began = time.monotonic()
    with pytest.raises(BoardError, match="took longer than 1 s") as ended:
        session.run(["sh", "-c", "sleep 987601 & sleep 987601"], timeout=1)
    assert time.monotonic() - began < 30
    assert ended.value.exit_code == 4
    assert gone("987601")


def test_a_command_that_kills_itself_is_no_timeout(session: Session) -> None:
    assert session.run(["sh", "-c", "kill -9 $$"], timeout=30).returncode == 137


def test_a_listener_that_fails_ends_the_command(session: Session) -> None:
    def fail(line: str) -> None:
        raise ValueError(line)

    with pytest.raises(ValueError, match="go"):
        session.stream(["sh", "-c", "echo go; sleep 987602"], timeout=60, on_line=fail)
    assert gone("987602")


def test_a_killed_parent_takes_its_command_along(tmp_path: Path) -> None:
    script = (
        "from edgecompress.rpc import connect\n"
        "connect('host').run(['sh', '-c', 'sleep 987603 & sleep 987603'], timeout=600)"
    )
    environment = {**os.environ, "EDGECOMPRESS_CACHE": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        wait_for("987603")
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert gone("987603")


@pytest.mark.parametrize("beat", [0.3, 100.0])
def test_a_command_lives_as_long_as_it_hears_of_us(
    session: Session, monkeypatch: pytest.MonkeyPatch, beat: float
) -> None:
    """A cut link closes nothing: only that no more is heard tells the board."""
    # A busy machine may stand still for a second or two: that is no silence.
    monkeypatch.setattr(rpc_process, "SILENCE_S", 4)
    monkeypatch.setattr(rpc_process, "BEAT_S", beat)
    with session.start(["sleep", "987613"], timeout=60) as running:
        wait_for("987613")
        assert gone("987613", within=6.0 if beat == 0.3 else 20.0) == (beat == 100.0)
        assert running.poll(0.1) is False or beat == 100.0


@pytest.mark.parametrize("command", ["yes", "cat /dev/zero"])
def test_a_command_that_talks_without_end_is_killed(
    session: Session, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(rpc_process, "OUTPUT_BYTES", 3 << 20)
    with pytest.raises(BoardError, match="said more than 3 MiB"):
        session.run(["sh", "-c", f"{command} # 987614"], timeout=60)
    assert gone(f"{command} # 987614")


def test_a_command_that_is_stopped_unheard_leaves_no_threads(session: Session) -> None:
    before = set(threading.enumerate())
    with session.start(["sh", "-c", "yes # 987615"], timeout=60):
        time.sleep(1)  # as much has been said as is kept for a listener
    for _ in Deadline(10).attempts():
        if not set(threading.enumerate()) - before:
            break
    assert not set(threading.enumerate()) - before


def test_uploads_are_skipped_when_nothing_changed(session: Session, tmp_path: Path) -> None:
    local = tmp_path / "file"
    local.write_bytes(b"one")
    assert session.upload(local, "deep/er/file") is True
    assert session.upload(local, "deep/er/file") is False
    Path(session.workdir, "deep/er/file").write_bytes(b"changed over there")
    assert session.upload(local, "deep/er/file") is True
    local.write_bytes(b"two")
    assert session.upload(local, "deep/er/file") is True
    session.download("deep/er/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"two"


def test_only_our_own_files_are_removed(session: Session) -> None:
    session.write("a/b", b"x")
    session.remove("a")
    session.remove("a")
    assert not Path(session.workdir, "a").exists()
    for path in ("/etc/hosts", "../x", ".", "a/../.."):
        with pytest.raises(BoardError, match="is not below"):
            session.remove(path)


def test_missing_files_are_board_errors(session: Session, tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="cannot copy"):
        session.download("nothing", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_file_without_end_is_not_fetched(session: Session, tmp_path: Path) -> None:
    session.write("big", bytes(1001))
    for path in ("big", "/dev/zero"):
        with pytest.raises(BoardError, match="is larger than"):
            session.download(path, tmp_path / "x", limit=1000)
    assert not (tmp_path / "x").exists()
    session.download("big", tmp_path / "x", limit=1001)
    assert (tmp_path / "x").read_bytes() == bytes(1001)


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path))
    with pytest.raises(BoardError, match="unknown board 'virtul-pi4'") as unknown:
        connect("virtul-pi4")
    assert "virtual-pi4" in unknown.value.hint
    with pytest.raises(BoardError, match="has no address") as sort:
        connect("rpi4b")
    assert "boards add" in sort.value.hint
    with pytest.raises(BoardError, match="32-bit"):
        connect("rpi2b")


def test_a_full_disk_is_no_reason_to_remove_a_home(tmp_path: Path) -> None:
    """The working folder may be one, and be called as it likes."""
    with LocalSession(load_board("host"), tmp_path / "my home") as session:
        hint = session.disk_full("file", 2_000_000, 1_000_000).hint
    assert f"`rm -r '{tmp_path}/my home/bundles'`" in hint


def test_host_tells_about_itself(session: Session) -> None:
    facts = probe(session)
    assert facts.arch == load_board("host").arch
    assert set(load_board("host").features) <= set(facts.features)
    assert facts.disk_free > 0
    assert facts.numpy
    assert facts.memory_mib > 100


def test_nonsense_about_a_board_is_refused(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in ("[]", "{}", "hello", '{"arch": 1}'):
        monkeypatch.setattr(sys.modules[probe.__module__], "_SCRIPT", f"print({answer!r})")
        with pytest.raises(BoardError, match="makes no sense"):
            probe(session)
