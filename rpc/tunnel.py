"""Ports that lead to a board's loopback and back, forwarded by a process of its own.

Its own, because TVM holds Python's global lock while it waits for a remote session to end: a
forwarder in the same process would wait for that lock, and TVM for the forwarder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from edgecompress.errors import BoardError

from ..targets import BoardEntry

_PROCESS = "edgecompress.rpc.tunnel_process"


@dataclass(frozen=True)
class Tunnel:
    """Two ways between this machine's loopback and a board's.

    Attributes:
        here: a port here, which leads to the board once it was told where.
        there: a port on the board that leads here; 0 where none was asked for.
        lead_to: tells it the port on the board that `here` leads to.
    """

    here: int
    there: int
    lead_to: Callable[[int], None]


@contextmanager
def tunnel(entry: BoardEntry, back: int = 0) -> Iterator[Tunnel]:
    """Forward a free port of 127.0.0.1 here to the board's 127.0.0.1.

    The process ends with the block, and also when this process is killed.

    Args:
        back: a port of 127.0.0.1 here that a free port of the board's 127.0.0.1 is to lead to.

    Raises:
        BoardError: the board cannot be reached, or forwards nothing.
    """
    process = subprocess.Popen(
        # Without -P, a `queue.py` in the folder that we are in would be taken for Python's own.
        [sys.executable, "-P", "-m", _PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    stdin = process.stdin

    def tell(value: dict[str, object]) -> None:
        with suppress(BrokenPipeError):  # it has ended: what is read or sent next says so
            stdin.write(json.dumps(value) + "\n")
            stdin.flush()

    try:
        tell({"entry": asdict(entry), "back": back})
        # The process gives up by itself when the board does not answer: this read ends.
        answer = json.loads(process.stdout.readline() or "{}")
        if "here" not in answer:
            raise BoardError(
                answer.get("error", f"the tunnel to '{entry.name}' ended at once"),
                answer.get("hint", ""),
            )
        yield Tunnel(answer["here"], answer["there"], lambda port: tell({"port": port}))
    finally:
        process.kill()
        process.wait()
        with suppress(BrokenPipeError):
            stdin.close()
        process.stdout.close()
