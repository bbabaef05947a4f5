"""The error tree: a one-line cause, a hint that says what to type next, and an exit code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class EdgeCompressError(Exception):
    """Base of all errors that a user can meet. `exit_code` is the process's.

    Args:
        message: the cause, one line.
        hint: what to type or change next, one line; may be empty.

    Both may quote a file or a board: what would move a terminal's cursor is shown escaped.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(plain(message))
        self.message = plain(message)
        self.hint = plain(hint)


def plain(text: str) -> str:
    """A text on one line, in printable characters."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


class UsageError(EdgeCompressError):
    """The command line or a job file asks for something that cannot be."""

    exit_code = 2


class InputError(EdgeCompressError):
    """A file or data set is missing, damaged or not what it should be."""

    exit_code = 3


class BoardError(EdgeCompressError):
    """A board is unknown, unreachable, full, or not what its description says."""

    exit_code = 4


class CompileError(EdgeCompressError):
    """A network cannot be compiled, linked or tuned."""

    exit_code = 5


class GateError(EdgeCompressError):
    """The job ran, and a condition that it had to meet was not met."""

    exit_code = 6


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """The up to three names of `known` that look most like `name`."""
    return get_close_matches(name, list(known), n=3, cutoff=0.4)


def unknown_name(
    kind: str, name: str, known: Sequence[str], error: type[EdgeCompressError], listing: str = ""
) -> EdgeCompressError:
    """An error for a name that is not in `known`, offering the near ones.

    Args:
        kind: what the name names ("board", "model").
        listing: the command that lists all names, for the hint.
    """
    near = near_names(name, known)
    offer = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    hint = f"{offer} `{listing}` lists them all" if listing else offer
    return error(f"unknown {kind} '{name}'", hint)
