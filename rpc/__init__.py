"""Reaching a board: sessions, uploads, the RPC server's life, and the virtual board."""

from .connect import connect
from .probe import Facts, probe
from .process import Completed, Running
from .server import Endpoint, rpc_server
from .session import Session

__all__ = ["Completed", "Endpoint", "Facts", "Running", "Session", "connect", "probe", "rpc_server"]
