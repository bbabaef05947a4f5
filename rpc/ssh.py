"""Boards over SSH: commands over channels, files over SFTP by content hash."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import posixpath
import secrets
import socket
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import paramiko

from edgecompress.errors import BoardError
from edgecompress.files import sha256_file

from ..targets import BoardEntry, load_board
from .deadline import Deadline
from .process import Running, command_line
from .session import CHUNK, DOWNLOAD_BYTES, Commands, nothing
from .ssh_connect import open_client
from .tunnel import Tunnel, tunnel

SFTP_S = 60.0
# From this size on, the free space is asked for before a file is sent.
ASK_FIRST = 1 << 20
# A part of a file that nothing was added to for so long is what a killed upload left.
STALE_S = 600
# Of a download so much is asked for ahead of what has come; bytes.
AHEAD = 2 << 20
# What a transfer ends with, other than well.
_FAULTS = (paramiko.SSHException, paramiko.SFTPError, EOFError, OSError)


class SshSession(Commands):
    """A board that an inventory entry names.

    Raises:
        BoardError: it cannot be reached, trusted or logged in to.
    """

    def __init__(self, entry: BoardEntry, timeout: float | None = None) -> None:
        board = load_board(entry.board)
        self.board = dataclasses.replace(board, python=entry.python) if entry.python else board
        self.name = entry.name
        self.entry = entry
        self.require = nothing
        self._client = open_client(entry, timeout)
        self._started: list[_Channel] = []
        try:
            self._sftp = self._open_sftp()
            home = self._sftp.normalize(".")
            self.workdir = posixpath.normpath(posixpath.join(home, entry.workdir))
            self._make_folder(self.workdir)
        except BaseException as error:
            self._client.close()
            if isinstance(error, _FAULTS):
                raise self._failed("use", entry.workdir, error) from error
            raise

    def _open_sftp(self) -> paramiko.SFTPClient:
        try:
            sftp = self._client.open_sftp()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise BoardError(
                f"'{self.name}' has no SFTP: {error}",
                "install it on the board: sudo apt install openssh-sftp-server",
            ) from error
        channel = sftp.get_channel()
        if channel:
            channel.settimeout(SFTP_S)
        return sftp

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
        transport = self._client.get_transport()
        try:
            if transport is None:
                raise paramiko.SSHException("closed")
            channel = transport.open_session(timeout=SFTP_S)
            channel.settimeout(None)
            channel.exec_command(line)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost(error) from error
        started = _Channel(channel)
        self._started = [one for one in self._started if one.alive] + [started]
        return Running(started, argv[0], self.name, timeout, self.require)

    def upload(self, local: Path, remote: str) -> bool:
        """See `Session.upload`. The hash lies beside the file, with its size and time."""
        path, size, digest = self.path(remote), local.stat().st_size, sha256_file(local)
        if self._recorded(path) == digest:
            return False
        with local.open("rb") as stream:
            self._place(path, stream, size)
        self._record(path, digest)
        return True

    def write(self, remote: str, content: bytes) -> None:
        """See `Session.write`."""
        self._place(self.path(remote), io.BytesIO(content), len(content))

    def download(self, remote: str, local: Path, limit: int = DOWNLOAD_BYTES) -> None:
        """See `Session.download`."""
        path = self.path(remote)
        try:
            with self._sftp.open(path) as source:
                size = source.stat().st_size or 0
                if size > limit:
                    raise self.too_large(path, limit)
                self.keep(_chunks(source, size), local, path, limit)
        except _FAULTS as error:
            raise self._failed("read", path, error) from error

    def remove(self, remote: str) -> None:
        """See `Session.remove`."""
        path = self.own_path(remote)
        done = self.run(["rm", "-rf", "--", path, _record_of(path)], timeout=SFTP_S)
        done.check(f"cannot remove {path} on '{self.name}'")

    def ping(self) -> float:
        """See `Session.ping`."""
        start = time.monotonic()
        transport = self._client.get_transport()
        try:
            if transport is not None:  # each server refuses what it does not know
                transport.global_request("ping@edgecompress", wait=True)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._lost(error) from error
        if transport is None or not transport.is_active():
            raise self._lost(EOFError("it has ended"))
        return time.monotonic() - start

    def tunnel(self, back: int = 0) -> AbstractContextManager[Tunnel]:
        """See `Session.tunnel`. It is a process of its own."""
        return tunnel(self.entry, back)

    def close(self) -> None:
        """See `Session.close`."""
        for channel in self._started:
            channel.hang_up()
        self._client.close()

    def _recorded(self, path: str) -> str | None:
        """The hash of what lies at `path`, if it is what we wrote and nobody has touched it."""
        try:
            with self._sftp.open(_record_of(path)) as stream:
                digest, size, mtime = stream.read(200).decode("ascii", "replace").split()
            there = self._sftp.stat(path)
        except (OSError, ValueError):
            return None
        except _FAULTS as error:
            raise self._lost(error) from error
        return digest if [str(there.st_size), str(there.st_mtime)] == [size, mtime] else None

    def _record(self, path: str, digest: str) -> None:
        try:
            there = self._sftp.stat(path)
        except _FAULTS as error:
            raise self._failed("write", path, error) from error
        text = f"{digest} {there.st_size} {there.st_mtime}\n".encode()
        self._place(_record_of(path), io.BytesIO(text), len(text))

    def _place(self, path: str, stream: BinaryIO, size: int) -> None:
        """Write beside `path`, then rename."""
        if size >= ASK_FIRST:
            free = self._free(posixpath.dirname(path))
            if free is not None and free < size:
                raise self.disk_full(path, size, free)
        folder, name = posixpath.split(path)
        beside = posixpath.join(folder, f".{name}.{secrets.token_hex(4)}.part")
        try:
            self._send(beside, stream, size)
            if size >= ASK_FIRST:
                self._sweep(folder, name, beside)
            self._sftp.posix_rename(beside, path)
        except _FAULTS as error:
            free = self._clean(beside)
            if free is not None and free < size:
                raise self.disk_full(path, size, free) from error
            raise self._failed("write", path, error) from error

    def _send(self, beside: str, stream: BinaryIO, size: int) -> None:
        try:
            self._sftp.putfo(stream, beside, size)
        except FileNotFoundError:
            self._make_folder(posixpath.dirname(beside))
            stream.seek(0)
            self._sftp.putfo(stream, beside, size)

    def _sweep(self, folder: str, name: str, fresh: str) -> None:
        """Remove what killed uploads left of a file; their age is by the board's own clock."""
        now = self._sftp.stat(fresh).st_mtime or 0
        for one in self._sftp.listdir_attr(folder):
            is_part = one.filename.startswith(f".{name}.") and one.filename.endswith(".part")
            if is_part and now - (one.st_mtime or now) > STALE_S:
                with contextlib.suppress(OSError):
                    self._sftp.remove(posixpath.join(folder, one.filename))

    def _clean(self, beside: str) -> int | None:
        """Remove a part of a file; bytes that are free then, None where nobody knows."""
        with contextlib.suppress(*_FAULTS):
            self._sftp.remove(beside)
        return self._free(posixpath.dirname(beside))

    def _free(self, folder: str) -> int | None:
        """Bytes free on the file system of a folder, or of `workdir` if it is not there yet."""
        try:
            done = self.run(["df", "-Pk", "--", folder, self.workdir], timeout=SFTP_S)
            return int(done.stdout.splitlines()[1].split()[-3]) * 1024
        except (BoardError, ValueError, IndexError):
            return None

    def _make_folder(self, path: str) -> None:
        missing = []
        while path != "/":
            try:
                mode = self._sftp.stat(path).st_mode or 0
            except FileNotFoundError:
                missing.append(path)
                path = posixpath.dirname(path)
                continue
            if not stat.S_ISDIR(mode):
                raise BoardError(f"{path} on '{self.name}' is no folder")
            break
        for folder in reversed(missing):
            try:
                self._sftp.mkdir(folder)
            except OSError as error:
                # SFTP has few words for what went wrong; the board's own program has more.
                done = self.run(["mkdir", "--", folder], timeout=SFTP_S, cwd="/")
                reason = OSError(done.stderr.strip().rpartition(": ")[2])
                raise self._failed("make", folder, reason if str(reason) else error) from error

    def _failed(self, verb: str, path: str, error: Exception) -> BoardError:
        if isinstance(error, (paramiko.SSHException, EOFError, socket.timeout)):
            return self._lost(error)
        return BoardError(f"cannot {verb} {path} on '{self.name}': {error}")

    def _lost(self, error: Exception) -> BoardError:
        return BoardError(
            f"the connection to '{self.name}' was lost: {error or type(error).__name__}",
            "check the board's power and network, then run the same command again",
        )


