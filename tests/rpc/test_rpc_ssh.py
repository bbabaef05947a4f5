"""SSH as it is met: faults are made, on the virtual board's real server or in front of it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgecompress.errors import BoardError
from edgecompress.files import sha256_file
from edgecompress.rpc import connect, probe, virtual
from edgecompress.rpc.deadline import Deadline
from edgecompress.rpc.known_hosts import read_known_hosts
from edgecompress.rpc.ssh import ASK_FIRST, SshSession
from edgecompress.rpc.ssh_connect import resolve
from edgecompress.rpc.tunnel import tunnel
from edgecompress.targets import BoardEntry, load_board
from edgecompress.targets.inventory import add, find

OTHER = "SHA256:" + "A" * 43


def new_key(path: Path) -> str:
    """Write a private key; returns the public one as OpenSSH writes it."""
    key = Ed25519PrivateKey.generate()
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return public.decode()


def closed_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return probe_socket.getsockname()[1]


def test_nobody_listens(home: Path) -> None:
    entry = BoardEntry("lab", "rpi4b", "127.0.0.1", closed_port(), "pi")
    with pytest.raises(BoardError, match="cannot reach 'lab'") as refused:
        SshSession(entry)
    assert refused.value.exit_code == 4
    assert refused.value.hint


def test_somebody_listens_and_says_nothing(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        entry = BoardEntry("lab", "rpi4b", "127.0.0.1", mute.getsockname()[1], "pi")
        began = time.monotonic()
        with pytest.raises(BoardError, match="cannot reach 'lab'"):
            SshSession(entry, timeout=2)
        assert time.monotonic() - began < 10


def test_a_host_name_that_is_none(home: Path) -> None:
    with pytest.raises(BoardError, match=r"the host name 'no\.such\.invalid' is not known"):
        SshSession(BoardEntry("lab", "rpi4b", "no.such.invalid", user="pi"))


def test_ssh_config_is_honoured(home: Path) -> None:
    (home / "key").write_text("")
    (home / ".ssh/config").write_text(
        f"Host lab\n HostName 10.1.2.3\n Port 2200\n User me\n IdentityFile {home}/key\n"
        "Host jump\n ProxyJump other\n"
    )
    address = resolve(BoardEntry("x", "rpi4b", "lab"))
    assert (address.host, address.port, address.user) == ("10.1.2.3", 2200, "me")
    assert address.identity_files == (f"{home}/key",)
    own = resolve(BoardEntry("x", "rpi4b", "lab", 22, "pi", "~/mine"))
    assert (own.port, own.user, own.identity_files) == (22, "pi", (f"{home}/mine",))
    assert [hop.host for hop in resolve(BoardEntry("x", "rpi4b", "jump")).jumps] == ["other"]


@pytest.mark.board
def test_an_unknown_host_key_is_refused_and_shown(virtual_board: SshSession, home: Path) -> None:
    entry = dataclasses.replace(virtual_board.entry, host_key="", name="lab")
    with pytest.raises(BoardError, match="is not known") as refused:
        SshSession(entry)
    trust = virtual_board.entry.host_key
    assert trust in refused.value.message
    assert (
        f"edgecompress boards add lab --board virtual-pi4 --host 127.0.0.1 --port {entry.port}"
        in (refused.value.hint)
    )
    assert f"--trust {trust}" in refused.value.hint


@pytest.mark.board
def test_a_pinned_key_that_changed(virtual_board: SshSession) -> None:
    entry = dataclasses.replace(virtual_board.entry, host_key=OTHER)
    with pytest.raises(BoardError, match="has CHANGED") as refused:
        SshSession(entry)
    assert refused.value.exit_code == 4


@pytest.mark.board
def test_known_hosts_decides_where_nothing_is_pinned(virtual_board: SshSession, home: Path) -> None:
    public = Path(virtual_board.entry.identity_file).with_name("host.pub").read_text()
    entry = dataclasses.replace(virtual_board.entry, host_key="")
    known = home / ".ssh/known_hosts"
    where = f"[127.0.0.1]:{entry.port}"
    known.write_text(f"{where} {new_key(home / 'other')}\n")
    with pytest.raises(BoardError, match="has CHANGED"):
        SshSession(entry)
    known.write_text(f"{where} {public}\n")
    with SshSession(entry) as session:
        assert session.run(["true"], timeout=20).returncode == 0


def odd_lines(home: Path, where: str, public: str) -> list[bytes]:
    """Lines of known_hosts that say nothing that we could follow, about a host and its own key."""
    kind, key = public.split()[:2]
    lines = [
        f"@cert-authority {where} {new_key(home / 'authority')}",
        f"@revoked {where} {new_key(home / 'old')}",
        f"@revoked {where} {kind} {key[:-3]}",
        f"@other {where} {kind} {key}",
        f"{where} {kind} {key[:-3]}",
        f"{where} {kind} {key[:40]}",
        f"{where} {kind} {'A' * len(key)}",
        f"|1|AAAA|AAAA {kind} {key}",
        f"|1|= {kind} {key}",
        where,
        "@revoked",
    ]
    return [*(line.encode() for line in lines), b"caf\xe9 ssh-ed25519 \xe9\xe9\xe9\xe9"]


@pytest.mark.board
def test_lines_of_known_hosts_that_cannot_be_read_stand_in_no_way(
    virtual_board: SshSession, home: Path
) -> None:
    public = Path(virtual_board.entry.identity_file).with_name("host.pub").read_text().strip()
    entry = dataclasses.replace(virtual_board.entry, host_key="")
    where = f"[127.0.0.1]:{entry.port}"
    known = home / ".ssh/known_hosts"
    odd = odd_lines(home, where, public)
    known.write_bytes(b"\n".join(odd))
    with pytest.raises(BoardError, match="is not known"):
        SshSession(entry)
    right = f"other.example,{where}  {public} its comment".encode()
    for lines in ([right, *odd], [*odd, right]):
        known.write_bytes(b"\n".join(lines))
        with SshSession(entry) as session:
            assert session.run(["true"], timeout=20).returncode == 0


def test_each_odd_line_of_known_hosts_is_left_out(home: Path) -> None:
    where, public = "[127.0.0.1]:2200", new_key(home / "host")
    file = home / ".ssh/known_hosts"
    for line in odd_lines(home, where, public):
        file.write_bytes(b"# note\n\n" + line + b"\n" + f"{where}\t{public}\r\n".encode())
        known = read_known_hosts([str(file)])
        assert [(name, key.get_base64()) for name, key in known.keys] == [
            (where, public.split()[1])
        ], line
    file.unlink()
    file.mkdir()
    with pytest.raises(BoardError, match=r"cannot read .*known_hosts: Is a directory"):
        read_known_hosts([str(file)])


@pytest.mark.board
def test_a_revoked_key_is_refused(virtual_board: SshSession, home: Path) -> None:
    """Wherever it stands unmarked too, and whatever else is known of the board."""
    public = Path(virtual_board.entry.identity_file).with_name("host.pub").read_text().strip()
    entry = dataclasses.replace(virtual_board.entry, host_key="")
    where = f"[127.0.0.1]:{entry.port}"
    known = home / ".ssh/known_hosts"
    right, revoked = f"{where} {public}\n", f"@revoked |1|AAAA|AAAA,* {public}\n"
    other = f"{where} {new_key(home / 'other')}\n"
    for text in (right + revoked, revoked + right, revoked, revoked + other):
        known.write_text(text)
        with pytest.raises(BoardError, match="is revoked by an @revoked line") as refused:
            SshSession(entry)
        assert virtual_board.entry.host_key in refused.value.message
        assert "ssh-keygen -A" in refused.value.hint
    known.write_text(right)
    known.with_name("known_hosts2").write_text(revoked)
    with pytest.raises(BoardError, match="is revoked"):
        SshSession(entry)


@pytest.mark.board
def test_a_key_that_the_board_does_not_know(virtual_board: SshSession, home: Path) -> None:
    new_key(home / "stranger")
    entry = dataclasses.replace(virtual_board.entry, identity_file=str(home / "stranger"))
    with pytest.raises(BoardError, match="takes none of your SSH keys") as refused:
        SshSession(entry)
    assert "ssh-copy-id" in refused.value.hint
    missing = dataclasses.replace(entry, identity_file=str(home / "nothing"))
    with pytest.raises(BoardError, match="no such private key"):
        SshSession(missing)


@pytest.mark.board
def test_an_inventory_board_is_reached_by_name(
    virtual_board: SshSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path))
    add(dataclasses.replace(virtual_board.entry, name="lab", board="rpi4b", python="3.12"))
    with connect("lab") as session:
        assert (session.name, session.board.name) == ("lab", "rpi4b")
        assert session.board.python == "3.12"
        assert session.run(["pwd"], timeout=20).stdout.strip() == session.workdir


@pytest.mark.board
def test_arguments_arrive_over_ssh(virtual_board: SshSession) -> None:
    nasty = ["a b", "$(id)", "`id`", "'q'\"", "new\nline", "*", "!", "\\", "", "ä"]
    done = virtual_board.run(["printf", "%s|", *nasty], timeout=30, env={"X": "$(id) y"})
    assert done.stdout == "|".join(nasty) + "|"


@pytest.mark.board
def test_a_timeout_kills_on_the_board(virtual_board: SshSession) -> None:
    with pytest.raises(BoardError, match="took longer than 2 s"):
        virtual_board.run(["sh", "-c", "sleep 987611 & sleep 987611"], timeout=2)
    assert virtual_board.run(["pgrep", "-f", "[s]leep 987611"], timeout=30).stdout == ""


@pytest.mark.board
def test_stopping_kills_on_the_board(virtual_board: SshSession) -> None:
    with virtual_board.start(["sh", "-c", "echo up; sleep 987612"], timeout=60) as running:
        while "up" not in running.text("stdout"):
            running.poll(5)
    for _ in Deadline(5).attempts():
        if not virtual_board.run(["pgrep", "-f", "[s]leep 987612"], timeout=30).stdout:
            return
    pytest.fail("the command still runs")


@pytest.mark.board
def test_uploads_over_ssh(virtual_board: SshSession, tmp_path: Path) -> None:
    local = tmp_path / "file"
    local.write_bytes(os.urandom(300_000))
    virtual_board.remove("tests")
    assert virtual_board.upload(local, "tests/a/file") is True
    assert virtual_board.upload(local, "tests/a/file") is False
    virtual_board.run(["sh", "-c", "sleep 1; echo x >> tests/a/file"], timeout=30).check("append")
    assert virtual_board.upload(local, "tests/a/file") is True
    virtual_board.download("tests/a/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == local.read_bytes()
    listing = virtual_board.run(["ls", "-A", "tests/a"], timeout=30).stdout.split()
    assert sorted(listing) == [".file.sha256", "file"]
    virtual_board.remove("tests")
    with pytest.raises(BoardError, match="cannot read"):
        virtual_board.download("tests/a/file", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.board
@pytest.mark.parametrize("step", ["_recorded", "_record"])
def test_a_connection_that_ends_within_an_upload_is_a_board_error(
    virtual_board: SshSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It ends while an answer is waited for: paramiko has an error of its own for that."""
    local = tmp_path / "file"
    local.write_bytes(b"x")
    with SshSession(virtual_board.entry) as session:
        whole, answer = getattr(session, step), session._sftp._read_response

        def cut(waitfor: int | None = None) -> Any:
            session._client.close()
            return answer(waitfor)

        def doomed(*arguments: str) -> Any:
            monkeypatch.setattr(session._sftp, "_read_response", cut)
            return whole(*arguments)

        monkeypatch.setattr(session, step, doomed)
        with pytest.raises(BoardError, match="connection to 'virtual-pi4' was lost") as lost:
            session.upload(local, "cut/file")
        assert lost.value.hint
    virtual_board.remove("cut")


