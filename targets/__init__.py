"""Boards as data: one TOML file a board, its loader, and the user's own boards."""

from .board import (
    Board,
    Cluster,
    Telemetry,
    board_names,
    load_board,
    require_supported,
)
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
