"""Executed instructions, block by block, of an arm64 program under QEMU's user emulation."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edgecompress.errors import BoardError
from edgecompress.files import cache_dir, sha256_file, writing

from ...rpc.virtual import disk

QEMU = "qemu-aarch64"
APT_PACKAGES = ("qemu-user", "gcc", "libc6-dev", "llvm-19")
PLUGIN = Path(__file__).with_name("blocks.c")
DISK_OF = "virtual-pi4"
MARK = 0x7EC0
"""Number of the system call that marks a section; `libc.syscall(MARK, label)`."""

Counts = Mapping[str, int]
"""How often each block has run. A block is its instructions, 8 hexadecimal digits each."""


def instructions(counts: Counts) -> int:
    """Executed instructions."""
    return sum(runs * len(code) // 8 for code, runs in counts.items())


def why_not() -> str:
    """What this machine lacks for counting; empty where it can."""
    missing = [tool for tool in (QEMU, "gcc") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


def counted(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    timeout: float,
    cpu: str = "max",
    board: str = DISK_OF,
) -> tuple[dict[int, Counts], str]:
    """Run an arm64 program out of a virtual board's disk and count what it executes.

    Args:
        argv: the program below the disk's root ("usr/bin/python3"), and its arguments; these name
            files of this machine.
        env: its environment, and nothing else.
        timeout: seconds; then it is killed.
        cpu: which of QEMU's CPUs it sees; by default one with all that any of our boards' cores
            has. Programs that choose their code by what the CPU can do need the board's own.
        board: the virtual board whose disk it is.

    Returns:
        The counts of each label that was marked, and what it printed.

    Raises:
        BoardError: this machine lacks something, or the program failed.
    """
    with tempfile.TemporaryDirectory(prefix="edgecompress-count-") as folder:
        sections = Path(folder) / "sections.txt"
        command = _command(argv, sections, board)
        try:
            done = subprocess.run(
                command,
                env=_environment(env, cpu),
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _too_long(argv, timeout) from None
        if done.returncode != 0:
            raise _failed(argv, done.stderr, done.returncode)
        return read_sections(sections.read_text().splitlines()), done.stdout


class CountedServer:
    """An arm64 program that stays, and answers lines with lines, counted.

    Args:
        argv, env, cpu, board: as of `counted`.

    Raises:
        BoardError: this machine lacks something.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], cpu: str = "max", board: str = DISK_OF
    ) -> None:
        self._argv = argv
        self._folder = tempfile.TemporaryDirectory(prefix="edgecompress-count-")
        self._sections = Path(self._folder.name) / "sections.txt"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._said = b""
        self._process = subprocess.Popen(
            _command(argv, self._sections, board),
            env=_environment(env, cpu),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def ask(self, line: str, timeout: float) -> tuple[str, dict[int, Counts]]:
        """Give it a line; the line it answers, and the counts of each label marked until then.

        Raises:
            BoardError: it ended, or took longer than `timeout` seconds: then it is killed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except OSError:
            raise self._end() from None
        answer = self._line(timeout)
        sections = read_sections(self._sections.read_text().splitlines())
        os.truncate(self._sections, 0)  # the plugin appends
        return answer, sections

    def close(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _line(self, timeout: float) -> str:
        assert self._process.stdout is not None
        descriptor, end = self._process.stdout.fileno(), time.monotonic() + timeout
        while b"\n" not in self._said:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                self._process.kill()
                raise _too_long(self._argv, timeout)
            more = os.read(descriptor, 1 << 16)
            if not more:
                raise self._end()
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def _end(self) -> BoardError:
        """Why it has ended."""
        status = self._process.wait()
        self._errors.seek(0)
        return _failed(self._argv, self._errors.read().decode(errors="replace"), status)


def _command(argv: Sequence[str], sections: Path, board: str) -> list[str]:
    """The command that runs a program of a board's disk, counted into a file."""
    reason = why_not()
    if reason:
        raise BoardError(
            f"instructions cannot be counted: {reason}",
            f"sudo apt-get install --no-install-recommends {' '.join(APT_PACKAGES)}",
        )
    tree = disk(board)
    plugin = f"{_plugin()},out={sections}"
    return [QEMU, "-L", str(tree), "-plugin", plugin, str(tree / argv[0]), *argv[1:]]


def _environment(env: Mapping[str, str], cpu: str) -> dict[str, str]:
    return {**env, "QEMU_CPU": cpu, "PATH": os.defpath}


def _too_long(argv: Sequence[str], timeout: float) -> BoardError:
    return BoardError(f"{argv[0]} took longer than {timeout:g} s under emulation")


def _failed(argv: Sequence[str], said: str, status: int) -> BoardError:
    last = (said.strip().splitlines() or [f"exit status {status}"])[-1]
    return BoardError(f"{argv[0]} failed under emulation: {last}")


def read_sections(lines: Iterable[str]) -> dict[int, Counts]:
    """Counts by label, from what the plugin wrote; blocks that were translated twice add up."""
    found: dict[int, Counter[str]] = {}
    current: Counter[str] = Counter()
    for line in lines:
        first, _, second = line.partition(" ")
        if first == "section":
            current = found.setdefault(int(second), Counter())
        else:
            current[second] += int(first)
    return dict(found)


def _plugin() -> Path:
    """The compiled plugin, in the cache under its source's hash."""
    library = cache_dir("qemu-plugin") / f"blocks-{sha256_file(PLUGIN)[:16]}.so"
    if not library.exists():
        with writing(library) as temporary:
            command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(temporary), str(PLUGIN)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise BoardError(
                    f"QEMU's plugin does not build: {done.stderr.strip().splitlines()[-1]}",
                    "sudo apt-get install gcc libc6-dev",
                )
    return library
