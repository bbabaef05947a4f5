"""TVM's RPC server on a board: started by us on the board's loopback, ended with the block.

TVM's protocol is plain text, and lets whoever reaches the port write files and run code. So the
server listens on 127.0.0.1 only, is reached through SSH, and wants a key that is made anew for
every server.
"""

from __future__ import annotations

import re
import secrets
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from edgecompress import events
from edgecompress.errors import BoardError

from .deadline import Deadline
from .process import Running
from .server_tree import provision
from .session import Session

START_S = 120.0
FIRST_PORT, LAST_PORT = 9090, 9190

# TVM's server on some of the CPUs only: its first argument, taken away before it reads the rest.
_ON_CPUS = (
    "import os, runpy, sys; os.sched_setaffinity(0, map(int, sys.argv.pop(1).split(',')));"
    " runpy.run_module('tvm.exec.rpc_server', run_name='__main__', alter_sys=True)"
)

_BOUND = re.compile(r"bind to 127\.0\.0\.1:(\d+)")
# From TVM's `rpc/base.py`: the first word of a client, and the answer to a key that is not ours.
_MAGIC = 0xFF271
_MISMATCH = _MAGIC + 2


def _nothing() -> None:
    """What an endpoint requires that nobody can take away."""


@dataclass(frozen=True)
class Endpoint:
    """An RPC server as seen from this machine: `tvm.rpc.connect(host, port, key)`.

    Attributes:
        cpus: those of the board that it runs on; empty where none were named.
        require: raises `BoardError` once the board must not be measured on any more.
    """

    host: str
    port: int
    key: str
    cpus: tuple[int, ...] = ()
    require: Callable[[], None] = _nothing


@contextmanager
def rpc_server(
    session: Session, *, deadline: float, cpus: Sequence[int] = ()
) -> Iterator[Endpoint]:
    """An RPC server on the board of `session`, with all that it needs.

    Args:
        deadline: seconds that the server may run at most; then the board itself ends it.
        cpus: numbers of the board's CPUs that it may use; all where none are named.

    Raises:
        BoardError: it cannot be brought there, or does not answer.
        InputError: a wheel cannot be fetched.
    """
    env = {"TVM_USE_RUNTIME_LIB": "1"}
    if session.board.kind != "host":
        env |= {"PYTHONPATH": provision(session), "PYTHONNOUSERSITE": "1"}
    key = f"edgecompress-{secrets.token_hex(8)}"
    argv = ["python3", "-m", "tvm.exec.rpc_server"]
    if cpus:
        argv = ["python3", "-c", _ON_CPUS, ",".join(map(str, cpus))]
        # The pool would bind its threads by clock, past the CPUs that were named.
        env |= {"TVM_BIND_THREADS": "0", "TVM_NUM_THREADS": str(len(cpus))}
    argv += ["--host", "127.0.0.1", "--key", key]
    argv += ["--port", str(FIRST_PORT), "--port-end", str(LAST_PORT)]
    limit = Deadline(min(deadline, START_S))
    with session.start(argv, timeout=deadline, env=env) as running:
        with events.task(f"starting the RPC server on '{session.name}'"):
            port = _bound_port(running, session.name, limit)
        with session.forward(port) as local:
            _require_answer(local, session.name, limit)
            yield Endpoint("127.0.0.1", local, key, tuple(cpus))


def _bound_port(running: Running, name: str, limit: Deadline) -> int:
    """The port that the server says it has taken."""
    while not limit.expired:
        ended = running.poll(min(1.0, limit.remaining))
        said = running.text("stderr")
        if found := _BOUND.search(said):
            return int(found.group(1))
        if ended:
            lines = said.strip().splitlines() or ["it ended at once"]
            raise BoardError(f"the RPC server on '{name}' does not start: {lines[-1]}")
    raise BoardError(
        f"the RPC server on '{name}' did not start within {limit.seconds:g} s",
        f"see whether the board is busy: edgecompress doctor --board {name}",
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
