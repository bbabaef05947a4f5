from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgecompress.errors import BoardError
from edgecompress.rpc import Endpoint, Session, rpc_server
from edgecompress.rpc.deadline import Deadline
from edgecompress.rpc.local import LocalSession
from edgecompress.rpc.server_tree import pack
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


def round_trip(endpoint: Endpoint) -> None:
    import tvm
    from tvm import rpc

    remote = rpc.connect(endpoint.host, endpoint.port, endpoint.key)
    sent = np.arange(1000, dtype="float32")
    there = tvm.runtime.tensor(sent, remote.cpu(0))
    assert np.array_equal(there.numpy(), sent)


def check_life(session: Session) -> None:
    with rpc_server(session, deadline=300) as endpoint:
        assert listeners(endpoint.port) == {"127.0.0.1"}
        round_trip(endpoint)
        round_trip(endpoint)  # the server outlives its first session
    for _ in Deadline(10).attempts():
        if not processes_with(endpoint.key) and not listeners(endpoint.port):
            break
    assert not processes_with(endpoint.key)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((endpoint.host, endpoint.port), timeout=5)


def test_the_server_on_this_machine(host: Session) -> None:
    check_life(host)


@pytest.mark.board
def test_the_server_on_the_board(virtual_board: Session) -> None:
    check_life(virtual_board)


@pytest.mark.skipif(1 not in os.sched_getaffinity(0), reason="needs CPU 1")
def test_a_server_on_one_cpu(host: Session) -> None:
    with rpc_server(host, deadline=300, cpus=[1]) as endpoint:
        assert endpoint.cpus == (1,)
        round_trip(endpoint)
        # The shell that started it is on both.
        servers = [one for one in processes_with(endpoint.key) if one.cpu_affinity() == [1]]
        assert servers
        family = [child for server in servers for child in server.children(recursive=True)]
        assert all(child.cpu_affinity() == [1] for child in family)


def test_another_key_gets_nothing(host: Session) -> None:
    from tvm import rpc

    with rpc_server(host, deadline=100) as endpoint:
        with pytest.raises(Exception, match="key"):
            rpc.connect(endpoint.host, endpoint.port, "guess")
        round_trip(endpoint)


def test_a_server_that_does_not_start_says_why(host: LocalSession) -> None:
    fake = Path(host.workdir) / "tvm" / "exec"
    fake.mkdir(parents=True)
    (fake.parent / "__init__.py").write_text("raise SystemExit('no libtvm here')")
    with (
        pytest.raises(BoardError, match="does not start: no libtvm here"),
        rpc_server(host, deadline=30),
    ):
        pass


def test_a_python_without_wheels_is_refused() -> None:
    import dataclasses

    old = dataclasses.replace(load_board("rpi4b"), python="3.9")
    with pytest.raises(BoardError, match=r"needs Python 3\.10"):
        pack(old)
