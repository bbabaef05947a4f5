"""The process behind `tunnel.tunnel`: one JSON line in, one out, then it forwards bytes."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress

import paramiko

from edgecompress.errors import BoardError, EdgeCompressError

from ..targets import BoardEntry
from .deadline import Deadline
from .ssh_connect import open_client

CHUNK = 1 << 16
# How long one who comes from the board waits for what it is led to: it may be starting again.
PATIENCE_S = 20.0


def main() -> None:
    """Forward until the parent has gone, or the board."""
    parent = os.getppid()
    asked = json.loads(sys.stdin.readline())
    entry, back = BoardEntry(**asked["entry"]), int(asked["back"])
    try:
        transport = open_client(entry).get_transport()
        assert transport is not None
        there = _forward_back(transport, entry, back) if back else 0
    except EdgeCompressError as error:
        _answer({"error": error.message, "hint": error.hint})
        return
    listener = socket.create_server(("127.0.0.1", 0))
    _answer({"here": listener.getsockname()[1], "there": there})
    threading.Thread(target=_forward, args=(listener, transport), daemon=True).start()
    # A child of the parent may have inherited the other end of our input: look at the parent too.
    while transport.is_active() and os.getppid() == parent:
        time.sleep(0.5)


def _forward_back(transport: paramiko.Transport, entry: BoardEntry, port: int) -> int:
    """A port of the board's loopback that leads to `port` of ours."""

    def arrived(channel: paramiko.Channel, *_: object) -> None:
        threading.Thread(target=_lead, args=(channel, port), daemon=True).start()

    try:
        return transport.request_port_forward("127.0.0.1", 0, arrived)
    except (paramiko.SSHException, EOFError) as error:
        raise BoardError(
            f"'{entry.name}' forwards no port to us: {error}",
            "see whether the board's SSH server allows forwarding (AllowTcpForwarding)",
        ) from error


def _lead(channel: paramiko.Channel, port: int) -> None:
    """Connect one who has come from the board."""
    for _ in Deadline(PATIENCE_S).attempts(0.5):
        with suppress(OSError):
            _pumped(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S), channel)
            return
    channel.close()


def _forward(listener: socket.socket, transport: paramiko.Transport) -> None:
    """Lead to the port that standard input names, and end when that ends."""
    asked = sys.stdin.readline()
    if asked:
        target = ("127.0.0.1", int(json.loads(asked)["port"]))
        threading.Thread(target=_accept, args=(listener, transport, target), daemon=True).start()
        sys.stdin.read()
    os._exit(0)


def _answer(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _accept(
    listener: socket.socket, transport: paramiko.Transport, target: tuple[str, int]
) -> None:
    while True:
        connection, peer = listener.accept()
        try:
            channel = transport.open_channel("direct-tcpip", target, peer, timeout=20)
        except (paramiko.SSHException, EOFError):
            connection.close()
            continue
        _pumped(connection, channel)


def _pumped(connection: socket.socket, channel: paramiko.Channel) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for pump in (_to_board, _from_board):
        threading.Thread(target=pump, args=(connection, channel), daemon=True).start()


def _to_board(connection: socket.socket, channel: paramiko.Channel) -> None:
    with suppress(OSError, EOFError):
        while data := connection.recv(CHUNK):
            channel.sendall(data)
    with suppress(OSError, EOFError):
        channel.shutdown_write()


def _from_board(connection: socket.socket, channel: paramiko.Channel) -> None:
    with suppress(OSError, EOFError):
        while data := channel.recv(CHUNK):
            connection.sendall(data)
    # The board has closed its end: a client that still waits must hear of it.
    channel.close()
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


if __name__ == "__main__":
    main()