@pytest.mark.board
def test_a_ping_over_a_connection_that_breaks_is_a_board_error(virtual_board: SshSession) -> None:
    """It cannot be sent, before anybody has noticed: paramiko has an error of its own for that."""
    with SshSession(virtual_board.entry) as session:
        assert session.ping() > 0
        transport = session._client.get_transport()
        assert transport is not None
        transport.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(BoardError, match="connection to 'virtual-pi4' was lost") as lost:
            session.ping()
        assert lost.value.hint


@pytest.mark.board
def test_a_file_that_is_too_large_is_not_fetched(virtual_board: SshSession, tmp_path: Path) -> None:
    sparse = (
        "mkdir -p large && truncate -s 3G large/sparse && head -c 5000000 /dev/urandom > large/5"
    )
    virtual_board.run(["sh", "-c", sparse], timeout=60).check("cannot make it")
    back = tmp_path / "back"
    try:
        with pytest.raises(BoardError, match=r"larger than the 1073\.7 MB that it may have"):
            virtual_board.download("large/sparse", back)
        with pytest.raises(BoardError, match=r"larger than the 5\.0 MB"):
            virtual_board.download("large/5", back, limit=4_999_999)
        # It says that it is empty, and never ends.
        with pytest.raises(BoardError, match=r"larger than the 3\.0 MB"):
            virtual_board.download("/dev/zero", back, limit=3_000_000)
        assert not list(tmp_path.iterdir())
        virtual_board.download("large/5", back, limit=5_000_000)
        told = virtual_board.run(["sha256sum", "large/5"], timeout=60).stdout
        assert sha256_file(back) == told.split()[0]
    finally:
        virtual_board.remove("large")


