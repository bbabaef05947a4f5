"""A command that runs on a board: how its command line is made, and how its output is read."""

from __future__ import annotations

import math
import queue
import re
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from edgecompress.errors import BoardError, UsageError

from .deadline import Deadline

OnLine = Callable[[str], None]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_KILLED = 128 + 9
# How long after the board's own limit we wait for it to say that it has killed the command.
GRACE_S = 10.0

# The command runs in a process group of its own (that of `timeout`), away from our standard input.
# That input is a lifeline: when it closes, because we closed it or because we or the connection
# died, the whole group is killed. A link that was cut closes nothing: so a line comes every
# `BEAT_S`, and the group is killed too when none came for `SILENCE_S`.
_SCRIPT = (
    'cd "$1" || exit 125; limit=$2 silence=$3; shift 3; exec 3<&0; '
    'timeout -s KILL "$limit" env "$@" </dev/null 3<&- & job=$!; '
    '(if [ "$limit" -gt "$silence" ]; '
    'then while timeout "$silence" sh -c "read -r _" <&3; do :; done; '
    "else while read -r _ <&3; do :; done; fi; "
    "kill -s KILL -- -$job || kill -s KILL $job) >/dev/null 2>&1 & line=$!; "
    "wait $job; code=$?; kill $line 2>/dev/null; exit $code"
)
BEAT_S = 30.0
SILENCE_S = 120
# What a command may say at most; a run over a hundred thousand photos says a fifth of it.
OUTPUT_BYTES = 100 << 20
# So much is kept of what a listener has heard.
HEARD_CHUNKS = 256


@dataclass(frozen=True)
class Completed:
    """A command that has ended. `stdout` and `stderr` are decoded as UTF-8."""

    returncode: int
    stdout: str
    stderr: str

    def check(self, what: str, hint: str = "") -> Completed:
        """Itself, where the command succeeded.

        Raises:
            BoardError: it failed; the message is `what` and the last line of stderr.
        """
        if self.returncode == 0:
            return self
        lines = self.stderr.strip().splitlines() or self.stdout.strip().splitlines()
        reason = lines[-1] if lines else f"exit status {self.returncode}"
        raise BoardError(f"{what}: {reason}", hint)


def command_line(
    argv: Sequence[str], *, timeout: float, env: Mapping[str, str] | None, cwd: str
) -> str:
    """One line for the board's login shell that runs `argv` with a limit and a lifeline.

    Raises:
        UsageError: an argument holds a NUL byte, or a variable has no proper name.
    """
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"not a command: {list(argv)!r}")
    variables = []
    for name, value in (env or {}).items():
        if not _VARIABLE.match(name):
            raise UsageError(f"not a name of an environment variable: {name!r}")
        variables.append(f"{name}={value}")
    # `env` would take a program's name with '=' for a variable.
    program = ["sh", "-c", 'exec "$0" "$@"', *argv] if "=" in argv[0] else list(argv)
    limit = str(max(1, math.ceil(timeout)))
    words = ["sh", "-c", _SCRIPT, "edgecompress", cwd, limit, str(SILENCE_S)]
    words += [*variables, *program]
    if any("\0" in word for word in words):
        raise UsageError("a command holds a NUL byte")
    return shlex.join(words)


class Transport(Protocol):
    """The two ends of a started command, as a driver gives them."""

    def read(self, stream: str, size: int) -> bytes:
        """Up to `size` bytes of "stdout" or "stderr", when there are any; b"" at the end."""
        ...

    def exit_status(self, timeout: float) -> int | None:
        """The exit status, or None where there is none: the connection was lost."""
        ...

    def beat(self) -> None:
        """Send an empty line down the lifeline; `OSError` where it is closed."""
        ...

    def hang_up(self) -> None:
        """Close the lifeline and all streams."""
        ...


