"""Opening an SSH connection: whom we trust, how long we wait, and what to say when it fails."""

from __future__ import annotations

import getpass
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import paramiko
from paramiko.ssh_exception import NoValidConnectionsError

from edgecompress.errors import BoardError, EdgeCompressError

from ..targets import BoardEntry

CONNECT_S = 20.0
KEEPALIVE_S = 10


@dataclass(frozen=True)
class Address:
    """Where and as whom to log in, ~/.ssh/config taken into account."""

    host: str
    port: int
    user: str
    identity_files: tuple[str, ...]
    host_key: str
    name: str

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


def resolve(entry: BoardEntry) -> Address:
    """The address of a board; the inventory's own values go before those of ~/.ssh/config.

    Raises:
        BoardError: ~/.ssh/config cannot be read, or asks for a jump host.
    """
    path = Path("~/.ssh/config").expanduser()
    found: dict[str, str | list[str]] = {}
    if path.exists():
        try:
            found = dict(paramiko.SSHConfig.from_path(str(path)).lookup(entry.host))
        except (OSError, paramiko.SSHException) as error:
            raise BoardError(f"cannot read {path}: {error}", f"mend {path}") from error
    if "proxyjump" in found or "proxycommand" in found:
        raise BoardError(
            f"{path} reaches '{entry.host}' through another host, which is not supported",
            f"forward a port by hand (ssh -L 2222:{entry.host}:22 ...) and add 127.0.0.1:2222",
        )
    configured = [Path(name).expanduser() for name in found.get("identityfile", [])]
    files = [path for path in configured if path.exists()]
    if entry.identity_file:
        files = [Path(entry.identity_file).expanduser()]
    return Address(
        host=str(found.get("hostname", entry.host)),
        port=entry.port or int(str(found.get("port", 22))),
        user=entry.user or str(found.get("user", getpass.getuser())),
        identity_files=tuple(map(str, files)),
        host_key=entry.host_key,
        name=entry.name,
    )


class _Pinned(paramiko.MissingHostKeyPolicy):
    """Decides on keys that known_hosts does not hold: the pinned one, and no other, is good."""

    def __init__(self, entry: BoardEntry) -> None:
        self.entry = entry

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        """Return for the pinned key, raise `BoardError` for others."""
        if self.entry.host_key == key.fingerprint:
            return
        if self.entry.host_key:
            raise _changed(self.entry, key)
        raise BoardError(
            f"the host key of '{self.entry.name}' is not known: {key.fingerprint}",
            f"compare it with `ssh-keygen -l -f /etc/ssh/ssh_host_{_short(key)}_key.pub` on the"
            f" board; if equal: {_trust(self.entry, key)}",
        )


def open_client(entry: BoardEntry, timeout: float = CONNECT_S) -> paramiko.SSHClient:
    """A connected and authenticated client.

    Raises:
        BoardError: unreachable, unknown or changed host key, or no way to log in.
    """
    address = resolve(entry)
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_Pinned(entry))
    known_hosts = Path("~/.ssh/known_hosts").expanduser()
    if not entry.host_key and known_hosts.exists():
        client.load_system_host_keys(str(known_hosts))
    try:
        client.connect(
            address.host,
            port=address.port,
            username=address.user,
            key_filename=list(address.identity_files),  # type: ignore[arg-type]  takes a list
            look_for_keys=not address.identity_files,
            allow_agent=not entry.identity_file,
            timeout=timeout,
            banner_timeout=timeout,
            auth_timeout=timeout,
            channel_timeout=timeout,
        )
    except BaseException as error:
        client.close()
        if isinstance(error, EdgeCompressError) or not isinstance(error, Exception):
            raise
        _explain(error, entry, address, timeout)
    transport = client.get_transport()
    assert transport is not None
    transport.set_keepalive(KEEPALIVE_S)
    return client


def _explain(error: Exception, entry: BoardEntry, address: Address, timeout: float) -> NoReturn:
    """Raise the `BoardError` that says what `error` means."""
    name = entry.name
    if isinstance(error, paramiko.BadHostKeyException):
        raise _changed(entry, error.key) from error
    if isinstance(error, paramiko.PasswordRequiredException):
        raise BoardError(
            f"the private key for '{name}' is encrypted", "load it first: ssh-add KEYFILE"
        ) from error
    if isinstance(error, paramiko.AuthenticationException):
        raise BoardError(
            f"'{name}' ({address}) takes none of your SSH keys",
            f"put one there: ssh-copy-id -p {address.port} {address.user}@{address.host}",
        ) from error
    if isinstance(error, FileNotFoundError):
        raise BoardError(
            f"no such private key: {error.filename}", f"edgecompress boards add {name} --identity …"
        ) from error
    if isinstance(error, socket.gaierror):
        raise BoardError(
            f"'{name}': the host name '{address.host}' is not known",
            "check the spelling, or use the board's address: edgecompress boards add --help",
        ) from error
    if isinstance(error, TimeoutError):
        cause = f"no answer within {timeout:g} s"
    elif isinstance(error, NoValidConnectionsError):
        cause = "; ".join(sorted({str(one) for one in error.errors.values()}))
    else:
        cause = str(error) or type(error).__name__
    raise BoardError(
        f"cannot reach '{name}' at {address.host} port {address.port}: {cause}",
        "check its power, its network, and that its SSH server runs",
    ) from error


def _changed(entry: BoardEntry, key: paramiko.PKey) -> BoardError:
    return BoardError(
        f"the host key of '{entry.name}' has CHANGED (now {key.fingerprint}): the board was set up"
        " anew, or someone stands between you and it",
        f"only if you know why: {_trust(entry, key)}"
        if entry.host_key
        else f"only if you know why: ssh-keygen -R '{entry.host}', then {_trust(entry, key)}",
    )


def _trust(entry: BoardEntry, key: paramiko.PKey) -> str:
    """The command that pins a key for a board."""
    words = ["edgecompress", "boards", "add", entry.name]
    words += ["--board", entry.board, "--host", entry.host]
    words += ["--port", str(entry.port)] if entry.port else []
    words += ["--user", entry.user] if entry.user else []
    words += ["--identity", entry.identity_file] if entry.identity_file else []
    words += ["--workdir", entry.workdir] if entry.workdir != BoardEntry.workdir else []
    words += ["--python", entry.python] if entry.python else []
    return shlex.join([*words, "--trust", key.fingerprint])


def _short(key: paramiko.PKey) -> str:
    name = key.get_name()
    return "ecdsa" if "ecdsa" in name else name.removeprefix("ssh-")
