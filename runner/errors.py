"""The runner's own errors: the board has none of the host's."""

from __future__ import annotations


class RunnerError(Exception):
    """A one-line cause, what to do next, and a word (`kind`) that programs can test.

    Attributes:
        kind: one of `bundle`, `signature`, `architecture`, `features`, `runtime`, `input`, `disk`,
            `model`.
    """

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint
