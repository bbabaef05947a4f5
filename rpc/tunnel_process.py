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

from edgecompress.errors import EdgeCompressError

from ..targets import BoardEntry
from .ssh_connect import open_client

CHUNK = 1 << 16


def main() -> None:
    """Forward until the parent has gone, or the board."""
    parent = os.getppid()
    asked = json.loads(sys.stdin.readline())
    try:
        client = open_client(BoardEntry(**asked["entry"]))
    except EdgeCompressError as error:
        _answer({"error": error.message, "hint": error.hint})
        return
    transport = client.get_transport()
    assert transport is not None
    listener = socket.create_server(("127.0.0.1", 0))
    target = ("127.0.0.1", int(asked["port"]))
    threading.Thread(target=_accept, args=(listener, transport, target), daemon=True).start()
    threading.Thread(target=_end_with_input, daemon=True).start()
    _answer({"port": listener.getsockname()[1]})
    # A child of the parent may have inherited the other end of our input: look at the parent too.
    while transport.is_active() and os.getppid() == parent:
        time.sleep(0.5)


def _answer(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _accept(
    listener: socket.socket, transport: paramiko.Transport, target: tuple[str, int]
) -> None:
    while True:
        connection, peer = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            channel = transport.open_channel("direct-tcpip", target, peer, timeout=20)
        except (paramiko.SSHException, EOFError):
            connection.close()
            continue
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
