"""What a linked library is: the few facts of its ELF header that decide where it can load."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from edgecompress.errors import InputError

# e_machine of the ELF specification, by the name that `uname -m` gives.
MACHINES = {"armv7l": 40, "x86_64": 62, "aarch64": 183}
_SHARED_OBJECT = 3  # e_type ET_DYN
_GLIBC = re.compile(rb"\0GLIBC_(\d+)\.(\d+)(?:\.\d+)?(?=\0)")


@dataclass(frozen=True)
class Library:
    """A shared library's facts.

    Attributes:
        arch: `aarch64`, `x86_64`, `armv7l`, or `machine <number>` for any other.
        glibc: the newest glibc version whose symbols it asks for, or None if it asks for none.
    """

    arch: str
    glibc: tuple[int, int] | None


def read_library(path: Path) -> Library:
    """Read the header of a shared library.

    Raises:
        InputError: the file is no little-endian ELF shared library.
    """
    content = path.read_bytes()
    little_endian = content[:4] == b"\x7fELF" and content[5:6] == b"\x01"
    if not little_endian or len(content) < 20:
        raise InputError(f"{path} is not a little-endian ELF file")
    kind, machine = struct.unpack_from("<HH", content, 16)
    if kind != _SHARED_OBJECT:
        raise InputError(f"{path} is an ELF file of type {kind}, not a shared library")
    arch = next((a for a, number in MACHINES.items() if number == machine), f"machine {machine}")
    # Version names stand in the dynamic string table, each between zeros. Searching the whole
    # file can only find too many, and a network's constants do not spell GLIBC.
    versions = [(int(major), int(minor)) for major, minor in _GLIBC.findall(content)]
    return Library(arch, max(versions, default=None))
