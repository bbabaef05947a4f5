"""What known_hosts files say of host keys, line by line: a damaged one stands in no other's way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry

from edgecompress.errors import BoardError

_REVOKED = "@revoked"


@dataclass(frozen=True)
class KnownHosts:
    """What some files say.

    Attributes:
        keys: host name, as a line has it, and its key; in the files' order.
        revoked: keys that are good for no host, as they are sent.
    """

    keys: tuple[tuple[str, paramiko.PKey], ...] = ()
    revoked: frozenset[bytes] = frozenset()


def read_known_hosts(paths: Iterable[str]) -> KnownHosts:
    """Read files; lines that cannot be read are left out, and so are certificate authorities.

    Raises:
        BoardError: a file cannot be read: it may revoke keys.
    """
    keys: list[tuple[str, paramiko.PKey]] = []
    revoked: set[bytes] = set()
    for path in paths:
        for line in _lines(path):
            marker, _, rest = line.partition(" ") if line.startswith("@") else ("", "", line)
            entry = _entry(rest) if marker in ("", _REVOKED) else None
            if entry is None:
                continue
            names, key = entry
            if marker:
                revoked.add(key.asbytes())
            elif key.get_base64() == rest.split(" ")[2]:  # one that was cut off is read with zeros
                keys += [(name, key) for name in names if _is_sound(name)]
    kept = tuple((name, key) for name, key in keys if key.asbytes() not in revoked)
    return KnownHosts(kept, frozenset(revoked))


def _lines(path: str) -> list[str]:
    """The lines that say something, with one space between their words."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BoardError(f"cannot read {path}: {error.strerror}", f"mend {path}") from error
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return [line for line in lines if line and not line.startswith("#")]


def _entry(line: str) -> tuple[list[str], paramiko.PKey] | None:
    """The names of a line and their key; None where it is damaged, or no key that we know."""
    try:
        entry = HostKeyEntry.from_line(line)
    except Exception:  # damaged keys end in errors of many sorts
        return None
    return (entry.hostnames, entry.key) if entry else None


def _is_sound(name: str) -> bool:
    """Whether a host name that is hashed can be compared with others."""
    try:
        return not name.startswith("|1|") or bool(paramiko.HostKeys.hash_host("", name))
    except (AssertionError, ValueError):
        return False
