"""Boards behind jump hosts: one virtual board is the way to the other, both with real servers."""

from __future__ import annotations

import dataclasses
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgecompress import events
from edgecompress.errors import BoardError
from edgecompress.rpc import connect
from edgecompress.rpc.ssh import SshSession
from edgecompress.rpc.ssh_config import resolve
from edgecompress.rpc.tunnel import tunnel
from edgecompress.targets import BoardEntry
from edgecompress.targets.inventory import add

OTHER = "SHA256:" + "A" * 43


@pytest.fixture(scope="module")
def behind(virtual_board: SshSession) -> Iterator[SshSession]:
    """The other virtual board."""
    with connect("virtual-pi5") as session:
        assert isinstance(session, SshSession)
        yield session


def config(home: Path, text: str) -> None:
    (home / ".ssh/config").write_text(text)


def far(behind: SshSession, bastion: SshSession, **values: str) -> BoardEntry:
    """The board behind, reached through the other by the inventory's own words."""
    way = bastion.entry
    pinned = {"jump": f"{way.user}@127.0.0.1:{way.port}", "jump_host_key": way.host_key, **values}
    return dataclasses.replace(behind.entry, name="far", **pinned)


def bastion_config(bastion: SshSession, name: str = "bastion") -> str:
    entry = bastion.entry
    return (
        f"Host {name}\n HostName 127.0.0.1\n Port {entry.port}\n User {entry.user}\n"
        f" IdentityFile {entry.identity_file}\n"
    )


def knows(home: Path, *sessions: SshSession) -> None:
    """Write known_hosts."""
    entries = [one.entry for one in sessions]
    keys = [Path(one.identity_file).with_name("host.pub").read_text() for one in entries]
    lines = [f"[127.0.0.1]:{one.port} {key}" for one, key in zip(entries, keys, strict=True)]
    (home / ".ssh/known_hosts").write_text("\n".join(lines) + "\n")


def hostname(entry: BoardEntry) -> str:
    with SshSession(entry) as session:
        return session.run(["hostname"], timeout=30).stdout.strip()


def test_jump_hosts_of_the_configuration(home: Path) -> None:
    config(
        home,
        "Include more/*.conf\n"
        "Host board\n ProxyJump one,me@two:2200\n"
        "Host one\n ProxyJump zero\n HostName 10.0.0.1\n"
        "Host two\n ProxyJump nobody\n User other\n"
        "Host loop\n ProxyJump loop\n"
        "Host direct\n ProxyJump none\n"
        "Host odd\n Port x\n"
        "Host nul\n UserKnownHostsFile ~\0/x\n",
    )
    (home / ".ssh/more").mkdir()
    (home / ".ssh/more/a.conf").write_text("Host zero\n User root\n")
    way = resolve(BoardEntry("x", "rpi4b", "board", user="pi")).jumps
    # The first one's own jump host counts, those of the others do not, as with ssh.
    assert [(hop.user, hop.host, hop.port) for hop in way][0::2] == [
        ("root", "zero", 22), ("me", "two", 2200),
    ]  # fmt: skip
    assert way[1].host == "10.0.0.1"
    assert resolve(BoardEntry("x", "rpi4b", "direct", user="pi")).jumps == ()
    own = BoardEntry("x", "rpi4b", "board", user="pi", identity_file="~/k", jump="[::1]:23")
    assert [(hop.host, hop.port) for hop in resolve(own).jumps] == [("::1", 23)]
    assert resolve(own).jumps[0].identity_files == (f"{home}/k",)
    with pytest.raises(BoardError, match="more than 8 jump hosts"):
        resolve(BoardEntry("x", "rpi4b", "loop"))
    assert "~\0/x" in resolve(BoardEntry("x", "rpi4b", "nul")).known_hosts, "a name of no file"
    with pytest.raises(BoardError, match="port is 'x'"):
        resolve(BoardEntry("x", "rpi4b", "odd"))
    with pytest.raises(BoardError, match="2 jump_host_key for 1"):
        resolve(dataclasses.replace(own, jump_host_key=f"{OTHER},{OTHER}"))


