"""Runs on a board: TVM's RPC server on the board's loopback, registered at a tracker.

TVM's own command shows its key to all who look at the board's processes, starts a child of a child
that outlives a kill, and cannot tell the tracker of another port than its own, where the far end
of a tunnel has one. So the loop that serves is called straight away.

Arguments: a file that holds the key and is removed; the port that the tracker is told, 0 for our
own; the tracker's port on this board; the CPUs that may be used, with commas, or nothing. The first
line on standard output is our port.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path

_LISTENS = "0A"  # TCP_LISTEN, as /proc/net/tcp has it
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def main() -> None:
    """Serve for ever."""
    file, told, tracker, cpus = sys.argv[1:5]
    key = Path(file).read_text()
    Path(file).unlink()
    if beyond_loopback(int(tracker)):
        sys.exit("its SSH server opens forwarded ports to the network (GatewayPorts yes)")
    if cpus:
        os.sched_setaffinity(0, map(int, cpus.split(",")))
    multiprocessing.set_start_method("fork")
    # What serves a session must not outlive us, and keep our port.
    prctl = ctypes.CDLL(None).prctl
    os.register_at_fork(after_in_child=lambda: prctl(_DEATH_SIGNAL, signal.SIGKILL))
    # TVM imports torch where it is installed, and nothing here needs it.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from tvm.rpc.server import _listen_loop

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    _listen_loop(listener, int(told) or port, key, ("127.0.0.1", int(tracker)), None, "127.0.0.1")


def beyond_loopback(port: int) -> bool:
    """Whether something listens on a port for more than this machine."""
    for family in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", family).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            address, number = local.split(":")
            if (int(number, 16), state) == (port, _LISTENS) and not loopback(address):
                return True
    return False


def loopback(address: str) -> bool:
    """Whether an address of /proc/net/tcp or tcp6 is this machine's own."""
    return address.endswith("7F") if len(address) == 8 else address == "0" * 24 + "01000000"


if __name__ == "__main__":
    main()
