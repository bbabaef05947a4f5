"""The runner's own errors: the board has none of the host's."""

from __future__ import annotations


class RunnerError(Exception):
    """A one-line cause, what to do next, and a word (`kind`) that programs can test.

    Attributes:
        kind: one of `bundle`, `signature`, `architecture`, `features`, `runtime`, `input`, `disk`,
            `output`, `model`, `interrupt`.
    """

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(plain(message))
        self.kind = kind
        self.message = plain(message)
        self.hint = plain(hint)


def plain(text: str) -> str:
    """A text on one line, in printable characters: it may quote a file that anybody wrote."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
