"""A local port that leads to a port of the board's loopback, forwarded by a process of its own.

Its own, because TVM holds Python's global lock while it waits for a remote session to end: a
forwarder in the same process would wait for that lock, and TVM for the forwarder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from edgecompress.errors import BoardError

from ..targets import BoardEntry

_PROCESS = "edgecompress.rpc.tunnel_process"


@contextmanager
def tunnel(entry: BoardEntry, port: int) -> Iterator[int]:
    """Forward a free port of 127.0.0.1 here to `port` of 127.0.0.1 on the board.

    The process ends with the block, and also when this process is killed.

    Raises:
        BoardError: the board cannot be reached.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", _PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps({"entry": asdict(entry), "port": port}) + "\n")
        process.stdin.flush()
        # The process gives up by itself when the board does not answer: this read ends.
        answer = json.loads(process.stdout.readline() or "{}")
        if "port" not in answer:
            raise BoardError(
                answer.get("error", f"the tunnel to '{entry.name}' ended at once"),
                answer.get("hint", ""),
            )
        yield int(answer["port"])
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