def test_settings_of_the_configuration(home: Path) -> None:
    (home / "key").write_text("")
    (home / "hosts").write_text("")
    config(
        home,
        f"Host lab\n IdentityFile {home}/key\n IdentitiesOnly yes\n HostKeyAlias shelf\n"
        f" UserKnownHostsFile {home}/hosts\n ConnectTimeout 3\n ServerAliveInterval 4\n"
        " Compression yes\n AddKeysToAgent yes\n StrictHostKeyChecking no\n Ciphers aes128-ctr\n"
        "Host tool\n ProxyCommand nc %h %p\n ProxyJump ignored\n",
    )
    told: list[events.Event] = []
    lab = BoardEntry("x", "rpi4b", "lab", user="pi")
    with events.listening(told.append):
        address = resolve(lab)
        assert resolve(lab) == address
    assert address.only_these
    assert address.known_as == ("shelf", 22)
    assert address.known_hosts[0] == f"{home}/hosts"
    assert (address.connect_s, address.keepalive_s, address.compress) == (3, 4, True)
    # What is not followed is said, once.
    said = sorted(event.text.split()[2] for event in told)
    assert said == ["ciphers", "stricthostkeychecking"]
    tool = resolve(BoardEntry("x", "rpi4b", "tool", port=2200, user="pi"))
    assert tool.jumps == ()
    assert tool.proxy.startswith("nc tool")


def test_values_of_the_inventory_go_before_those_of_the_configuration(home: Path) -> None:
    """In what a configuration makes of them too, as with those of ssh's command line."""
    config(
        home,
        "Host kitchen near\n User cfguser\n Port 23\n ProxyCommand nc %h %p # as %r\n"
        "Match user pi\n ConnectTimeout 7\n",
    )
    mine = BoardEntry("x", "rpi4b", "kitchen", port=2222, user="pi")
    address = resolve(mine)
    assert (address.proxy, address.connect_s) == ("nc kitchen 2222 # as pi", 7)
    assert (address.port, address.user, address.known_as) == (2222, "pi", ("kitchen", 2222))
    theirs = resolve(BoardEntry("x", "rpi4b", "kitchen"))
    assert (theirs.proxy, theirs.connect_s) == ("nc kitchen 23 # as cfguser", None)
    (hop,) = resolve(dataclasses.replace(mine, host="far", jump="pi@near:2200")).jumps
    assert (hop.proxy, hop.port, hop.user) == ("nc near 2200 # as pi", 2200, "pi")
    (hop,) = resolve(dataclasses.replace(mine, host="far", jump="near")).jumps
    assert (hop.proxy, hop.port, hop.user) == ("nc near 23 # as cfguser", 23, "cfguser")


@pytest.mark.board
def test_through_a_jump_host_of_the_inventory(
    virtual_board: SshSession, behind: SshSession, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(home / "config"))
    config(home, f"Host 127.0.0.1\n IdentityFile {virtual_board.entry.identity_file}\n")
    add(far(behind, virtual_board))
    with connect("far") as session:
        assert session.run(["hostname"], timeout=30).stdout == "virtual-pi5\n"
        seen = session.run(["sh", "-c", "echo $SSH_CONNECTION"], timeout=30).stdout.split()
        assert seen[0] == "127.0.0.1"
    assert not [one for one in psutil.Process().children() if "ssh" in one.name()]


@pytest.mark.board
def test_the_tunnel_takes_the_same_way(
    virtual_board: SshSession, behind: SshSession, home: Path
) -> None:
    config(home, f"Host 127.0.0.1\n IdentityFile {virtual_board.entry.identity_file}\n")
    assert behind.entry.port
    with tunnel(far(behind, virtual_board)) as way:
        way.lead_to(behind.entry.port)
        with socket.create_connection(("127.0.0.1", way.here), timeout=20) as through:
            assert through.recv(4) == b"SSH-"