@pytest.mark.board
def test_what_killed_uploads_left_is_swept_away(virtual_board: SshSession, tmp_path: Path) -> None:
    local = tmp_path / "file"
    local.write_bytes(os.urandom(ASK_FIRST))
    virtual_board.write("sweep/.file.0011.part", b"old")
    virtual_board.write("sweep/.file.0022.part", b"new")
    virtual_board.write("sweep/.other.0033.part", b"another file's")
    virtual_board.run(["touch", "-d", "1 hour ago", "sweep/.file.0011.part"], timeout=30).check("")
    virtual_board.upload(local, "sweep/file")
    listing = virtual_board.run(["ls", "-A", "sweep"], timeout=30).stdout.split()
    assert sorted(listing) == [".file.0022.part", ".file.sha256", ".other.0033.part", "file"]
    virtual_board.remove("sweep")


@pytest.mark.board
@pytest.mark.parametrize("size", [6_000_000, 900_000])
def test_a_full_disk_says_what_is_free_and_needed(
    virtual_board: SshSession, tmp_path: Path, size: int
) -> None:
    """Six megabytes are refused before they are sent, 0.9 when the disk has run full."""
    if virtual.status("virtual-pi4").mode != "namespaces":
        pytest.skip("the board's small disk needs root here")
    entry = dataclasses.replace(virtual_board.entry, workdir="/run/small-disk/work")
    local = tmp_path / "big"
    local.write_bytes(os.urandom(size))
    with SshSession(entry) as session:
        try:
            fill = "rm -rf ./*; dd if=/dev/zero of=filler bs=1k count=3700 2>/dev/null"
            session.run(["sh", "-c", fill], timeout=30).check("fill")
            with pytest.raises(BoardError, match="is full") as refused:
                session.upload(local, "big")
            assert f"needs {size / 1e6:.1f} MB" in refused.value.message
            assert "MB free" in refused.value.message
            assert f"`rm -r {session.workdir}/bundles`" in refused.value.hint
            left = session.run(["ls", "-A"], timeout=30).stdout.split()
            assert left == ["filler"]
        finally:
            session.run(["sh", "-c", "rm -rf ./*"], timeout=30)


