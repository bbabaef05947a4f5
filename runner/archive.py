"""Plain tar archives as the bundle's builder writes them (POSIX ustar), and nothing else.

Python's own `tarfile` reads links, devices, sparse files, extended headers that rename and resize
what follows, and numbers of any size. A bundle has none of these, so that they are refused by the
one reader here, which is the same on every Python, and holds one block in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from .manifest import MAX_FILES, safe_path, wrong

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_MAGIC = b"ustar\x0000"
_PLAIN = (b"0", b"\0")
_OCTAL = re.compile(rb"([0-7]{1,11})[ \0]*\Z")
_CHECKSUM = slice(148, 156)
_MAX_TAIL = 1 << 20  # zeros after the end; tar fills up to 10 KiB


class Member:
    """A plain file in an archive: its name, its size in bytes, and its content, once, in order."""

    def __init__(self, name: str, size: int, stream: BinaryIO) -> None:
        self.name = name
        self.size = size
        self._stream = stream
        self._left = size

    def read(self, most: int = -1) -> bytes:
        """Up to `most` bytes (all by default); b"" at the end.

        Raises:
            RunnerError: (`bundle`) the archive ends in the middle.
        """
        wanted = self._left if most < 0 else min(most, self._left)
        content = self._stream.read(wanted)
        if len(content) < wanted:
            raise _cut_off()
        self._left -= wanted
        return content


def members(stream: BinaryIO) -> Iterator[Member]:
    """The members of an archive, each with a safe path of its own; read each before the next.

    Raises:
        RunnerError: (`bundle`) it is no such archive, is cut off, or has something after its end.
    """
    seen: set[str] = set()
    while True:
        header = stream.read(_BLOCK)
        if len(header) < _BLOCK:
            raise _cut_off()
        if header == _ZEROS:
            _require_end(stream)
            return
        member = _member(header, stream)
        if member.name in seen:
            raise wrong(f"the bundle has {member.name} twice")
        # Its manifest and its signature are not counted.
        if len(seen) > MAX_FILES + 1:
            raise wrong(f"the bundle has more than {MAX_FILES} files")
        seen.add(member.name)
        yield member
        while member.read(1 << 20):
            pass
        padding = stream.read(-member.size % _BLOCK)
        if len(padding) < -member.size % _BLOCK:
            raise _cut_off()
        if padding.strip(b"\0"):
            raise wrong(f"the bundle hides something behind {member.name}")


def _member(header: bytes, stream: BinaryIO) -> Member:
    kind, link = header[156:157], header[157:257]
    if header[257:265] != _MAGIC:
        raise wrong("the bundle is not a plain tar archive")
    blank = header[: _CHECKSUM.start] + b" " * 8 + header[_CHECKSUM.stop :]
    if _octal(header[_CHECKSUM]) != sum(blank):
        raise wrong("the bundle has a damaged header")
    prefix = _text(header[345:500])
    name = _text(header[:100])
    path = f"{prefix}/{name}" if prefix else name
    if kind not in _PLAIN or link.strip(b"\0"):
        raise wrong(f"the bundle has something that is not a plain file: {path[:100]!r}")
    if not safe_path(path):
        raise wrong(f"the bundle has an unsafe path: {path[:100]!r}")
    return Member(path, _octal(header[124:136]), stream)


def _text(field: bytes) -> str:
    """A field up to its first zero; nothing may stand behind that."""
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise wrong("the bundle hides something behind a name")
    return text.decode("latin-1")


def _octal(field: bytes) -> int:
    match = _OCTAL.match(field)
    if match is None:
        raise wrong("the bundle has a header with a number that is none")
    return int(match.group(1), 8)


def _require_end(stream: BinaryIO) -> None:
    tail = stream.read(_MAX_TAIL + 1)
    if len(tail) < _BLOCK:
        raise _cut_off()
    if len(tail) > _MAX_TAIL or tail.strip(b"\0"):
        raise wrong("the bundle has something behind its end")


def _cut_off() -> Exception:
    return wrong("the bundle is cut off, or is not a tar archive")
