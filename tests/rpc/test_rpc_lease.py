from __future__ import annotations

import json
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

from edgecompress import events
from edgecompress.errors import BoardError
from edgecompress.rpc import Session
from edgecompress.rpc import lease as leases
from edgecompress.rpc.lease import VARIABLE, lease, lease_path, release, standing
from edgecompress.rpc.local import LocalSession
from edgecompress.rpc.ssh import SshSession
from edgecompress.targets import load_board


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "lease.json"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


@pytest.fixture
def sessions(file: Path, tmp_path: Path) -> Iterator[tuple[Session, Session]]:
    """Of two people: each has a folder of their own."""
    host = load_board("host")
    with LocalSession(host, tmp_path / "one") as one, LocalSession(host, tmp_path / "two") as two:
        yield one, two


def uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_one_at_a_time(sessions: tuple[Session, Session], file: Path) -> None:
    one, two = sessions
    with lease(one, "tuning") as held:
        with (
            pytest.raises(BoardError, match=r"in use by .+@.+ \(tuning, for \d s\)") as refused,
            lease(two, "bench"),
        ):
            pass
        assert "--wait" in refused.value.hint
        assert "edgecompress boards release host" in refused.value.hint
        there = standing(file.read_text(), boot(), uptime())
        assert there is not None and there.purpose == "tuning" and there.since_s < 30
        held.require()
    with lease(two, "bench"):
        pass


def test_waiting_for_another(sessions: tuple[Session, Session]) -> None:
    one, two = sessions
    first = lease(one, "tuning")
    first.__enter__()
    said: list[str] = []

    def let_go(event: events.Event) -> None:
        said.append(event.text)
        first.__exit__(None, None, None)

    with events.listening(let_go), lease(two, "bench", wait=60) as held:
        held.require()
    assert len(said) == 1 and said[0].endswith("waiting for it")


def test_a_lease_that_is_taken_away(sessions: tuple[Session, Session]) -> None:
    one, two = sessions
    with lease(one, "tuning") as held:
        broken = release(two)
        assert broken is not None and broken.purpose == "tuning" and "@" in broken.owner
        wait_until(lambda: lost(held), 10)
        with pytest.raises(BoardError, match=r"taken away by .+@"):
            held.require()
        with lease(two, "bench"):
            pass
    assert release(two) is None


def test_what_runs_under_a_lease_ends_with_it(sessions: tuple[Session, Session]) -> None:
    one, two = sessions
    ends = pytest.raises(leases.LeaseTakenError, match=r"taken away by .+@")
    began = time.monotonic()
    with lease(one, "bench"), one.start(["sleep", "60"], timeout=60) as fed:
        threading.Timer(1.0, release, [two]).start()
        with ends as ended:
            one.run(["sleep", "60"], timeout=60)
        assert "measure again" in ended.value.hint
        with ends:  # what was started before
            fed.poll(0.1)
        with ends:  # and what comes after it
            one.run(["true"], timeout=60)
    assert time.monotonic() - began < 20
    # Without the lease it is a session as any.
    assert one.run(["true"], timeout=60).returncode == 0