@pytest.mark.board
def test_facts_of_the_virtual_board(virtual_board: SshSession) -> None:
    facts = probe(virtual_board)
    assert facts.arch == "aarch64"
    assert facts.model.startswith("Raspberry Pi 4")
    assert facts.python.startswith(virtual_board.board.python)
    assert set(virtual_board.board.features) <= set(facts.features)
    assert facts.glibc == "2.36"
    assert facts.numpy and facts.pillow
    # An emulated processor has no temperature and no governor, and none is made up.
    assert (facts.temperature_c, facts.governor, facts.mhz) == (None, "", None)


@pytest.mark.board
def test_the_tunnel_is_on_loopback_and_ends_with_the_block(virtual_board: SshSession) -> None:
    assert virtual_board.entry.port
    # Here and back again: the board's port leads to our end, which leads to the board's sshd.
    back = virtual_board.entry.port
    with tunnel(virtual_board.entry, back) as way:
        way.lead_to(back)
        for port in (way.here, way.there):
            addresses = {
                connection.laddr.ip
                for connection in psutil.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            }
            assert addresses == {"127.0.0.1"}
            with socket.create_connection(("127.0.0.1", port), timeout=20) as through:
                assert through.recv(4) == b"SSH-"
    for port in (way.here, way.there):
        for _ in Deadline(10).attempts():
            if refuses(port):
                break
        assert refuses(port)