@pytest.mark.board
def test_the_jump_hosts_key_is_checked_as_any(
    virtual_board: SshSession, behind: SshSession, home: Path
) -> None:
    config(home, f"Host 127.0.0.1\n IdentityFile {virtual_board.entry.identity_file}\n")
    trust = virtual_board.entry.host_key
    with pytest.raises(BoardError, match=r"jump host 127\.0\.0\.1' is not known") as refused:
        SshSession(far(behind, virtual_board, jump_host_key=""))
    assert f"--jump-host-key {trust}" in refused.value.hint
    assert shlex.split(refused.value.hint.split("if equal: ")[1])[:4] == [
        "edgecompress", "boards", "add", "far",
    ]  # fmt: skip
    with pytest.raises(BoardError, match=r"jump host 127\.0\.0\.1' has CHANGED"):
        SshSession(far(behind, virtual_board, jump_host_key=OTHER))
    with pytest.raises(BoardError, match="'far' has CHANGED"):
        SshSession(far(behind, virtual_board, host_key=OTHER))
    knows(home, virtual_board)
    assert hostname(far(behind, virtual_board, jump_host_key="")) == "virtual-pi5"


@pytest.mark.board
def test_two_hops_of_the_configuration(
    virtual_board: SshSession, behind: SshSession, home: Path
) -> None:
    config(
        home,
        bastion_config(virtual_board, "first")
        + bastion_config(behind, "second")
        + f"Host far\n HostName 127.0.0.1\n Port {behind.entry.port}\n ProxyJump first,second\n",
    )
    knows(home, virtual_board, behind)
    assert hostname(dataclasses.replace(behind.entry, host="far", port=None)) == "virtual-pi5"


@pytest.mark.board
def test_a_proxy_command_ends_with_the_connection(virtual_board: SshSession, home: Path) -> None:
    relay = home / "relay.py"
    relay.write_text(
        "import os, select, socket, sys\n"
        "with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as there:\n"
        "    while True:\n"
        "        for one in select.select([0, there], [], [])[0]:\n"
        "            data = os.read(0, 65536) if one == 0 else there.recv(65536)\n"
        "            if not data: sys.exit()\n"
        "            there.sendall(data) if one == 0 else os.write(1, data)\n"
    )
    config(
        home,
        f"Host tool\n HostName 127.0.0.1\n Port {virtual_board.entry.port}\n"
        f" ProxyCommand {sys.executable} {relay} %h %p\n"
        "Host broken\n ProxyCommand exit 3\n",
    )
    entry = dataclasses.replace(virtual_board.entry, host="tool", port=None)
    assert hostname(entry) == "virtual-pi4"
    assert not [one for one in psutil.Process().children() if str(relay) in one.cmdline()]
    with pytest.raises(BoardError, match="by its ProxyCommand") as refused:
        SshSession(dataclasses.replace(entry, host="broken"))
    assert refused.value.hint == "try the same by hand: ssh broken"


@pytest.mark.board
def test_a_board_that_the_jump_host_does_not_reach(
    virtual_board: SshSession, behind: SshSession, home: Path
) -> None:
    config(home, f"Host 127.0.0.1\n IdentityFile {virtual_board.entry.identity_file}\n")
    nowhere = dataclasses.replace(far(behind, virtual_board), port=1)
    with pytest.raises(BoardError, match=r"does not open a way to 'far' at 127\.0\.0\.1 port 1"):
        SshSession(nowhere)


@pytest.mark.board
def test_an_encrypted_key_that_the_agent_holds(
    virtual_board: SshSession, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named key is taken from the agent, and no other one of it is offered."""
    key = home / "locked"
    key.write_bytes(Path(virtual_board.entry.identity_file).read_bytes())
    key.chmod(0o600)
    run = ["ssh-keygen", "-q", "-y", "-f", str(key)]
    public = subprocess.run(run, capture_output=True, check=True, text=True).stdout
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(home / "agent")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert agent.stdout
        agent.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "agent"))
        subprocess.run(["ssh-add", "-q", str(key)], check=True)
        lock = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret phrase", "-f", str(key)]
        subprocess.run(lock, check=True, stdout=subprocess.DEVNULL)
        entry = dataclasses.replace(virtual_board.entry, identity_file=str(key))
        with pytest.raises(BoardError, match="is encrypted") as refused:
            SshSession(entry)
        assert "secret phrase" not in str(refused.value)
        (home / "locked.pub").write_text(public)
        assert hostname(entry) == "virtual-pi4"
    finally:
        agent.terminate()
        agent.wait()
        if agent.stdout:
            agent.stdout.close()