def _record_of(path: str) -> str:
    folder, name = posixpath.split(path)
    return posixpath.join(folder, f".{name}.sha256")


def _chunks(source: paramiko.SFTPFile, size: int) -> Iterator[bytes]:
    """What a file holds. It is asked for ahead, as a link may be slow to answer, but never as far
    as `size`, which is what the board says."""
    done = asked = 0
    while True:
        if asked <= done < size:
            asked = min(size, done + AHEAD)
            source.prefetch(asked)
        chunk = source.read(CHUNK)
        if not chunk:
            return
        done += len(chunk)
        yield chunk


class _Channel:
    """An SSH channel as `process.Transport`."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    @property
    def alive(self) -> bool:
        return not self._channel.closed

    def read(self, stream: str, size: int) -> bytes:
        channel = self._channel
        return channel.recv(size) if stream == "stdout" else channel.recv_stderr(size)

    def exit_status(self, timeout: float) -> int | None:
        self._channel.status_event.wait(Deadline(timeout).remaining)
        status = self._channel.exit_status
        return None if status < 0 else status

    def beat(self) -> None:
        self._channel.sendall(b"\n")

    def hang_up(self) -> None:
        # Of a connection that has ended meanwhile there is nothing to close.
        with contextlib.suppress(EOFError, OSError, paramiko.SSHException):
            self._channel.close()
