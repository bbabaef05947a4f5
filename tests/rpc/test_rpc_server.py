from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgecompress.errors import BoardError
from edgecompress.rpc import Endpoint, Session, rpc_server, server, server_launcher
from edgecompress.rpc.deadline import Deadline
from edgecompress.rpc.local import LocalSession
from edgecompress.rpc.server_tree import pack
from edgecompress.rpc.tracker import Tracker, tracker
from edgecompress.targets import load_board


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Session]:
    with LocalSession(load_board("host"), tmp_path) as session:
        yield session


def listeners(port: int) -> set[str]:
    return {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }


def processes_with(text: str) -> list[Any]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(text in word for word in words):
            found.append(process)
    return found


@pytest.fixture(scope="module")
def tracking() -> Iterator[Tracker]:
    with tracker() as running:
        yield running


def round_trip(endpoint: Endpoint) -> None:
    import tvm
    from tvm import rpc

    remote = rpc.connect_tracker(endpoint.host, endpoint.port).request(endpoint.key)
    sent = np.arange(1000, dtype="float32")
    there = tvm.runtime.tensor(sent, remote.cpu(0))
    assert np.array_equal(there.numpy(), sent)


def launchers(session: Session) -> list[Any]:
    """The servers of a session: each was given a key in its folder."""
    return processes_with(f"{session.workdir}/keys/")


def family(session: Session) -> list[Any]:
    found = launchers(session)
    return found + [child for one in found for child in one.children(recursive=True)]


def sockets(processes: list[Any]) -> set[str]:
    return {
        connection.laddr.ip
        for one in processes
        for connection in one.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def check_life(session: Session, tracking: Tracker) -> None:
    with rpc_server(session, tracking, deadline=300) as endpoint:
        assert (endpoint.host, endpoint.port) == (tracking.host, tracking.port)
        assert sockets(family(session)) == {"127.0.0.1"}
        assert listeners(endpoint.port) == {"127.0.0.1"}
        assert tracking.free(endpoint.key)
        round_trip(endpoint)
        round_trip(endpoint)  # the server outlives its first session
        assert not processes_with(endpoint.key), "a key that anybody on the board can read"
        assert session.run(["ls", "keys"], timeout=30).stdout == ""
    for _ in Deadline(10).attempts():
        if not launchers(session) and not tracking.free(endpoint.key):
            break
    assert not launchers(session)
    assert not tracking.free(endpoint.key)


def test_the_server_on_this_machine(host: Session, tracking: Tracker) -> None:
    check_life(host, tracking)


@pytest.mark.board
def test_the_server_on_the_board(virtual_board: Session, tracking: Tracker) -> None:
    check_life(virtual_board, tracking)


@pytest.mark.skipif(1 not in os.sched_getaffinity(0), reason="needs CPU 1")
def test_a_server_on_one_cpu(host: Session, tracking: Tracker) -> None:
    with rpc_server(host, tracking, deadline=300, cpus=[1]) as endpoint:
        assert endpoint.cpus == (1,)
        round_trip(endpoint)
        pinned = []
        for one in launchers(host):
            # The shell that started it is on both; what served the round trip may end meanwhile.
            with suppress(psutil.NoSuchProcess):
                if one.cpu_affinity() == [1]:
                    pinned.append([child.cpu_affinity() for child in one.children(recursive=True)])
        assert pinned
        assert all(cpus == [1] for children in pinned for cpus in children)


def test_a_server_that_says_much_does_not_stand_still(
    host: Session, tracking: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TVM's says a line for each kernel that is loaded: over hours, more than any buffer holds."""
    talker = (
        "    import threading, time\n"
        "    def talk():\n"
        "        while not Path('go').exists(): time.sleep(0.1)\n"
        "        for _ in range(640): os.write(2, bytes(1 << 16))\n"
        "        Path('said').touch()\n"
        "    threading.Thread(target=talk, daemon=True).start()\n"
    )
    before, _, after = server._LAUNCHER.read_text().rpartition("    main()\n")
    launcher = tmp_path / "launcher.py"
    launcher.write_text(f"{before}{talker}    main()\n{after}")
    monkeypatch.setattr(server, "_LAUNCHER", launcher)
    threads = set(threading.enumerate())
    with rpc_server(host, tracking, deadline=100) as endpoint:
        host.write("go", b"")
        for _ in Deadline(30).attempts():
            if Path(host.workdir, "said").exists():
                break
        assert Path(host.workdir, "said").exists()
        round_trip(endpoint)
    for _ in Deadline(10).attempts():
        if not set(threading.enumerate()) - threads:
            break
    assert not set(threading.enumerate()) - threads


def test_who_does_not_know_the_key_gets_nothing(host: Session, tracking: Tracker) -> None:
    with rpc_server(host, tracking, deadline=100) as endpoint:
        port = launched_port(host)
        for guess in ("guess", endpoint.key):  # what the tracker hands out is longer than the key
            assert greeted(port, guess) == MISMATCH
        round_trip(endpoint)


MISMATCH = (0xFF271 + 2).to_bytes(4, "little")


def launched_port(session: Session) -> int:
    return next(
        connection.laddr.port
        for one in launchers(session)
        for connection in one.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    )


def greeted(port: int, key: str) -> bytes:
    word = f"client:{key}".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(struct.pack("<ii", 0xFF271, len(word)) + word)
        return connection.recv(4, socket.MSG_WAITALL)


def test_a_killed_server_leaves_nobody_behind(host: Session, tracking: Tracker) -> None:
    from tvm import rpc

    with rpc_server(host, tracking, deadline=100) as endpoint:
        remote = rpc.connect_tracker(endpoint.host, endpoint.port).request(endpoint.key)
        assert remote.cpu(0).exist
        everyone = family(host)
        server = next(one for one in everyone if one.net_connections("tcp"))
        assert server.children(), "what serves the session"
        server.kill()
        gone, left = psutil.wait_procs(everyone, timeout=10)
        assert gone and not left
        del remote


def test_a_server_that_does_not_start_says_why(
    host: LocalSession, tracking: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "launcher.py"
    other.write_text("raise SystemExit('no libtvm here')")
    monkeypatch.setattr(server, "_LAUNCHER", other)
    with (
        pytest.raises(BoardError, match="does not start: no libtvm here"),
        rpc_server(host, tracking, deadline=30),
    ):
        pass


def test_a_server_that_cannot_register_is_a_board_error(
    host: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "START_S", 4.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(BoardError, match="did not register within 4 s"),
        rpc_server(host, Mute(mute.getsockname()[1]), deadline=100),  # type: ignore[arg-type]
    ):
        pass
    # What was told to end may take a moment on a busy machine.
    for _ in Deadline(10).attempts():
        if not launchers(host):
            break
    assert not launchers(host)


@dataclass(frozen=True)
class Mute:
    """What listens where a tracker should, and never answers."""

    port: int
    ended: bool = False

    def free(self, _: str) -> bool:
        return False


def test_forwarded_ports_that_are_open_to_the_network_are_seen() -> None:
    for address, open_to_all in (("127.0.0.1", False), ("0.0.0.0", True), ("::1", False)):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, 0), family=family) as listener:
            assert server_launcher.beyond_loopback(listener.getsockname()[1]) is open_to_all


def test_a_python_without_wheels_is_refused() -> None:
    import dataclasses

    old = dataclasses.replace(load_board("rpi4b"), python="3.9")
    with pytest.raises(BoardError, match=r"needs Python 3\.10"):
        pack(old)