def test_what_is_written_there_is_renewed(
    sessions: tuple[Session, Session], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LASTS_S", 4.0)
    with lease(sessions[0], "tuning"):
        time.sleep(5)
        assert standing(file.read_text(), boot(), uptime()) is not None


def test_our_own_lease_from_before_the_connection_was_lost(
    sessions: tuple[Session, Session],
) -> None:
    one, two = sessions
    with lease(one, "tuning", token="mine") as old, lease(two, "tuning", token="mine") as new:
        wait_until(lambda: lost(old), 10)
        new.require()


HOLDS = """
import sys, time
from pathlib import Path
from edgecompress.rpc.lease import lease
from edgecompress.rpc.local import LocalSession
from edgecompress.targets import load_board
with LocalSession(load_board("host"), Path(sys.argv[1])) as session, lease(session, "tuning"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_host_lets_go_at_once(sessions: tuple[Session, Session], tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLDS, str(tmp_path / "three")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        helpers = psutil.Process(other.pid).children(recursive=True)
        with pytest.raises(BoardError, match="in use"), lease(sessions[0], "bench"):
            pass
        other.send_signal(signal.SIGKILL)
        with lease(sessions[0], "bench", wait=10):
            pass
    wait_until(lambda: not any(one.is_running() for one in helpers), 10)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\0garbage",
        b"[1, 2]",
        b"[" * 100_000,
        b'{"token": {}, "since": "NaN", "owner": 7}',
        b'{"owner": "\x1b[31mroot\\n", "since": 1e999, "expires": 1e999, "boot": []}',
        json.dumps({"token": "x", "since": 1, "expires": 1e11, "boot": "another start"}).encode(),
        b"x" * 10_000_000,
    ],
)
def test_a_file_that_nobody_locks_holds_nobody_up(
    sessions: tuple[Session, Session], file: Path, content: bytes
) -> None:
    """Whatever stands in it: a board that was started again, or a lie."""
    file.write_bytes(content)
    assert standing(content.decode(errors="replace"), boot(), uptime()) is None
    with lease(sessions[0], "bench"):
        assert file.stat().st_size < 500


def test_what_others_say_of_themselves_is_cut_to_size() -> None:
    lie = {"owner": "\x1b[31m" + "a" * 999, "purpose": "x\ny", "since": 5, "boot": "b"}
    there = standing(json.dumps({**lie, "expires": 99}), "b", 50)
    assert there is not None
    assert there.owner == "31m" + "a" * 57 and there.purpose == "xy" and there.since_s == 45
    for wrong in ({"boot": "c"}, {"expires": 49}, {"expires": True}, {"since": -1}):
        assert standing(json.dumps({**lie, "expires": 99, **wrong}), "b", 50) is None


def test_a_wrong_clock_is_not_looked_at(sessions: tuple[Session, Session], file: Path) -> None:
    """The file's time lies two hours off, as after a clock was set."""
    one, two = sessions
    refused = pytest.raises(BoardError, match=r"in use by .+, for \d s")
    with lease(one, "tuning") as held:
        for hours in (-2, 2):
            when = time.time() + 3600 * hours
            os.utime(file, (when, when))
        with refused, lease(two, "bench"):
            pass
        held.require()


def test_links_and_pipes_are_refused(
    sessions: tuple[Session, Session], file: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for place in (file.symlink_to, file.hardlink_to):
        place(victim)
        with (
            pytest.raises(BoardError, match="cannot take the lease") as refused,
            lease(sessions[0], "bench"),
        ):
            pass
        assert "remove it" in refused.value.hint
        file.unlink()
    os.mkfifo(file)
    with pytest.raises(BoardError, match="Not a file of its own"), lease(sessions[0], "bench"):
        pass
    assert victim.read_text() == "precious"


def test_a_file_that_is_removed_meanwhile(sessions: tuple[Session, Session], file: Path) -> None:
    one, two = sessions
    with lease(one, "tuning") as held:
        file.unlink()
        with lease(two, "bench"):
            wait_until(lambda: lost(held), 10)


def holder(file: Path) -> psutil.Process:
    """The process that holds a lease on this machine."""
    found = [
        one
        for one in psutil.Process().children(recursive=True)
        if one.name().startswith("python") and str(file) in one.cmdline()
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("how", ["file", "process"])
def test_what_runs_under_a_lease_that_is_gone_ends_too(
    sessions: tuple[Session, Session], file: Path, how: str
) -> None:
    """Nobody has taken it, and the board is there: another one may hold it now."""
    one, two = sessions
    began = time.monotonic()
    with lease(one, "bench") as held:
        if how == "file":
            file.unlink()
        else:
            holder(file).kill()
        with pytest.raises(BoardError, match="the lease on 'host' is gone") as ended:
            one.run(["sleep", "60"], timeout=60)
        assert type(ended.value) is BoardError, "nobody is disturbed by another try"
        assert "give the same command again" in ended.value.hint
        assert lost(held)
        with lease(two, "bench"):
            pass
    assert time.monotonic() - began < 20
    with lease(one, "bench"):
        assert one.run(["true"], timeout=60).returncode == 0


@pytest.mark.board
def test_a_lease_that_ends_with_the_connection_says_nothing(virtual_board: SshSession) -> None:
    """What waits for the board says that it was lost."""
    with SshSession(virtual_board.entry) as session, lease(session, "bench") as held:
        session.close()
        wait_until(lambda: lost(held), 10)
        held.require_untaken()
        with pytest.raises(BoardError, match="connection to 'virtual-pi4' was lost"):
            session.run(["true"], timeout=60)


@pytest.mark.board
def test_a_lease_that_is_gone_on_the_board(virtual_board: SshSession) -> None:
    with SshSession(virtual_board.entry) as session, lease(session, "bench"):
        virtual_board.run(["rm", leases.LEASE_FILE], timeout=60).check("rm")
        with pytest.raises(BoardError, match="the lease on 'virtual-pi4' is gone"):
            session.run(["sleep", "60"], timeout=60)


@pytest.mark.board
def test_two_sessions_on_the_board(virtual_board: SshSession) -> None:
    assert lease_path(virtual_board) == leases.LEASE_FILE
    with SshSession(virtual_board.entry) as other:
        refused = pytest.raises(BoardError, match=r"in use by .+@")
        with lease(virtual_board, "tuning"), refused, lease(other, "bench"):
            pass
        with lease(other, "bench") as held:
            assert release(virtual_board) is not None
            wait_until(lambda: lost(held), 10)


def lost(held: leases.Lease) -> bool:
    try:
        held.require()
    except BoardError:
        return True
    return False


def wait_until(condition: object, seconds: float) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
