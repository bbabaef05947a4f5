"""Opening an SSH connection: whom we trust, how long we wait, and what to say when it fails."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import paramiko

from edgecompress.errors import BoardError, EdgeCompressError

from ..targets import BoardEntry
from . import liveness
from .known_hosts import KnownHosts, read_known_hosts
from .ssh_config import CONNECT_S, Address, resolve


class _Client(paramiko.SSHClient):
    """A client that takes along to its end what it was reached by."""

    def __init__(self) -> None:
        super().__init__()
        self.below: paramiko.SSHClient | None = None
        self.proxy: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End the connection, then those below it."""
        super().close()
        if self.proxy:
            self.proxy.terminate()
            self.proxy.wait()
        if self.below:
            self.below.close()


class _Pinned(paramiko.MissingHostKeyPolicy):
    """Decides on keys that known_hosts does not hold: the pinned one, and no other, is good.

    Attributes:
        revoked: keys that known_hosts says are good no more, as they are sent.
    """

    def __init__(self, hop: Address, entry: BoardEntry) -> None:
        self.hop = hop
        self.entry = entry
        self.revoked: frozenset[bytes] = frozenset()

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        """Return for the pinned key, raise `BoardError` for others."""
        if self.hop.host_key == key.fingerprint:
            return
        if self.hop.host_key or key.asbytes() in self.revoked:
            raise self.changed(key)
        raise BoardError(
            f"the host key of '{self.hop.name}' is not known: {key.fingerprint}",
            f"compare it with `ssh-keygen -l -f /etc/ssh/ssh_host_{_short(key)}_key.pub` there;"
            f" if equal: {_trust(self.hop, self.entry, key)}",
        )

    def changed(self, key: paramiko.PKey) -> BoardError:
        """The error for a key that is another than the one that was known, or revoked."""
        if key.asbytes() in self.revoked:
            return _revoked(self.hop, key)
        return _changed(self.hop, self.entry, key)


def open_client(entry: BoardEntry, timeout: float | None = None) -> paramiko.SSHClient:
    """A connected and authenticated client, through all jump hosts on the way.

    Args:
        timeout: seconds for each of the hosts; by default that of ~/.ssh/config, else 20.

    Raises:
        BoardError: unreachable, unknown or changed host key, or no way to log in.
    """
    address = resolve(entry)
    client: _Client | None = None
    for hop in (*address.jumps, address):
        client = _connect(hop, entry, client, timeout or hop.connect_s or CONNECT_S)
    assert client is not None
    return client


def _connect(hop: Address, entry: BoardEntry, below: _Client | None, timeout: float) -> _Client:
    """Log in to one host; `below` is closed where that fails."""
    client = _Client()
    client.below = below
    policy = _Pinned(hop, entry)
    try:
        client.set_missing_host_key_policy(policy)
        if not hop.host_key:
            known = read_known_hosts(filter(os.path.exists, hop.known_hosts))
            policy.revoked = known.revoked
            _know(client.get_host_keys(), known)
        name, port = hop.known_as
        client.connect(
            name,
            port=port,
            username=hop.user,
            compress=hop.compress,
            sock=_socket(hop, client, timeout),
            timeout=timeout,
            banner_timeout=timeout,
            auth_timeout=timeout,
            channel_timeout=timeout,
            transport_factory=liveness.transport,
            **_keys(hop),
        )
    except BaseException as error:
        client.close()
        if isinstance(error, EdgeCompressError) or not isinstance(error, Exception):
            raise
        if isinstance(error, paramiko.BadHostKeyException):
            raise policy.changed(error.key) from error
        _explain(error, entry, hop, timeout)
    transport = client.get_transport()
    assert transport is not None
    transport.set_keepalive(hop.keepalive_s)
    return client


def _know(keys: paramiko.HostKeys, known: KnownHosts) -> None:
    """Hand over what is known; of several keys of one sort for a name the first counts."""
    seen: set[tuple[str, str]] = set()
    for name, key in known.keys:
        if (name, key.get_name()) not in seen:
            seen.add((name, key.get_name()))
            keys.add(name, key.get_name(), key)


def _socket(hop: Address, client: _Client, timeout: float) -> Any:
    """What bytes to and from a host go through: a socket, a channel of the host before it, or a
    program's standard input and output."""
    if client.below:
        transport = client.below.get_transport()
        assert transport is not None
        return transport.open_channel(
            "direct-tcpip", (hop.host, hop.port), ("127.0.0.1", 0), timeout=timeout
        )
    if not hop.proxy:
        return socket.create_connection((hop.host, hop.port), timeout=timeout)
    # A pair of sockets, since the pipes of paramiko's own ProxyCommand spin when they end.
    ours, theirs = socket.socketpair()
    with theirs:
        client.proxy = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {hop.proxy}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    return ours


