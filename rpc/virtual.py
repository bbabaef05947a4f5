"""The virtual boards: arm64 Debian userlands under QEMU, each with an SSH server of its own.

A board listens on 127.0.0.1, knows one key pair that lies in the user's cache, and is reached like
any other. With root it runs in private namespaces; without, under proot. It outlives the command
that started it, and starting or stopping it twice is no error. Boards know nothing of each other:
each has a folder of its own in the cache, with its disk, keys and state. One sort of board can
have several copies, as a shelf has several boards; a copy comes back at the port that it had.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from filelock import FileLock

from edgecompress import events
from edgecompress.errors import BoardError, InputError, UsageError
from edgecompress.files import cache_dir, read_json, write_bytes, write_json

from ..targets import Board, BoardEntry, load_board, virtual_names
from ..targets.inventory import NAME
from . import binfmt
from .deadline import Deadline
from .virtual_tree import UID, USER, ensure_tree, forget_others

START_S = 60.0
STOP_S = 10.0

# Everything that a virtual board needs from the distribution; `make` installs these.
APT_PACKAGES = ("mmdebstrap", "qemu-user-static", "proot", "debian-archive-keyring")
_TOOLS = {"mmdebstrap": "mmdebstrap", binfmt.QEMU: "qemu-user-static", "tar": "tar"}

_TRACEABLE = Path(__file__).with_name("traceable.py")
_SCRIPT = Path(__file__).with_name("virtual_board.sh")
_CLIENT_KEY = "keys/client"


@dataclass(frozen=True)
class VirtualStatus:
    """Whether a virtual board runs.

    Attributes:
        running: whether its SSH server answers.
        mode: `namespaces` or `proot`; "" where it does not run.
        port: of its SSH server on 127.0.0.1; 0 where it does not run.
        pid: of its first process, as this machine counts; 0 where it does not run.
        folder: where its disk, keys and log lie.
    """

    running: bool
    mode: str
    port: int
    pid: int
    folder: Path


@dataclass(frozen=True)
class _State:
    """What is written down about the running board. `created` tells a reused pid from ours."""

    pid: int
    created: float
    port: int
    mode: str

    @property
    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created) < 1.0 and not _ended(process)
        except psutil.Error:
            return False


def start(name: str, copy: str = "") -> BoardEntry:
    """Start a board if it does not run; returns how to reach it.

    Args:
        name: one of `targets.virtual_names()`; so with all of these functions.
        copy: what a further board of that sort is called; "" is the one that has the sort's name.

    Raises:
        BoardError: this machine cannot run it (the hint says what to install), or it does not
            answer in time.
        InputError: a wheel cannot be fetched.
    """
    board = _virtual(name)
    folder = _folder(name, copy)
    with _locked(folder):
        state = _read_state(folder)
        if not (state and state.alive and _answers(state.port)):
            if state:
                _kill(state)
            _require_tools()
            _make_keys(folder)
            tree = ensure_tree(folder, board)
            forget_others(folder, tree)
            _install_keys(folder, tree)
            with events.task(f"starting {copy or name}"):
                state = _launch(folder, copy or name, tree, state.port if state else 0)
        return replace(_entry(folder, name, state.port), name=copy or name)


def is_copy(entry: BoardEntry, name: str) -> bool:
    """Whether an entry of the inventory leads to the copy of that sort that is called as it is."""
    return entry.identity_file == str(_folder(name, entry.name) / _CLIENT_KEY)


def stop(name: str, copy: str = "") -> bool:
    """Stop a board and all that runs on it; False where it did not run. Its disk is kept."""
    folder = _folder(name, copy)
    with _locked(folder):
        return _stop(folder)


def reset(name: str, copy: str = "") -> None:
    """Stop a board and give it a fresh disk and fresh keys at its next start."""
    folder = _folder(name, copy)
    with _locked(folder):
        _stop(folder)
        for path in folder.glob("tree-*"):
            if path.is_dir():
                shutil.rmtree(path)
        shutil.rmtree(folder / "keys", ignore_errors=True)


def disk(name: str) -> Path:
    """The root of a board's disk, made if it is not there; the board need not run.

    Raises:
        BoardError: packages cannot be fetched, or there is no space.
        InputError: a wheel cannot be fetched.
    """
    board = _virtual(name)
    folder = cache_dir(name)
    with _locked(folder):
        _require_tools()
        return ensure_tree(folder, board)


def status(name: str, copy: str = "") -> VirtualStatus:
    """Whether a board runs, and where."""
    folder = _folder(name, copy)
    state = _read_state(folder)
    if state and state.alive and _answers(state.port):
        return VirtualStatus(True, state.mode, state.port, state.pid, folder)
    return VirtualStatus(False, "", 0, 0, folder)


def missing() -> str:
    """What this machine lacks to run a virtual board, one line; "" where nothing is missing."""
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if not shutil.which("proot") and os.geteuid() != 0:
        return "not installed: proot (needed without root)"
    return ""


def _virtual(name: str) -> Board:
    """The description of a virtual board.

    Raises:
        UsageError: it is not one.
    """
    if name not in virtual_names():
        known = virtual_names()
        raise UsageError(f"'{name}' is not a virtual board", f"there are: {', '.join(known)}")
    return load_board(name)


def _folder(name: str, copy: str) -> Path:
    """Where a board's disk, keys and state lie, made if it is not there.

    Raises:
        UsageError: it is not a virtual board, or `copy` is no name.
    """
    if copy and not re.match(NAME, copy):
        raise UsageError(f"{copy!r} is no name of a board", "letters, digits, '-' and '_' are")
    return cache_dir(_virtual(name).name, *(["copies", copy] if copy else []))


def _locked(folder: Path) -> FileLock:
    return FileLock(folder / ".lock")


def _require_tools() -> None:
    lacking = missing()
    if lacking:
        raise BoardError(f"the virtual board cannot run: {lacking}", _install_hint())


def _install_hint() -> str:
    return f"sudo apt install {' '.join(APT_PACKAGES)}, or use the board 'host'"


def _stop(folder: Path) -> bool:
    # The state stays, for the port.
    state = _read_state(folder)
    return _kill(state) if state else False


def _kill(state: _State) -> bool:
    """Kill the first process, by SIGKILL: the namespaces, or proot's tracees, end with it."""
    if not state.alive:
        return False
    family = [psutil.Process(state.pid)]
    with suppress(psutil.Error):
        family += family[0].children(recursive=True)
    for process in family:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    for _ in Deadline(STOP_S).attempts(0.02):
        family = [process for process in family if not _ended(process)]
        if not family:
            return True
    raise BoardError(
        f"the virtual board does not end (pid {family[0].pid})", f"sudo kill -9 {family[0].pid}"
    )


