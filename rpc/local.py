"""The board `host`: commands as processes of this machine, files in a folder of the cache."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from edgecompress.errors import BoardError
from edgecompress.files import cache_dir, sha256_file, writing

from ..targets import Board
from .process import Running, command_line
from .session import CHUNK, DOWNLOAD_BYTES, Commands, nothing
from .tunnel import Tunnel


class LocalSession(Commands):
    """The session of this machine; `python3` is the interpreter that runs this."""

    def __init__(self, board: Board, workdir: Path | None = None) -> None:
        self.board = board
        self.name = board.name
        self.require = nothing
        self.workdir = str((workdir or cache_dir("host-board")).resolve())
        Path(self.workdir).mkdir(parents=True, exist_ok=True)
        self._started: list[_Pipes] = []

    def start(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Running:
        """See `Session.start`."""
        line = command_line(argv, timeout=timeout, env=env, cwd=self.path(cwd or "."))
        python_first = os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        )
        process = subprocess.Popen(
            ["/bin/sh", "-c", line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PATH": python_first},
            start_new_session=True,
        )
        pipes = _Pipes(process)
        self._started = [one for one in self._started if one.alive] + [pipes]
        return Running(pipes, argv[0], self.name, timeout, self.require)

    def upload(self, local: Path, remote: str) -> bool:
        """See `Session.upload`."""
        target = Path(self.path(remote))
        if target.is_file() and sha256_file(target) == sha256_file(local):
            return False
        self._place(target, local.stat().st_size, lambda path: shutil.copyfile(local, path))
        return True

    def write(self, remote: str, content: bytes) -> None:
        """See `Session.write`."""
        target = Path(self.path(remote))
        self._place(target, len(content), lambda path: path.write_bytes(content))

    def _place(self, target: Path, size: int, fill: Callable[[Path], object]) -> None:
        try:
            with writing(target) as temporary:
                fill(temporary)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = shutil.disk_usage(self.workdir).free
                raise self.disk_full(str(target), size, free) from error
            raise BoardError(f"cannot write {target}: {error.strerror}") from error

    def download(self, remote: str, local: Path, limit: int = DOWNLOAD_BYTES) -> None:
        """See `Session.download`."""
        source = Path(self.path(remote))
        try:
            with source.open("rb") as stream:
                if source.stat().st_size > limit:
                    raise self.too_large(str(source), limit)
                self.keep(iter(partial(stream.read, CHUNK), b""), local, str(source), limit)
        except OSError as error:
            raise BoardError(f"cannot copy {source}: {error.strerror}") from error

    def remove(self, remote: str) -> None:
        """See `Session.remove`."""
        path = Path(self.own_path(remote))
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def ping(self) -> float:
        """See `Session.ping`."""
        return 0.0

    def tunnel(self, back: int = 0) -> AbstractContextManager[Tunnel]:
        """See `Session.tunnel`: none is needed, both ends have the same ports."""
        return nullcontext(Tunnel(0, back, lambda _: None))

    def close(self) -> None:
        """See `Session.close`."""
        for pipes in self._started:
            pipes.hang_up()


class _Pipes:
    """A local process as `process.Transport`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def read(self, stream: str, size: int) -> bytes:
        pipe = self._process.stdout if stream == "stdout" else self._process.stderr
        assert pipe is not None
        return pipe.read(size) or b""

    def exit_status(self, timeout: float) -> int | None:
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return status if status >= 0 else 128 - status

    def beat(self) -> None:
        with self._lock:
            if self._process.stdin:
                self._process.stdin.write(b"\n")

    def hang_up(self) -> None:
        """Closing the lifeline makes the wrapper's shell kill the command, then end itself."""
        with self._lock:
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
