"""TVM's RPC server on a board: started by us on the board's loopback, ended with the block.

TVM's protocol is plain text, and lets whoever reaches the port write files and run code. So the
server listens on 127.0.0.1 only, is reached through SSH, and registers through SSH at a tracker
with a key that is made anew for every server, and that no command line shows.
"""

from __future__ import annotations

import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgecompress import events
from edgecompress.errors import BoardError

from .deadline import Deadline
from .process import Running
from .scripts import python
from .server_tree import provision
from .session import Session, nothing
from .tracker import Tracker

START_S = 120.0
KEYS = "keys"
_LAUNCHER = Path(__file__).with_name("server_launcher.py")

# From TVM's `rpc/base.py`: the first word of a client, and the answer to a key that is not ours.
_MAGIC = 0xFF271
_MISMATCH = _MAGIC + 2


@dataclass(frozen=True)
class Endpoint:
    """An RPC server as seen from this machine: what to ask which tracker for.

    Attributes:
        host, port: of the tracker, or of the server itself.
        key: the server's, which no other has.
        tracked: whether it is a tracker's.
        cpus: those of the board that it runs on; empty where none were named.
        require: raises `BoardError` once the board must not be measured on any more.
    """

    host: str
    port: int
    key: str
    tracked: bool = True
    cpus: tuple[int, ...] = ()
    require: Callable[[], None] = nothing


@contextmanager
def rpc_server(
    session: Session, tracker: Tracker, *, deadline: float, cpus: Sequence[int] = ()
) -> Iterator[Endpoint]:
    """An RPC server on the board of `session`, with all that it needs.

    Args:
        tracker: where it registers.
        deadline: seconds that the server may run at most; then the board itself ends it.
        cpus: numbers of the board's CPUs that it may use; all where none are named.

    Raises:
        BoardError: it cannot be brought there, does not register, or does not answer.
        InputError: a wheel cannot be fetched.
    """
    env = {"TVM_USE_RUNTIME_LIB": "1"}
    if session.board.kind != "host":
        env |= {"PYTHONPATH": provision(session), "PYTHONNOUSERSITE": "1"}
    if cpus:
        # The pool would bind its threads by clock, past the CPUs that were named.
        env |= {"TVM_BIND_THREADS": "0", "TVM_NUM_THREADS": str(len(cpus))}
    key = f"edgecompress-{secrets.token_hex(16)}"
    limit = Deadline(min(deadline, START_S))
    with session.tunnel(tracker.port) as tunnel:
        asked = (_key_file(session, key), str(tunnel.here), str(tunnel.there))
        argv = python(_LAUNCHER.read_text(encoding="utf-8"), *asked, ",".join(map(str, cpus)))
        with session.start(argv, timeout=deadline, env=env) as running:
            with events.task(f"starting the RPC server on '{session.name}'"):
                port = _port(running, session.name, limit)
                tunnel.lead_to(port)
                _await_registration(running, session.name, tracker, key, limit)
                _require_answer(tunnel.here or port, session.name, limit)
            with _drained(running):
                yield Endpoint(tracker.host, tracker.port, key, cpus=tuple(cpus))


@contextmanager
def _drained(running: Running) -> Iterator[None]:
    """Read what a server says, until it is stopped with the block.

    It says a line for each kernel that is loaded, and would stand still if nobody read them.
    """
    ended = threading.Event()

    def drain() -> None:
        with suppress(BoardError):  # it may be used no more: whoever does so is told
            while not (running.poll(1.0, lambda _: None) or ended.is_set()):
                pass

    thread = threading.Thread(target=drain, name="server output", daemon=True)
    thread.start()
    try:
        yield
    finally:
        running.stop()
        ended.set()
        thread.join()


def _key_file(session: Session, key: str) -> str:
    """A file on the board that only its user can read, with the key: its path there."""
    make = ["sh", "-c", 'umask 077 && mkdir -p "$1" && chmod 700 "$1"', "sh", KEYS]
    session.run(make, timeout=START_S).check(f"cannot keep a key on '{session.name}'")
    file = f"{session.workdir}/{KEYS}/{secrets.token_hex(8)}"
    session.write(file, key.encode())
    return file


def _port(running: Running, name: str, limit: Deadline) -> int:
    """The port that the server says it has taken."""
    while not limit.expired:
        ended = running.poll(min(1.0, limit.remaining))
        if (said := running.text("stdout").strip()).isdecimal() and int(said) < 1 << 16:
            return int(said)
        if ended:
            raise _ended(running, name)
    raise BoardError(
        f"the RPC server on '{name}' did not start within {limit.seconds:g} s",
        f"see whether the board is busy: edgecompress doctor --board {name}",
    )


def _ended(running: Running, name: str) -> BoardError:
    lines = running.text("stderr").strip().splitlines() or ["it ended at once"]
    return BoardError(f"the RPC server on '{name}' does not start: {lines[-1]}")


def _await_registration(
    running: Running, name: str, tracker: Tracker, key: str, limit: Deadline
) -> None:
    for _ in limit.attempts(0.1):
        if tracker.free(key):
            return
        if running.poll(0.0):
            raise _ended(running, name)
        if tracker.ended:
            break
    waited = limit.seconds - limit.remaining
    raise BoardError(
        f"the RPC server on '{name}' did not register within {waited:.0f} s",
        "see whether the board's SSH server allows forwarding (AllowTcpForwarding)",
    )


def _require_answer(port: int, name: str, limit: Deadline) -> None:
    """Greet with a wrong key: a server that refuses it is there, and no session is begun."""
    greeting = b"client:nobody"
    for left in limit.attempts(0.2):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=left or 0.1) as connection:
                connection.settimeout(left or 0.1)
                connection.sendall(struct.pack("<ii", _MAGIC, len(greeting)) + greeting)
                if connection.recv(4, socket.MSG_WAITALL) == struct.pack("<i", _MISMATCH):
                    return
        except OSError:
            continue
    raise BoardError(
        f"the RPC server on '{name}' does not answer through the tunnel",
        "see whether the board's SSH server allows forwarding (AllowTcpForwarding)",
    )
