from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil
import pytest

from edgecompress.errors import BoardError, UsageError
from edgecompress.files import write_json
from edgecompress.rpc import Session, apt, binfmt, connect, virtual
from edgecompress.rpc.ssh import SshSession
from edgecompress.rpc.traceable import program
from edgecompress.rpc.virtual_tree import cpuinfo, userland
from edgecompress.targets import load_board, virtual_names

PI4, PI5 = "virtual-pi4", "virtual-pi5"


@pytest.mark.board
def test_starting_twice_is_starting_once(virtual_board: Session) -> None:
    before = virtual.status(PI4)
    entry = virtual.start(PI4)
    assert before.running
    assert virtual.status(PI4) == before
    assert (entry.port, entry.host) == (before.port, "127.0.0.1")


@pytest.mark.board
def test_the_server_listens_on_loopback(virtual_board: Session) -> None:
    port = virtual.status(PI4).port
    addresses = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }
    assert addresses == {"127.0.0.1"}


@pytest.mark.board
def test_keys_are_the_users_alone(virtual_board: Session) -> None:
    keys = virtual.status(PI4).folder / "keys"
    assert keys.stat().st_mode & 0o77 == 0
    assert all(keys.joinpath(name).stat().st_mode & 0o77 == 0 for name in ("client", "host"))


def test_a_board_without_tools_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        BoardError, match="not installed: mmdebstrap, qemu-aarch64-static"
    ) as refused:
        virtual.start(PI4)
    assert "sudo apt install mmdebstrap qemu-user-static" in refused.value.hint
    assert "board 'host'" in refused.value.hint


def test_a_stale_state_is_no_running_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    state = tmp_path / "virtual-pi4/state.json"
    # A living process of another age: the number was given again. It must survive.
    write_json(state, {"pid": os.getpid(), "created": 1.0, "port": 22, "mode": "namespaces"})
    assert not virtual.status(PI4).running
    assert virtual.stop(PI4) is False
    for damaged in ("", "[]", "{}", '{"pid": "x", "created": 0, "port": 0, "mode": ""}'):
        state.write_text(damaged)
        assert not virtual.status(PI4).running
        assert virtual.stop(PI4) is False


