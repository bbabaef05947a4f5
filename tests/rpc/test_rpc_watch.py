from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from edgecompress.errors import BoardError
from edgecompress.rpc import Session
from edgecompress.rpc.lease import VARIABLE, lease
from edgecompress.rpc.local import LocalSession
from edgecompress.rpc.ssh import SshSession
from edgecompress.rpc.watch import Watch, look, read_sight
from edgecompress.targets import load_board

PI = """5e9c0c32
7200.50 9000.10
1.25 0.80 0.40 2/190 4711
MemAvailable: 2097152 kB
/dev/root 30000000 9000000 20480000 31% /
1800000 ondemand 2400000 performance
{"owner": "anna@desk", "purpose": "tuning", "since": 6960.5, "expires": 7230.5, "boot": "5e9c0c32"}
61234
throttled=0x80008
"""


def test_what_a_board_says() -> None:
    seen = read_sight("kitchen", PI, 0.012)
    assert seen.holder is not None
    assert (seen.holder.owner, seen.holder.since_s, seen.holder.left_s) == ("anna@desk", 240, 30)
    assert (seen.load, seen.memory_mib, seen.disk_mib) == (1.25, 2048, 20000)
    assert (seen.mhz, seen.governors) == ((1800, 2400), ("ondemand", "performance"))
    assert (seen.vitals.temperature_c, seen.vitals.throttles) == (
        61.234,
        ("soft temperature limit",),
    )
    assert (seen.doing, seen.ping_ms) == ("tuning", 12)


@pytest.mark.parametrize(
    "said", ["", "\n" * 40, "\x1b[2J\n1e9\nnan\n" * 9, "{}\n" * 9, "9" * 5000 + "\n", "a b c\n" * 8]
)
def test_what_makes_no_sense_is_left_out(said: str) -> None:
    seen = read_sight("kitchen", said, 0.0)
    assert (seen.holder, seen.load, seen.memory_mib, seen.vitals.flags) == (None, None, None, None)
    assert all(governor.isprintable() for governor in seen.governors)


def test_this_machine_and_who_measures_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "lease.json"))
    with LocalSession(load_board("host"), tmp_path) as session:
        assert look(session).holder is None
        with lease(session, "tuning"):
            seen = look(session)
    assert seen.holder is not None and seen.holder.purpose == seen.doing == "tuning"
    assert seen.load is not None and seen.memory_mib and seen.disk_mib


@pytest.mark.board
def test_the_board(virtual_board: Session) -> None:
    seen = look(virtual_board)
    assert not seen.trouble and seen.ping_ms and seen.memory_mib and seen.disk_mib


@pytest.mark.board
def test_one_whose_connection_breaks_is_asked_again(virtual_board: SshSession) -> None:
    class Breaks(SshSession):
        def ping(self) -> float:
            transport = self._client.get_transport()
            assert transport is not None
            transport.sock.shutdown(socket.SHUT_WR)
            return super().ping()

    sorts = [SshSession, Breaks]
    troubles: list[str] = []
    with Watch(["pi"], 0.1, lambda _: sorts.pop()(virtual_board.entry)) as watch:
        end = time.monotonic() + 60
        while not troubles or troubles[-1]:
            assert time.monotonic() < end, troubles
            troubles.append(watch.all(1.0)[0].trouble)
            time.sleep(0.01)
    assert any("was lost" in trouble for trouble in troubles)


def test_one_that_hangs_does_not_stop_the_others(tmp_path: Path) -> None:
    hang = threading.Event()

    def reach(name: str) -> Session:
        if name == "hangs":
            hang.wait(60)
        if name != "good":
            raise BoardError("cannot be reached")
        return LocalSession(load_board("host"), tmp_path)

    before = threading.active_count()
    with Watch(["good", "hangs", "away"], 0.1, reach) as watch:
        start = time.monotonic()
        while [one.trouble for one in watch.all(0.1)] != ["", "no answer yet", "cannot be reached"]:
            assert time.monotonic() < start + 20
        good = watch.all()[0]
        assert good.age_s is not None and good.age_s < 20
    hang.set()
    while threading.active_count() > before:
        assert time.monotonic() < start + 40
        time.sleep(0.05)
