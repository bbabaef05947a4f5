"""From a name to an open session."""

from __future__ import annotations

from edgecompress.errors import BoardError

from ..targets import board_names, load_board, require_supported
from ..targets.inventory import find
from .local import LocalSession
from .session import Session
from .ssh import SshSession


def connect(name: str) -> Session:
    """Open a session with `host`, a virtual board (started if it does not run) or an own board.

    Raises:
        BoardError: no such board (near names are offered), a sort of board that has no address,
            an unsupported one, or one that cannot be reached.
        InputError: the inventory is damaged.
    """
    if name not in board_names():
        entry = find(name)
        require_supported(load_board(entry.board))
        return SshSession(entry)
    board = require_supported(load_board(name))
    if board.kind == "host":
        return LocalSession(board)
    if board.kind == "virtual":
        from . import virtual

        return SshSession(virtual.start(name))
    raise no_address(name)


def no_address(name: str) -> BoardError:
    """That a name is one of a sort of boards, which nobody can log in to."""
    return BoardError(
        f"'{name}' is a sort of board and has no address",
        f"add yours: edgecompress boards add my-{name} --board {name} --host ADDRESS --user USER",
    )
