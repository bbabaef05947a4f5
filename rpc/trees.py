"""Trees of Python files that boards get: packed here, unpacked there, whole or not at all."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from edgecompress import events, wheels
from edgecompress.wheels import Wheel

from .session import Session

UNPACK_S = 300.0
# The newest numpy with wheels for each Python that runs TVM's own Python files.
NUMPY = {"3.10": "2.2.6", "3.11": "2.2.6", "3.12": "2.2.6", "3.13": "2.2.6", "3.14": "2.3.5"}
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_UNPACK = (
    'rm -rf "$1.new" && mkdir -p "$1.new" && tar -xzf "$2" -C "$1.new"'
    ' && rm -rf "$1" && mv "$1.new" "$1"'
)


def archive(folder: Path, target: Path) -> None:
    """A packed tar file that is the same for the same content: sorted, without times and owners."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w") as packed,
    ):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                info = tarfile.TarInfo(str(path.relative_to(folder)))
                content = path.read_bytes()
                info.size = len(content)
                packed.addfile(info, io.BytesIO(content))


def unpack_wheels(pins: Iterable[str], arch: str, python: str, folder: Path) -> None:
    """Write the files of wheels, their own tests left out, for a board's Python ("3.11").

    Raises:
        InputError: a wheel cannot be fetched.
    """
    platforms = tuple(f"{tag}_{arch}" for tag in _PLATFORMS)
    for pin in pins:
        wheel = Wheel(pin, None, platforms, python)
        wheels.extract(wheel, lambda name: "/tests/" not in name, folder)


def send(session: Session, packed: Path, folder: str, what: str) -> None:
    """Put a packed tree's files into a folder of the board, in place of what was there.

    Args:
        folder: absolute path on the board.
        what: how people call it.

    Raises:
        BoardError: the board has no space, or cannot unpack it.
    """
    size = f"{packed.stat().st_size / 1e6:.0f} MB"
    with events.task(f"sending {what} to '{session.name}' ({size})"):
        there = f"{folder}.tar.gz"
        session.upload(packed, there)
        done = session.run(["sh", "-c", _UNPACK, "unpack", folder, there], timeout=UNPACK_S)
        session.remove(there)
        done.check(
            f"cannot unpack {what} on '{session.name}'",
            f"see what is free there: df -h {session.workdir}",
        )
