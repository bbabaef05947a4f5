"""What a job has done so far: each step's fingerprint, so that only what changed is done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgecompress import __version__, events
from edgecompress.errors import UsageError
from edgecompress.files import read_json, sha256_json, write_json

STATE = "state.json"
COMPARISON = "comparison.json"
"""What `edgecompress bench compression` leaves in a job's folder."""


@dataclass(frozen=True)
class Workspace:
    """A job's output folder and the record of its finished steps."""

    root: Path

    def path(self, *parts: str) -> Path:
        """A path below the folder."""
        return self.root.joinpath(*parts)

    def step(self, name: str, inputs: Any, outputs: list[Path], work: Callable[[], None]) -> bool:
        """Do `work` unless it was done with the same `inputs` and its `outputs` are still there.

        Args:
            name: the step's name, as the user sees it.
            inputs: everything the result depends on, JSON-able.
            outputs: the files or folders that the step leaves.

        Returns:
            True where the work was done now.
        """
        fingerprint = sha256_json({"version": __version__, "inputs": inputs})
        done = self._done()
        if done.get(name) == fingerprint and all(path.exists() for path in outputs):
            events.note(f"{name}: done before, kept")
            return False
        # Forget first: a kill in the middle must not leave an old record beside new files.
        self._record({key: value for key, value in done.items() if key != name})
        work()
        self._record({**self._done(), name: fingerprint})
        return True

    def _done(self) -> dict[str, str]:
        path = self.path(STATE)
        return read_json(path, "job state") if path.exists() else {}

    def _record(self, done: dict[str, str]) -> None:
        write_json(self.path(STATE), done)


@contextmanager
def open_workspace(root: Path) -> Iterator[Workspace]:
    """A workspace that nobody else writes meanwhile.

    Raises:
        UsageError: another process is working in it, or it cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".lock", blocking=False)
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"another edgecompress is working in {root}", "wait for it, or give another --out"
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot write to {root}: {error.strerror}", "give another --out"
        ) from None
    try:
        yield Workspace(root)
    finally:
        lock.release()
