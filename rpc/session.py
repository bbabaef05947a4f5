"""What can be done with a board, however it is reached: run, stream, upload, write, download."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edgecompress.errors import BoardError
from edgecompress.files import writing

from ..targets import Board
from .process import Completed, OnLine, Running
from .tunnel import Tunnel

# What a download may have unless its caller says otherwise.
DOWNLOAD_BYTES = 1 << 30
CHUNK = 1 << 15


def nothing() -> None:
    """What is required of a board that nobody can take away."""


class Session(Protocol):
    """An open connection to one board.

    Attributes:
        board: what the board is.
        name: how the user calls it (the inventory's name, or the board's own).
        workdir: absolute path of the folder on the board that is ours.
        require: raises `BoardError` once the board must not be used any more; commands that were
            started meanwhile end with it (`lease`).

    Remote paths are POSIX paths; relative ones are below `workdir`. Every method raises
    `BoardError` when the connection is lost or the deadline passes.
    """

    board: Board
    name: str
    workdir: str
    require: Callable[[], None]

    def start(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Running:
        """Start a command and return at once. It is killed, with all that it started, after
        `timeout` seconds, by `Running.stop`, and when this process or the connection dies.
        """
        ...

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Completed:
        """Run a command to its end; a non-zero exit status is no error.

        Args:
            argv: program and arguments; quoting is done here.
            timeout: seconds; then it is killed and `BoardError` raised.
            env: variables added to the board's environment.
            cwd: working directory, by default `workdir`.
        """
        ...

    def stream(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        on_line: OnLine,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Completed:
        """As `run`, with each line of stdout given to `on_line` as it arrives."""
        ...

    def upload(self, local: Path, remote: str) -> bool:
        """Copy a file to the board, whole or not at all; False where it was there already.

        Raises:
            BoardError: the board's disk is full; the message says how much is free and needed.
        """
        ...

    def write(self, remote: str, content: bytes) -> None:
        """Write a small file on the board, whole or not at all. Raises as `upload`."""
        ...

    def download(self, remote: str, local: Path, limit: int = DOWNLOAD_BYTES) -> None:
        """Copy a file from the board, whole or not at all.

        Raises:
            BoardError: it has more than `limit` bytes.
        """
        ...

    def remove(self, remote: str) -> None:
        """Remove a file or folder below `workdir`; no error if it is not there."""
        ...

    def ping(self) -> float:
        """Seconds that a message takes to the board and back."""
        ...

    def tunnel(self, back: int = 0) -> AbstractContextManager[Tunnel]:
        """A way to a port of the board's 127.0.0.1, and one back to port `back` of ours."""
        ...

    def close(self) -> None:
        """End the connection and what was started over it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def remove_bundles(workdir: str) -> str:
    """What frees a board's disk when it is typed there: never the removal of `workdir` itself,
    which may be somebody's home."""
    return shlex.join(["rm", "-r", posixpath.join(workdir, "bundles")])


class Commands:
    """`run`, `stream` and path handling for drivers, which bring `start`."""

    board: Board
    name: str
    workdir: str
    require: Callable[[], None]

    start: Callable[..., Running]

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Completed:
        """See `Session.run`."""
        return self.start(argv, timeout=timeout, env=env, cwd=cwd).wait()

    def stream(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        on_line: OnLine,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Completed:
        """See `Session.stream`."""
        return self.start(argv, timeout=timeout, env=env, cwd=cwd).wait(on_line)

    def path(self, remote: str) -> str:
        """The absolute form of a remote path."""
        return posixpath.normpath(posixpath.join(self.workdir, remote))

    def own_path(self, remote: str) -> str:
        """The absolute form of a remote path that must lie below `workdir`.

        Raises:
            BoardError: it does not: nothing else on a board is ours to remove.
        """
        path = self.path(remote)
        if not path.startswith(self.workdir.rstrip("/") + "/"):
            raise BoardError(f"{path} on '{self.name}' is not below {self.workdir}")
        return path

    def keep(self, chunks: Iterable[bytes], local: Path, path: str, limit: int) -> None:
        """Write a local file of what comes from `path`, whole or not at all.

        Raises:
            BoardError: more than `limit` bytes come, whatever size the board had said.
        """
        left = limit
        with writing(local) as temporary, temporary.open("wb") as stream:
            for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    raise self.too_large(path, limit)
                stream.write(chunk)

    def too_large(self, path: str, limit: int) -> BoardError:
        """The error for a file that is not fetched; `limit` in bytes."""
        return BoardError(
            f"{path} on '{self.name}' is larger than the {limit / 1e6:.1f} MB that it may have",
            f"see what it is: ls -l {path}",
        )

    def disk_full(self, path: str, needed: int, free: int | None) -> BoardError:
        """The error for a full disk; sizes in bytes."""
        have = "no space" if free is None else f"{free / 1e6:.1f} MB"
        return BoardError(
            f"the disk of '{self.name}' is full: {path} needs {needed / 1e6:.1f} MB,"
            f" {have} free below {self.workdir}",
            f"remove old bundles on the board (`{remove_bundles(self.workdir)}`), or choose another"
            " workdir",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """See `Session.close`."""