def _ended(process: psutil.Process) -> bool:
    """Gone, or a zombie that nobody has waited for: where we run may be no proper init."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _read_state(folder: Path) -> _State | None:
    """The state file, or None where it is missing or damaged: the board is started anew then."""
    try:
        value = read_json(folder / "state.json")
        return _State(
            int(value["pid"]), float(value["created"]), int(value["port"]), str(value["mode"])
        )
    except (InputError, TypeError, KeyError, ValueError):
        return None


def _make_keys(folder: Path) -> None:
    """One key pair for the board, one for us; made once, readable by the user alone."""
    keys = folder / "keys"
    keys.mkdir(mode=0o700, exist_ok=True)
    for name in ("client", "host"):
        private = keys / name
        if private.exists() and private.with_suffix(".pub").exists():
            continue
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        write_bytes(private, secret)
        private.chmod(0o600)
        write_bytes(private.with_suffix(".pub"), public + b"\n")


def _install_keys(folder: Path, tree: Path) -> None:
    keys, etc = folder / "keys", tree / "etc/ssh"
    host = etc / "ssh_host_ed25519_key"
    write_bytes(host, (keys / "host").read_bytes())
    host.chmod(0o600)
    write_bytes(etc / "virtual_authorized_keys", (keys / "client.pub").read_bytes())


def _entry(folder: Path, name: str, port: int) -> BoardEntry:
    from paramiko import Ed25519Key

    host_key = Ed25519Key.from_private_key_file(str(folder / "keys/host"))
    return BoardEntry(
        name=name,
        board=name,
        host="127.0.0.1",
        port=port,
        user=USER,
        identity_file=str(folder / _CLIENT_KEY),
        host_key=host_key.fingerprint,
    )


def _launch(folder: Path, name: str, tree: Path, port: int) -> _State:
    """Start it in the first way that works, at `port` if that is free, and wait for its answer."""
    failures = []
    for mode, reason, command in _ways(name, tree):
        if reason:
            failures.append(f"{mode}: {reason}")
            continue
        try:
            return _launch_as(folder, mode, command, port)
        except _NoAnswerError as error:
            failures.append(f"{mode}: {error}")
    raise BoardError(f"the virtual board cannot run: {'; '.join(failures)}", _install_hint())


def _ways(name: str, tree: Path) -> list[tuple[str, str, Callable[[int], list[str]]]]:
    """Name, reason against it ("" for none) and command line, given the port, of each way."""
    return [
        ("namespaces", _against_namespaces(), lambda port: _namespaces(name, tree, port)),
        ("proot", _against_proot(), lambda port: _proot(tree, port)),
    ]


def _against_namespaces() -> str:
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    return binfmt.ensure_registered()


def _namespaces(name: str, tree: Path, port: int) -> list[str]:
    spaces = ["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL"]
    return ["unshare", *spaces, "/bin/sh", str(_SCRIPT), str(tree), str(port), name]


def _against_proot() -> str:
    return "" if shutil.which("proot") else "proot is not installed"


def _proot(tree: Path, port: int) -> list[str]:
    emulator = [] if platform.machine() == "aarch64" else ["-q", binfmt.QEMU]
    binds = ["/dev", "/proc", f"{tree}/etc/virtual/cpuinfo:/proc/cpuinfo"]
    bound = [word for bind in binds for word in ("-b", bind)]
    server = ["/usr/sbin/sshd", "-D", "-e", "-p", str(port)]
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
    return [
        *(sys.executable, str(_TRACEABLE)),
        *("proot", *emulator, "-i", f"{UID}:{UID}", "-r", str(tree), *bound, "-w", "/"),
        *("/usr/bin/env", "-i", path, *server),
    ]


class _NoAnswerError(Exception):
    """The board was started in one way and does not answer."""


def _launch_as(folder: Path, mode: str, command: Callable[[int], list[str]], wanted: int) -> _State:
    port = _free_port(wanted)
    log = folder / "log.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command(port),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    state = _State(process.pid, psutil.Process(process.pid).create_time(), port, mode)
    write_json(folder / "state.json", state.__dict__)
    for _ in Deadline(START_S).attempts(0.05):
        if process.poll() is not None:
            break
        if _answers(port):
            return state
    _kill(state)
    lines = log.read_text(errors="replace").strip().splitlines()
    raise _NoAnswerError(lines[-1] if lines else f"no answer within {START_S:g} s")


def _answers(port: int) -> bool:
    """Whether an SSH server says its name there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.settimeout(5)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _free_port(wanted: int) -> int:
    """`wanted`, unless something listens there (or it is 0): a free port then."""
    with socket.socket() as probe:
        # What the last server there left in TIME_WAIT does not matter to sshd either.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