@pytest.mark.board
def test_the_tunnel_ends_with_a_killed_parent(virtual_board: SshSession) -> None:
    # The parent's own child has inherited all its files: the end of the pipe alone tells nothing.
    script = (
        "import os, sys, time\n"
        "from edgecompress.rpc.tunnel import tunnel\n"
        "from edgecompress.targets import BoardEntry\n"
        f"with tunnel({virtual_board.entry!r}) as way:\n"
        "    print(way.here, flush=True)\n"
        "    if os.fork() == 0: time.sleep(12); os._exit(0)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    port = int(parent.stdout.readline())
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in Deadline(5).attempts():
        if refuses(port):
            return
    pytest.fail("the tunnel still listens")


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_tunnel_to_nowhere_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a folder with a module that is called as one of Python's own.
    (home / "queue.py").write_text("raise SystemExit('somebody else')")
    monkeypatch.chdir(home)
    entry = BoardEntry("lab", "rpi4b", "127.0.0.1", closed_port(), "pi")
    with pytest.raises(BoardError, match="cannot reach 'lab'"), tunnel(entry):
        pass


@pytest.mark.board
def test_probing_an_added_board_describes_it(
    virtual_board: SshSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board added as "some 64-bit ARM board" is a Pi 4 after `boards probe`, in a file."""
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path / "config"))
    entry = dataclasses.replace(virtual_board.entry, name="lab", board="generic-arm64")
    add(entry)
    dry = told_by("boards", "probe", "lab", "--dry-run")
    assert find("lab").board == "generic-arm64"
    told = told_by("boards", "probe", "lab")
    assert told["toml"] == dry["toml"]
    assert find("lab").board == "lab-board"
    board = load_board("lab-board")
    known = load_board("virtual-pi4")
    assert (board.mcpu, board.mattr, board.arch) == (known.mcpu, known.mattr, known.arch)
    assert board.fast.core == "cortex-a72"
    assert (board.fast.l1d_kib, board.fast.l2_kib) == (known.fast.l1d_kib, known.fast.l2_kib)
    assert [one["what"] for one in told["findings"] if one["source"] == "guessed"]


def told_by(*arguments: str) -> dict[str, Any]:
    """What a verb prints with --json."""
    argv = [sys.executable, "-m", "edgecompress.cli.main", *arguments, "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