def _keys(hop: Address) -> dict[str, Any]:
    """What to log in with. Where no other key may be offered, the agent is asked for those of the
    named files alone: it may hold them open, while the files are encrypted."""
    files = list(hop.identity_files)
    if not (hop.only_these and files):
        agent = hop.agent
        return {"key_filename": files, "look_for_keys": not files, "allow_agent": agent}
    held = _held(files) if hop.agent else {}
    left = [name for name in files if name not in held]
    pkey = next(iter(held.values()), None)
    return {"pkey": pkey, "key_filename": left, "look_for_keys": False, "allow_agent": False}


def _held(files: list[str]) -> dict[str, paramiko.PKey]:
    """Of private keys' files, those whose public half lies beside them and that the agent holds."""
    found: dict[str, paramiko.PKey] = {}
    with suppress(paramiko.SSHException, OSError):
        keys = {key.get_base64(): key for key in paramiko.Agent().get_keys()}
        for name in files:
            with suppress(OSError, IndexError, UnicodeDecodeError):
                blob = Path(f"{name}.pub").read_text().split()[1]
                if blob in keys:
                    found[name] = keys[blob]
    return found


def _explain(error: Exception, entry: BoardEntry, hop: Address, timeout: float) -> NoReturn:
    """Raise the `BoardError` that says what `error` means."""
    name = hop.name
    if isinstance(error, paramiko.PasswordRequiredException):
        raise BoardError(
            f"the private key for '{name}' is encrypted", "load it first: ssh-add KEYFILE"
        ) from error
    if isinstance(error, paramiko.AuthenticationException):
        raise BoardError(
            f"'{name}' ({hop}) takes none of your SSH keys",
            f"put one there: ssh-copy-id -p {hop.port} {hop.user}@{hop.host}",
        ) from error
    if isinstance(error, FileNotFoundError):
        raise BoardError(
            f"no such private key: {error.filename}",
            f"edgecompress boards add {entry.name} --identity …",
        ) from error
    if isinstance(error, socket.gaierror):
        raise BoardError(
            f"'{name}': the host name '{hop.host}' is not known",
            "check the spelling, or use the board's address: edgecompress boards add --help",
        ) from error
    if isinstance(error, paramiko.ChannelException):
        before = "the jump host" if len(entry.jump.split(",")) == 1 else "the last jump host"
        raise BoardError(
            f"{before} does not open a way to '{name}' at {hop.host} port {hop.port}: {error.text}",
            "check the board's power, and that the jump host's SSH server allows forwarding"
            " (AllowTcpForwarding, PermitOpen)",
        ) from error
    if hop.proxy:
        raise BoardError(
            f"cannot reach '{name}' by its ProxyCommand: {error or type(error).__name__}",
            f"try the same by hand: ssh {entry.host}",
        ) from error
    if isinstance(error, TimeoutError):
        cause = f"no answer within {timeout:g} s"
    elif isinstance(error, OSError) and error.strerror:
        cause = error.strerror
    else:
        cause = str(error) or type(error).__name__
    raise BoardError(
        f"cannot reach '{name}' at {hop.host} port {hop.port}: {cause}",
        "check its power, its network, and that its SSH server runs",
    ) from error


def _changed(hop: Address, entry: BoardEntry, key: paramiko.PKey) -> BoardError:
    host, port = hop.known_as
    known = host if port == 22 else f"[{host}]:{port}"
    return BoardError(
        f"the host key of '{hop.name}' has CHANGED (now {key.fingerprint}): it was set up"
        " anew, or someone stands between you and it",
        f"only if you know why: {_trust(hop, entry, key)}"
        if hop.host_key
        else f"only if you know why: ssh-keygen -R '{known}', then {_trust(hop, entry, key)}",
    )


def _revoked(hop: Address, key: paramiko.PKey) -> BoardError:
    return BoardError(
        f"the host key of '{hop.name}' is revoked by an @revoked line of known_hosts:"
        f" {key.fingerprint}",
        f"have a new one made there (sudo rm /etc/ssh/ssh_host_{_short(key)}_key; sudo ssh-keygen"
        " -A), or take that line out if it is wrong",
    )


# The options of `boards add` that are not called as the inventory calls them.
_OPTIONS = {"identity_file": "identity", "host_key": "trust"}


def _trust(hop: Address, entry: BoardEntry, key: paramiko.PKey) -> str:
    """The command that pins a key for a host on the way to a board, or for the board."""
    pinned = "host_key"
    if hop.name != entry.name:
        if len(entry.jump_host_key.split(",")) > 1 or "," in entry.jump or not entry.jump:
            return f"ssh -p {hop.port} {hop.user}@{hop.host}"
        pinned = "jump_host_key"
    words = ["edgecompress", "boards", "add", entry.name]
    for one in fields(BoardEntry):
        value = key.fingerprint if one.name == pinned else getattr(entry, one.name)
        if one.name != "name" and (one.name == pinned or value != one.default):
            option = _OPTIONS.get(one.name, one.name).replace("_", "-")
            words += [f"--{option}", str(value)]
    return shlex.join(words)


def _short(key: paramiko.PKey) -> str:
    name = key.get_name()
    return "ecdsa" if "ecdsa" in name else name.removeprefix("ssh-")
