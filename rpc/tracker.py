"""TVM's RPC tracker on this machine's loopback: it knows which boards' servers are free.

Servers come to it through SSH. What a board's user or this machine's other users can reach of it
tells them nothing: only who knows a server's key gets that server.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgecompress import events
from edgecompress.errors import EdgeCompressError

from .deadline import Deadline
from .tracker_process import digest

START_S = 60.0
ANSWER_S = 5.0
_PROCESS = "edgecompress.rpc.tracker_process"

# From TVM's `rpc/base.py`: the first word of a client, and the question for what there is.
_MAGIC = struct.pack("<i", 0x2F271)
_SUMMARY = 6
_LONGEST = 1 << 20


class Tracker:
    """A tracker that is started again, on the same port, when it was killed.

    Attributes:
        host, port: where it listens.
    """

    host = "127.0.0.1"

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._process, self.port = _start(0)
        threading.Thread(target=self._watch, name="tracker", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of its process now."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether `end` was called: no server will register any more."""
        return self._ended.is_set()

    def free(self, key: str) -> bool:
        """Whether a server with that key waits for somebody; False where nobody answers."""
        try:
            with socket.create_connection((self.host, self.port), timeout=ANSWER_S) as connection:
                connection.settimeout(ANSWER_S)
                connection.sendall(_MAGIC)
                if connection.recv(4, socket.MSG_WAITALL) != _MAGIC:
                    return False
                queues = _asked(connection, [_SUMMARY])[1]["queue_info"]
            return bool(queues.get(digest(key), {}).get("free"))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error):
            return False

    def end(self) -> None:
        """End it."""
        self._ended.set()
        _kill(self._process)

    def _watch(self) -> None:
        while True:
            self._process.wait()
            if self._ended.is_set():
                return
            events.warn("the RPC tracker was killed: starting it again")
            try:
                started, _ = _start(self.port)
            except EdgeCompressError as error:
                events.warn(error.message)
                return
            self._process = started
            if self._ended.is_set():
                _kill(started)


@contextmanager
def tracker() -> Iterator[Tracker]:
    """A tracker that ends with the block, and when this process is killed.

    Raises:
        EdgeCompressError: it does not start.
    """
    running = Tracker()
    try:
        yield running
    finally:
        running.end()


def _start(port: int) -> tuple[subprocess.Popen[str], int]:
    """A process that listens, on any port where `port` is 0, and its port."""
    process = subprocess.Popen(
        # Without -P, a `queue.py` in the folder that we are in would be taken for Python's own.
        [sys.executable, "-P", "-m", _PROCESS, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout and process.stderr
    patience = threading.Timer(START_S, process.kill)
    patience.start()
    answer = process.stdout.readline()
    patience.cancel()
    if not answer:
        said = process.stderr.read().strip().splitlines()
        _kill(process)
        raise EdgeCompressError(
            f"TVM's RPC tracker does not start: {said[-1] if said else 'it says nothing'}",
            "`edgecompress doctor` checks this machine",
        )
    # From now on it may write as much as it likes.
    threading.Thread(target=_drained, args=(process.stderr,), daemon=True).start()
    return process, int(json.loads(answer)["port"])


def _drained(stream: Any) -> None:
    while stream.read(1 << 16):
        pass


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


def _asked(connection: socket.socket, question: list[Any]) -> Any:
    """The answer to a question, in the tracker's way: a size, and JSON."""
    text = json.dumps(question).encode()
    connection.sendall(struct.pack("<i", len(text)) + text)
    (size,) = struct.unpack("<i", connection.recv(4, socket.MSG_WAITALL))
    deadline, answer = Deadline(ANSWER_S), b""
    while len(answer) < min(size, _LONGEST) and not deadline.expired:
        chunk = connection.recv(size - len(answer))
        if not chunk:
            break
        answer += chunk
    return json.loads(answer)
