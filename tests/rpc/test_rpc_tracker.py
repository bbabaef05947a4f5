from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgecompress import events
from edgecompress.rpc import rpc_server
from edgecompress.rpc.deadline import Deadline
from edgecompress.rpc.local import LocalSession
from edgecompress.rpc.tracker import Tracker, tracker
from edgecompress.targets import load_board


@pytest.fixture(scope="module")
def tracking() -> Iterator[Tracker]:
    with tracker() as running:
        yield running


def asked(port: int, question: list[Any]) -> Any:
    """As a client of TVM's asks."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        magic, text = struct.pack("<i", 0x2F271), json.dumps(question).encode()
        connection.sendall(magic)
        assert connection.recv(4, socket.MSG_WAITALL) == magic
        connection.sendall(struct.pack("<i", len(text)) + text)
        (size,) = struct.unpack("<i", connection.recv(4, socket.MSG_WAITALL))
        return json.loads(connection.recv(size, socket.MSG_WAITALL))


def test_one_process_on_loopback_that_ends_with_the_block() -> None:
    with tracker() as running:
        process = psutil.Process(running.pid)
        listening = [one for one in process.net_connections("tcp") if one.status == "LISTEN"]
        assert [one.laddr for one in listening] == [("127.0.0.1", running.port)]
        assert not process.children()
        assert not running.free("anything")
        assert asked(running.port, [6])[1]["queue_info"] == {}
    assert not process.is_running()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((running.host, running.port), timeout=5)


def test_modules_of_the_folder_that_we_are_in_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('somebody else')")
    monkeypatch.chdir(tmp_path)
    with tracker() as running:
        assert asked(running.port, [6])[1]["queue_info"] == {}


def test_it_gives_no_keys_away(tracking: Tracker, tmp_path: Path) -> None:
    with (
        LocalSession(load_board("host"), tmp_path) as host,
        rpc_server(host, tracking, deadline=100) as endpoint,
    ):
        assert tracking.free(endpoint.key)
        told = asked(tracking.port, [6])
        assert endpoint.key not in json.dumps(told)
        # One that guesses a key waits for ever, and nobody else for him.
        with pytest.raises(TimeoutError):
            asked(tracking.port, [4, "edgecompress-guess", "", 1])
        assert tracking.free(endpoint.key)


def test_what_makes_no_sense_disturbs_nobody(tracking: Tracker) -> None:
    words = (b"", b"x", b"GET / HTTP/1.0\r\n\r\n", struct.pack("<ii", 0x2F271, -1), os.urandom(999))
    for word in words:
        with socket.create_connection((tracking.host, tracking.port), timeout=5) as connection:
            connection.sendall(word)
    for question in ([99], [], {}, [3, "key"], [2, "stop"]):
        with pytest.raises((struct.error, OSError, AssertionError)):
            assert asked(tracking.port, question) == 0  # type: ignore[arg-type]
    assert asked(tracking.port, [1]) == 0


def test_a_killed_tracker_comes_back_and_servers_find_it(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        events.listening(lambda event: said.append(event.text)),
        tracker() as running,
        LocalSession(load_board("host"), tmp_path) as host,
        rpc_server(host, running, deadline=200) as endpoint,
    ):
        port, pid = running.port, running.pid
        os.kill(pid, signal.SIGKILL)
        for _ in Deadline(40).attempts():
            if running.free(endpoint.key):
                break
        assert running.free(endpoint.key)
        assert running.port == port and running.pid != pid
        from tvm import rpc

        assert rpc.connect_tracker(running.host, port).request(endpoint.key).cpu(0).exist
    assert "the RPC tracker was killed: starting it again" in said
    assert not psutil.pid_exists(running.pid)


HOLDS = """
import time
from edgecompress.rpc.tracker import tracker
with tracker() as running:
    print(running.pid, flush=True)
    time.sleep(600)
"""


def test_it_ends_when_its_parent_is_killed() -> None:
    argv = [sys.executable, "-c", HOLDS]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    _, left = psutil.wait_procs([process], timeout=10)
    assert not left
