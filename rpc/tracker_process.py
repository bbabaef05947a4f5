"""The process behind `tracker.tracker`: TVM's RPC tracker on a port of 127.0.0.1, and nothing else.

TVM's own command starts it in a child of a child, which outlives a kill and keeps the port; and it
tells whoever asks the keys of all servers, with which they can be had. Here it is the process
itself, and what it tells of a key is its hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from typing import Any


def main() -> None:
    """Serve until the parent has gone: `tracker_process.py PORT`, 0 for any."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    threading.Thread(target=_end_with_input, daemon=True).start()
    # TVM imports torch where it is installed: 2 of its 2.5 s, and nothing here needs it.
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    from tvm.rpc.tracker import TrackerServerHandler

    class Discreet(TrackerServerHandler):
        """One that gives no key away."""

        def summary(self) -> dict[str, Any]:
            """How many servers are free for each hashed key."""
            queues = {digest(key): queue.summary() for key, queue in self._scheduler_map.items()}
            return {"queue_info": queues, "server_info": []}

    asyncio.set_event_loop(asyncio.new_event_loop())
    handler = Discreet(listener, secrets.token_hex(16))
    sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    handler.run()


def digest(key: str) -> str:
    """What is told of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _end_with_parent(parent: int) -> None:
    # A child of the parent may have inherited the other end of our input.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


if __name__ == "__main__":
    main()