class Running:
    """A started command. Two threads read its streams, so that neither can block the other, and
    a third tells the board that we are there.

    Args:
        require: raises `BoardError` once the command is to end; asked whenever we listen to it.
    """

    def __init__(
        self,
        transport: Transport,
        label: str,
        board: str,
        timeout: float,
        require: Callable[[], None],
    ) -> None:
        self._require = require
        self._transport = transport
        self._label = label
        self._board = board
        self._timeout = timeout
        self._started = Deadline(timeout)
        self._deadline = Deadline(timeout + GRACE_S)
        # Bounded, so that a board which talks without end is not listened to without end.
        self._chunks: queue.Queue[tuple[str, bytes]] = queue.Queue(maxsize=256)
        self._output: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._said = 0
        self._line = b""
        self._open = 2
        self._completed: Completed | None = None
        self._ended = threading.Event()
        for stream in self._output:
            threading.Thread(target=self._pump, args=(stream,), daemon=True).start()
        if timeout > SILENCE_S:
            threading.Thread(target=self._beat, name="lifeline", daemon=True).start()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self._transport.beat()
            except (OSError, ValueError):
                return

    def _pump(self, stream: str) -> None:
        while True:
            try:
                chunk = self._transport.read(stream, 65536)
            except (OSError, ValueError):
                chunk = b""
            if not self._told((stream, chunk)) or not chunk:
                return

    def _told(self, said: tuple[str, bytes]) -> bool:
        """Hand over what was read; False where the command was stopped and nobody listens."""
        while True:
            try:
                self._chunks.put(said, timeout=1.0)
                return True
            except queue.Full:
                if self._ended.is_set():
                    return False

    def wait(self, on_line: OnLine | None = None) -> Completed:
        """Wait for the end, giving the lines of stdout to `on_line` as they come.

        Raises:
            BoardError: the time limit passed (the command was killed), the connection was lost, or
                the board is ours no more.
        """
        try:
            while not self.poll(min(self._deadline.remaining, 1.0), on_line):
                if self._deadline.expired:
                    raise self._timed_out()
            return self._finish()
        except BaseException:
            self.stop()
            raise

    def poll(self, timeout: float, on_line: OnLine | None = None) -> bool:
        """Handle one chunk of output, waiting up to `timeout` s; True when all has been read.

        With `on_line` only the last of the output is kept.

        Raises:
            BoardError: the command says more than anything of ours would, or is to end.
        """
        self._require()
        if self._open == 0:
            return True
        try:
            stream, chunk = self._chunks.get(timeout=timeout)
        except queue.Empty:
            return False
        if not chunk:
            self._open -= 1
        if not self._open:
            self._ended.set()
        self._output[stream].append(chunk)
        if on_line and len(self._output[stream]) > 2 * HEARD_CHUNKS:
            del self._output[stream][:-HEARD_CHUNKS]
        self._said += len(chunk)
        if self._said > OUTPUT_BYTES:
            self.stop()
            raise BoardError(
                f"'{self._label}' on '{self._board}' said more than {OUTPUT_BYTES >> 20} MiB"
                " and was killed",
                f"see what the board runs: edgecompress doctor --board {self._board}",
            )
        if stream == "stdout" and on_line:
            self._lines(chunk, on_line)
        return self._open == 0

    def _lines(self, chunk: bytes, on_line: OnLine) -> None:
        if not chunk and self._line:
            chunk = b"\n"
        *whole, self._line = (self._line + chunk).split(b"\n")
        for line in whole:
            on_line(line.decode("utf-8", errors="replace"))

    def text(self, stream: str) -> str:
        """What has been handled of "stdout" or "stderr" so far."""
        return b"".join(self._output[stream]).decode("utf-8", errors="replace")

    def _finish(self) -> Completed:
        if self._completed is None:
            status = self._transport.exit_status(self._deadline.remaining)
            self._transport.hang_up()
            if status is None:
                raise BoardError(
                    f"the connection to '{self._board}' was lost while '{self._label}' ran",
                    "check the board's power and network, then run the same command again",
                )
            if status == _KILLED and self._started.expired:
                raise self._timed_out()
            self._completed = Completed(status, self.text("stdout"), self.text("stderr"))
        return self._completed

    def _timed_out(self) -> BoardError:
        return BoardError(
            f"'{self._label}' took longer than {self._timeout:g} s on '{self._board}'"
            " and was killed",
            f"see whether the board is busy or hot: edgecompress doctor --board {self._board}",
        )

    def stop(self) -> None:
        """Kill the command and all that it started. Safe to call twice, or after its end."""
        self._ended.set()
        self._transport.hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
