"""From an inventory entry and ~/.ssh/config to addresses: who is reached, by which way, as whom."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import paramiko

from edgecompress import events
from edgecompress.errors import BoardError

from ..targets import BoardEntry

CONNECT_S = 20.0
KEEPALIVE_S = 10
MAX_HOPS = 8
_MAX_INCLUDES = 16

_HOP = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@\s,]+)@)?(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s,:@\[\]-][^\s,:@\[\]]*))"
    r"(?::(?P<port>[0-9]{1,5}))?\Z"
)
_HEADER = re.compile(r"\s*(?:host|match)(?:\s|=)", re.IGNORECASE)
_INCLUDE = re.compile(r"\s*include(?:\s+|\s*=\s*)(.*)", re.IGNORECASE)

# What changes whom we reach or trust, and is not followed: said once, never passed over.
_NOT_FOLLOWED = {
    "addressfamily": ("any",),
    "bindaddress": (),
    "bindinterface": (),
    "ciphers": (),
    "hostkeyalgorithms": (),
    "identityagent": ("none", "SSH_AUTH_SOCK"),
    "kexalgorithms": (),
    "knownhostscommand": ("none",),
    "macs": (),
    "pkcs11provider": ("none",),
    "pubkeyacceptedalgorithms": (),
    "revokedhostkeys": ("none",),
    "securitykeyprovider": ("internal",),
    "stricthostkeychecking": ("yes", "ask"),
    "verifyhostkeydns": ("no",),
}

_Found = dict[str, str | list[str] | None]


@dataclass(frozen=True)
class Address:
    """A host to log in to, ~/.ssh/config taken into account.

    Attributes:
        host: name or address to connect to.
        port: of its SSH server.
        user: to log in as.
        identity_files: private keys, and certificates for them.
        host_key: the pinned fingerprint; "" lets the known_hosts files decide.
        name: what messages call it.
        known_as: the name and port that known_hosts files know it by.
        known_hosts: these files.
        only_these: log in with `identity_files` and no other key.
        agent: whether the SSH agent may be asked.
        proxy: the program whose standard input and output lead there; "" for a socket.
        jumps: the hosts on the way, the one that is reached first in front.
        connect_s: the user's own limit for connecting, if there is one.
        keepalive_s: seconds between signs of life.
        compress: whether to compress what is sent.
    """

    host: str
    port: int
    user: str
    identity_files: tuple[str, ...]
    host_key: str
    name: str
    known_as: tuple[str, int]
    known_hosts: tuple[str, ...]
    only_these: bool = False
    agent: bool = True
    proxy: str = ""
    jumps: tuple[Address, ...] = ()
    connect_s: float | None = None
    keepalive_s: int = KEEPALIVE_S
    compress: bool = False

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


def resolve(entry: BoardEntry) -> Address:
    """The address of a board; the inventory's own values go before those of ~/.ssh/config.

    Raises:
        BoardError: ~/.ssh/config cannot be read, has a value that makes no sense, or leads in a
            circle; or there are not as many pinned keys as jump hosts.
    """
    config = _read_config()
    found = _lookup(config, entry.host, entry.port, entry.user)
    address = _address(found, entry.host, entry.name)
    if entry.identity_file:
        own = (_home(entry.identity_file),)
        address = replace(address, identity_files=own, only_these=True)
    way = entry.jump or _jump(found)
    jumps = _chain(config, way, 1)
    if entry.jump:
        address = replace(address, proxy="")
        # The board's own key often opens the jump host of the inventory too.
        jumps = tuple(_with_identity(hop, entry.identity_file) for hop in jumps)
    jumps = _pinned(jumps, entry)
    return replace(address, host_key=entry.host_key, jumps=jumps)


def _address(found: _Found, host: str, name: str) -> Address:
    """One host, without the hosts on the way to it."""
    for key, harmless in _NOT_FOLLOWED.items():
        value = _text(found, key)
        if value and value not in harmless:
            _warn_once(f"~/.ssh/config sets {key} for '{host}', which is not followed")
    hostname = (_text(found, "hostname") or host).removeprefix("[").removesuffix("]")
    port = _number(found, "port", 22, 65535)
    alias = _text(found, "hostkeyalias")
    files = [_home(one) for one in found.get("identityfile") or []]
    certificate = _text(found, "certificatefile")
    if certificate.endswith("-cert.pub"):
        files.append(_home(certificate))
    elif certificate:
        _warn_once(f"{certificate} does not end with -cert.pub, and is not used")
    known = _text(found, "userknownhostsfile") or "~/.ssh/known_hosts ~/.ssh/known_hosts2"
    everyones = _text(found, "globalknownhostsfile") or "/etc/ssh/ssh_known_hosts"
    return Address(
        host=hostname,
        port=port,
        user=_text(found, "user") or getpass.getuser(),
        identity_files=tuple(one for one in files if _exists(one)),
        host_key="",
        name=name,
        known_as=(alias, 22) if alias else (hostname, port),
        known_hosts=tuple(_home(one.strip('"')) for one in f"{known} {everyones}".split()),
        only_these=_text(found, "identitiesonly").lower() == "yes",
        agent=_text(found, "identityagent").lower() != "none",
        proxy=_text(found, "proxycommand") if _way(found) == "proxycommand" else "",
        connect_s=_number(found, "connecttimeout", 0, 3600) or None,
        keepalive_s=_number(found, "serveraliveinterval", 0, 3600) or KEEPALIVE_S,
        compress=_text(found, "compression").lower() == "yes",
    )


def _chain(config: str, way: str, depth: int) -> tuple[Address, ...]:
    """The hosts of a `ProxyJump` value, and those that ~/.ssh/config puts before the first."""
    if not way or way.lower() == "none":
        return ()
    hops: list[Address] = []
    if depth > MAX_HOPS:
        raise _too_many(way)
    for place, text in enumerate(way.split(",")):
        match = _HOP.match(text.strip())
        port = int(match["port"] or 0) if match else 0
        if not match or port > 65535:
            raise BoardError(
                f"'{text.strip()[:100]}' is not a jump host", "write user@host:port, or host"
            )
        host = match["v6"] or match["host"]
        found = _lookup(config, host, port or None, match["user"] or "")
        hop = _address(found, host, f"jump host {host}")
        if place == 0:
            hops += _chain(config, _jump(found), depth + 1)
        else:
            hop = replace(hop, proxy="")
        hops.append(hop)
    if len(hops) > MAX_HOPS:
        raise _too_many(way)
    return tuple(hops)


def _too_many(way: str) -> BoardError:
    return BoardError(
        f"more than {MAX_HOPS} jump hosts on the way to '{way[:100]}'",
        "see whether the ProxyJump lines of ~/.ssh/config lead in a circle",
    )


def _with_identity(hop: Address, identity: str) -> Address:
    if hop.identity_files or not identity:
        return hop
    return replace(hop, identity_files=(_home(identity),))


def _pinned(jumps: tuple[Address, ...], entry: BoardEntry) -> tuple[Address, ...]:
    keys = entry.jump_host_key.split(",") if entry.jump_host_key else [""] * len(jumps)
    if len(keys) != len(jumps):
        raise BoardError(
            f"'{entry.name}' has {len(keys)} jump_host_key for {len(jumps)} jump hosts",
            "write one for each, in their order, with commas between them",
        )
    return tuple(replace(hop, host_key=key) for hop, key in zip(jumps, keys, strict=True))


def _way(found: _Found) -> str:
    """Which of ProxyJump and ProxyCommand stands first: it is the one that counts."""
    return next((key for key in found if key in ("proxyjump", "proxycommand")), "")


def _jump(found: _Found) -> str:
    return _text(found, "proxyjump") if _way(found) == "proxyjump" else ""


def _text(found: _Found, key: str) -> str:
    value = found.get(key)
    return value if isinstance(value, str) else ""


def _number(found: _Found, key: str, otherwise: int, most: int) -> int:
    text = _text(found, key)
    if not text:
        return otherwise
    if not text.isdecimal() or not 0 <= int(text[:9]) <= most:
        raise BoardError(f"~/.ssh/config: {key} is '{text[:50]}'", "mend ~/.ssh/config")
    return int(text)


@cache
def _warn_once(text: str) -> None:
    events.warn(text)


def _home(name: str) -> str:
    """A path with `~` resolved; as it is where that is of a user who is not here, or no name."""
    try:
        return str(Path(name).expanduser())
    except (RuntimeError, ValueError):
        return name


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def _read_config() -> str:
    path = Path("~/.ssh/config").expanduser()
    try:
        return "\n".join(_lines(path, 0))
    except (OSError, ValueError, LookupError) as error:
        raise BoardError(f"cannot read {path}: {error}", f"mend {path}") from error


def _lookup(config: str, host: str, port: int | None, user: str) -> _Found:
    """What a configuration says of a host, with a port and a user that go before its own.

    They stand in front of it, as the first value counts: so they are in `%p`, `%r` and `Match user`
    too, as those of ssh's command line are.
    """
    own = (f"Port {port}\n" if port else "") + (f"User {user}\n" if user else "")
    try:
        return dict(paramiko.SSHConfig.from_text(own + config).lookup(host))
    # `Match exec` wants a library that is not here; odd values end in errors of several sorts.
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        ImportError,
        paramiko.SSHException,
    ) as error:
        raise BoardError(
            f"cannot read ~/.ssh/config for '{host}': {error}", "mend ~/.ssh/config"
        ) from error


def _lines(path: Path, depth: int) -> Iterator[str]:
    """A configuration's lines, with those of the files that it includes in their places."""
    if not path.exists():
        return
    if depth > _MAX_INCLUDES:
        raise ValueError("files include each other in a circle")
    header = "Host *"
    for line in path.read_text(encoding="utf-8").splitlines():
        include = _INCLUDE.match(line)
        if not include:
            header = line if _HEADER.match(line) else header
            yield line
            continue
        for name in include[1].split():
            asked = Path(_home(name.strip('"')))
            base = Path("~/.ssh").expanduser()
            pattern = asked.relative_to("/") if asked.is_absolute() else asked
            root = Path("/") if asked.is_absolute() else base
            for one in sorted(root.glob(str(pattern))):
                yield from _lines(one, depth + 1)
        # What follows belongs to the block that the Include stood in.
        yield header
