"""While a board is tuned on: who listens, here and there, and on which addresses."""

from __future__ import annotations

import ipaddress
import os
import socket

import psutil
import pytest

from edgecompress.rpc import Session, rpc_server
from edgecompress.rpc.ssh import SshSession
from edgecompress.rpc.tracker import tracker

LOOPBACK = {"127.0.0.1"}
LISTENS = "0A"
PI = "1000"  # the uid of all that we start on a virtual board


def ours() -> list[psutil.Process]:
    """This process and all below it: tracker, tunnels, and what they started."""
    here = psutil.Process(os.getpid())
    return [here, *here.children(recursive=True)]


def listening(processes: list[psutil.Process]) -> set[str]:
    return {
        one.laddr.ip
        for process in processes
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN or one.type == socket.SOCK_DGRAM
    }


def on_the_board(session: Session) -> list[tuple[str, int]]:
    """Addresses and ports on which its user's processes listen, by the board's own kernel."""
    found = []
    for name in ("tcp", "tcp6", "udp", "udp6"):
        table = session.run(["cat", f"/proc/net/{name}"], timeout=60).stdout
        for line in table.splitlines()[1:]:
            words = line.split()
            address, _, port = words[1].partition(":")
            if words[7] == PI and (words[3] == LISTENS or name.startswith("udp")):
                found.append((parsed(address), int(port, 16)))
    return found


def parsed(hexadecimal: str) -> str:
    """An address as /proc/net shows it: words of four bytes, each in the machine's order."""
    raw = bytes.fromhex(hexadecimal)
    words = [raw[at : at + 4][::-1] for at in range(0, len(raw), 4)]
    return str(ipaddress.ip_address(b"".join(words)))


def test_addresses_of_the_kernel() -> None:
    assert parsed("0100007F") == "127.0.0.1"
    assert parsed("00000000") == "0.0.0.0"
    assert parsed("00000000000000000000000001000000") == "::1"


@pytest.mark.board
def test_nothing_listens_beyond_loopback_while_a_board_is_tuned_on(
    virtual_board: SshSession,
) -> None:
    """Server, tracker, tunnel and everything that these start."""
    before = on_the_board(virtual_board)
    with tracker() as tracking, rpc_server(virtual_board, tracking, deadline=300) as endpoint:
        here = listening(ours())
        there = on_the_board(virtual_board)
        assert endpoint.host == "127.0.0.1"
    assert here == LOOPBACK
    new = [one for one in there if one not in before]
    assert new, "the server is seen"
    assert {address for address, _ in there} == LOOPBACK
    after = on_the_board(virtual_board)
    assert [one for one in after if one in new] == [], "and is gone with the block"
