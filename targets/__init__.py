"""Boards as data: one TOML file a board, its loader, and the user's own boards."""

from .board import board_names, load_board, load_boards, require_supported, virtual_names
from .description import Board, Cluster, ClusterName, Emulation, Telemetry
from .inventory import BoardEntry

__all__ = [
    "Board",
    "BoardEntry",
    "Cluster",
    "ClusterName",
    "Emulation",
    "Telemetry",
    "board_names",
    "load_board",
    "load_boards",
    "require_supported",
    "virtual_names",
]
