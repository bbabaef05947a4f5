"""Boards as data: one TOML file a board, its loader, and the user's own boards."""

from .board import board_names, load_board, require_supported
from .description import Board, Cluster, Telemetry
from .inventory import BoardEntry

__all__ = [
    "Board",
    "BoardEntry",
    "Cluster",
    "Telemetry",
    "board_names",
    "load_board",
    "require_supported",
]