@pytest.mark.board
@pytest.mark.slow
def test_without_root_it_runs_under_proot(
    virtual_board: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same disk, own folder; the way through namespaces is closed."""
    if shutil.which("proot") is None:
        pytest.skip("proot is not installed")
    packed = userland()
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    shutil.copy(packed, userland())
    monkeypatch.setattr(virtual, "_against_namespaces", lambda: "closed by the test")
    try:
        with connect(PI4) as session:
            assert virtual.status(PI4).mode == "proot"
            session.write("a/b", b"x")
            assert session.run(["ls", "a"], timeout=60).stdout == "b\n"
            assert session.run(["uname", "-m"], timeout=60).stdout == "aarch64\n"
    finally:
        assert virtual.stop(PI4) is True
    assert not virtual.status(PI4).running


@pytest.mark.board
@pytest.mark.slow
def test_killed_from_outside_it_starts_again(
    virtual_board: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = userland()
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    shutil.copy(packed, userland())
    try:
        first = virtual.start(PI4)
        psutil.Process(virtual.status(PI4).pid).kill()
        second = virtual.start(PI4)
        assert second.host_key == first.host_key
        with connect(PI4) as session:
            assert session.run(["hostname"], timeout=60).stdout == "virtual-pi4\n"
    finally:
        virtual.stop(PI4)


@pytest.mark.board
def test_a_copy_is_a_board_of_its_own_and_keeps_its_port(
    virtual_board: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = userland()
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    shutil.copy(packed, userland())
    try:
        entry = virtual.start(PI4, "shelf-a")
        assert (entry.name, entry.board) == ("shelf-a", PI4)
        assert not virtual.status(PI4).running
        virtual.stop(PI4, "shelf-a")
        assert virtual.start(PI4, "shelf-a") == entry
        with SshSession(entry) as session:
            assert session.run(["hostname"], timeout=60).stdout == "shelf-a\n"
    finally:
        virtual.stop(PI4, "shelf-a")


def test_a_copy_needs_a_name_that_is_no_path() -> None:
    with pytest.raises(UsageError, match="no name of a board"):
        virtual.start(PI4, "../x")


def test_sources_of_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "SOURCES", tmp_path)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://off/debian bookworm main\n"
        "deb [signed-by=/k] http://one/debian bookworm main contrib\n"
        "deb http://other/ubuntu noble main\n"
    )
    (tmp_path / "sources.list.d/debian.sources").write_text(
        "Types: deb\n# note\nURIs: http://two/debian\nSuites: bookworm bookworm-updates sid\n"
        "Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n"
        "Types: deb\nURIs: http://vendor/x\nSuites: bookworm\nComponents: main\n"
    )
    assert apt.mirrors("bookworm") == [
        "deb http://one/debian bookworm main contrib",
        "deb http://two/debian bookworm main",
        "deb http://two/debian bookworm-updates main",
    ]
    assert apt.mirrors("trixie") == []


def test_only_a_fixed_arm64_interpreter_will_do() -> None:
    entry = "enabled\ninterpreter /q\nflags: {}\noffset 0\nmagic {}\nmask ff\n"
    arm64 = "7f454c460201010000000000000000000200b700"
    assert binfmt._fits(entry.format("OCF", arm64))
    assert not binfmt._fits(entry.format("OC", arm64))
    assert not binfmt._fits(entry.format("OCF", arm64.replace("b700", "f300")))
    assert not binfmt._fits(entry.format("OCF", arm64).replace("enabled", "disabled"))


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_jumps_inside_itself(machine: str) -> None:
    code = program(machine)
    entries = [code[start : start + 8] for start in range(0, len(code), 8)]
    for index, entry in enumerate(entries):
        if entry[0] == 0x15:
            assert max(entry[2], entry[3]) + index + 1 < len(entries)
    assert entries[-1][0] == 0x06


def test_each_board_shows_its_own_core() -> None:
    assert virtual_names() == [PI4, PI5]
    shown = {name: cpuinfo(load_board(name)) for name in virtual_names()}
    assert all(text.count("processor\t:") == 4 for text in shown.values())
    assert "CPU part\t: 0xd08" in shown[PI4] and "asimddp" not in shown[PI4]
    assert "CPU part\t: 0xd0b" in shown[PI5] and " fphp asimdhp " in shown[PI5]
    assert "CPU variant\t: 0x4\n" in shown[PI5] and "CPU revision\t: 1\n" in shown[PI5]
    for name, text in shown.items():
        flags = next(line for line in text.splitlines() if line.startswith("Features")).split()
        assert set(load_board(name).features) <= set(flags)


def test_only_virtual_boards_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="'rpi5' is not a virtual board") as refused:
        virtual.start("rpi5")
    assert PI5 in refused.value.hint
    assert not list(tmp_path.iterdir())


# What a program finds out about its CPU: the kernel's word (AT_HWCAP), and what stands in cpuinfo.
_ASK = """
import ctypes
bits = ctypes.CDLL(None).getauxval(16)
print(bits >> 20 & 1, bits >> 10 & 1, "asimddp" in open("/proc/cpuinfo").read())
"""


@pytest.mark.board
def test_both_boards_side_by_side(virtual_board: Session) -> None:
    before = virtual.status(PI4)
    ran = virtual.status(PI5).running
    with connect(PI5) as session:
        after = virtual.status(PI5)
        assert virtual.status(PI4) == before and after.running
        assert after.port != before.port and after.folder != before.folder
        keys = {(state.folder / "keys/host.pub").read_text() for state in (before, after)}
        assert len(keys) == 2
        assert session.run(["hostname"], timeout=60).stdout == "virtual-pi5\n"
        assert virtual_board.run(["hostname"], timeout=60).stdout == "virtual-pi4\n"
        ask = ["python3", "-c", _ASK]
        assert session.run(ask, timeout=60).stdout.split() == ["1", "1", "True"]
        assert virtual_board.run(ask, timeout=60).stdout.split() == ["0", "0", "False"]
    if not ran:
        virtual.stop(PI5)
    assert virtual.status(PI4) == before
    assert virtual_board.run(["true"], timeout=60).returncode == 0
