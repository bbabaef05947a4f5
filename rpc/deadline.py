"""One deadline serves every wait and every retry of an operation."""

from __future__ import annotations

import time
from collections.abc import Iterator


class Deadline:
    """A moment in the future, on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.remaining == 0.0

    def attempts(self, interval: float = 0.1) -> Iterator[float]:
        """The seconds left, at once and then every `interval` seconds, until it has passed."""
        while True:
            left = self.remaining
            yield left
            if self.remaining == 0.0:
                return
            time.sleep(min(interval, self.remaining))
