"""Executed instructions, block by block, of an arm64 program under QEMU's user emulation."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
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
    reason = why_not()
    if reason:
        raise BoardError(
            f"instructions cannot be counted: {reason}",
            f"sudo apt-get install --no-install-recommends {' '.join(APT_PACKAGES)}",
        )
    tree = disk(board)
    with tempfile.TemporaryDirectory(prefix="edgecompress-count-") as folder:
        sections = Path(folder) / "sections.txt"
        command = [QEMU, "-L", str(tree), "-plugin", f"{_plugin()},out={sections}"]
        try:
            done = subprocess.run(
                [*command, str(tree / argv[0]), *argv[1:]],
                env={**env, "QEMU_CPU": cpu, "PATH": os.defpath},
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BoardError(f"{argv[0]} took longer than {timeout:g} s under emulation") from None
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise BoardError(f"{argv[0]} failed under emulation: {last}")
        return read_sections(sections.read_text().splitlines()), done.stdout


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
