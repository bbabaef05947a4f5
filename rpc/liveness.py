"""Telling a board that has gone from one that is slow: by what is heard of it.

TCP waits a quarter of an hour for a peer that has lost its power or its network. So we ask when
the board has been silent for a while, and close the connection when it stays silent. Whatever
waits for the board then ends at once.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import paramiko

ASK_S = 10.0
# Longer than a router needs to start again; a network that comes back within it goes unnoticed.
SILENCE_S = 45.0
# A type of channel that no server has: each refuses it, and so is heard.
_QUESTION = "alive@edgecompress"
_LOG = "edgecompress.ssh"
logging.getLogger(_LOG).setLevel(logging.CRITICAL)


class Heard:
    """A socket that remembers when something last came out of it."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.at = time.monotonic()

    def recv(self, size: int) -> bytes:
        """As the socket's own."""
        data = self._inner.recv(size)
        self.at = time.monotonic()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def transport(sock: Any, **options: Any) -> paramiko.Transport:
    """A transport that closes itself when the other end has been silent for `SILENCE_S`.

    It is what `SSHClient.connect` takes as `transport_factory`.
    """
    heard = Heard(sock)
    made = paramiko.Transport(heard, **options)  # type: ignore[arg-type]  used as a socket
    # paramiko would tell the user of each refusal; what matters comes as an exception anyway.
    made.set_log_channel(_LOG)
    threading.Thread(target=_watch, args=(made, heard), name="liveness", daemon=True).start()
    return made


def _watch(made: paramiko.Transport, heard: Heard) -> None:
    """Ask a silent board, and close the connection to a dead one. Ends with the connection."""
    while not made.is_alive():  # before the handshake begins
        if time.monotonic() - heard.at > SILENCE_S:
            return
        time.sleep(0.1)
    while made.is_alive():
        made.join(min(ASK_S, SILENCE_S) / 2)
        silent = time.monotonic() - heard.at
        if silent > SILENCE_S:
            made.close()
        elif silent > ASK_S and made.is_authenticated():
            with suppress(paramiko.SSHException, EOFError, OSError):
                made.open_channel(_QUESTION, timeout=1.0)
