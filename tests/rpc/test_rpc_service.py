"""The unit that keeps a board ready: its text, what it does, and a board that has no systemd."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgecompress.errors import UsageError
from edgecompress.rpc import connect, server, service, service_ready
from edgecompress.rpc.ssh import SshSession


@pytest.fixture
def session(virtual_board: SshSession) -> Iterator[SshSession]:
    """A session with a working folder of its own, with a space in its name."""
    entry = dataclasses.replace(virtual_board.entry, name="lab", workdir="service test")
    with SshSession(entry) as opened:
        yield opened
        service.remove(opened)
        opened.run(["rm", "-rf", opened.workdir], timeout=60)


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    script = tmp_path / 'odd "folder" 100% $HOME' / "ready.py"
    script.parent.mkdir()
    script.write_text("")
    unit = tmp_path / service.UNIT
    unit.write_text(service.unit_text(sys.executable, str(script)))
    verify = ["systemd-analyze", "verify", "--user", "--man=no", str(unit)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(verify, capture_output=True, text=True, env=environment, check=False)
    complaints = [line for line in done.stderr.splitlines() if service.UNIT in line]
    assert not complaints
    assert done.returncode == 0, done.stderr
    broken = unit.read_text().replace("MemoryMax=256M", "MemoryMost=256M")
    unit.write_text(broken)
    done = subprocess.run(verify, capture_output=True, text=True, env=environment, check=False)
    assert "MemoryMost" in done.stderr, "this test can fail"


@pytest.mark.board
def test_a_board_without_systemd_is_told_what_to_type(session: SshSession) -> None:
    state = service.install(session)
    assert state.path == f"/home/pi/.config/systemd/user/{service.UNIT}"
    assert (state.enabled, state.next) == (
        False,
        f"systemctl --user enable --now {service.UNIT}; loginctl enable-linger",
    )
    shown = session.run(["cat", state.path], timeout=30).stdout
    script = f"{session.workdir}/service/ready.py"
    assert shown == service.unit_text("/usr/bin/python3", script)

    # What it starts runs there, and takes away what a crash left, but nothing that is in use.
    make = (
        "mkdir -p bundles/.unpacking.abcd_123/a runs film; cd bundles;"
        " echo 1 > .unpacking.abcd_123/a/b; echo 1 > .b.tar.0123abcd.part; echo 1 > kept;"
        " echo 1 > ../film/.movie.mkv.part; echo 1 > ../film/.movie.mkv.0123abcd.part;"
        " echo 1 > ../.movie.mkv.0123abcd.part; exec 9> .used.0123abcd.part; sleep 60"
    )
    with session.start(["sh", "-c", make], timeout=60):
        for _ in range(100):
            if (
                session.run(["test", "-e", "bundles/.used.0123abcd.part"], timeout=30).returncode
                == 0
            ):
                break
            time.sleep(0.1)
        done = session.run(["/usr/bin/python3", "-I", script], timeout=120)
    report = json.loads(done.stdout)
    assert report["removed"] == ["bundles/.b.tar.0123abcd.part", "bundles/.unpacking.abcd_123"]
    assert (report["missing"], report["ended"], done.returncode) == ([], [], 0)
    listed = session.run(["find", ".", "-name", ".*.part", "-o", "-name", "kept"], timeout=30)
    assert set(listed.stdout.split()) == {
        "./.movie.mkv.0123abcd.part",
        "./bundles/.used.0123abcd.part",
        "./bundles/kept",
        "./film/.movie.mkv.0123abcd.part",
        "./film/.movie.mkv.part",
    }
    assert json.loads(session.run(["cat", "service/ready.json"], timeout=30).stdout) == report

    session.write("service/mine", b"")
    assert service.remove(session) == state.path
    assert session.run(["test", "-e", state.path], timeout=30).returncode != 0
    assert session.run(["ls", "-A", "service"], timeout=30).stdout == "mine\n"
    session.remove("service/mine")
    service.remove(session)
    assert "service" not in session.run(["ls"], timeout=30).stdout


def test_the_servers_are_known_by_what_starts_them() -> None:
    launcher = Path(server.__file__).with_name("server_launcher.py")
    assert service_ready.SERVER in launcher.read_text()


def test_servers_without_a_connection_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another word than the real servers', of which some may run here."""
    word = f"edgecompress.test.{os.getpid()}"
    monkeypatch.setattr(service_ready, "SERVER", word)
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    orphan, other = (subprocess.Popen([*sleep, name]) for name in (word, "other"))
    try:
        deadline = time.monotonic() + 10
        while word not in psutil.Process(orphan.pid).cmdline() and time.monotonic() < deadline:
            time.sleep(0.05)
        monkeypatch.setattr(service_ready, "_connected", lambda pid: True)
        assert service_ready._end_orphans() == []
        monkeypatch.undo()
        monkeypatch.setattr(service_ready, "SERVER", word)
        monkeypatch.setattr(service_ready, "_connected", lambda pid: pid != orphan.pid)
        assert service_ready._end_orphans() == [orphan.pid]
        assert orphan.wait(10) == -9
        assert other.poll() is None
    finally:
        for one in (orphan, other):
            one.kill()
            one.wait()


@pytest.mark.board
def test_a_connected_process_is_known_by_its_server(session: SshSession) -> None:
    source = Path(service_ready.__file__).read_text().split("if __name__")[0]
    script = f"{source}\nprint(_connected(os.getpid()), _connected(1))"
    done = session.run(["python3", "-c", script], timeout=60)
    assert done.stdout.split() == ["True", "False"]


def test_this_machine_is_no_board_for_it() -> None:
    with connect("host") as here, pytest.raises(UsageError, match="not for this machine"):
        service.install(here)


def test_the_script_is_python_3_9() -> None:
    import ast

    ast.parse(Path(service_ready.__file__).read_text(), feature_version=(3, 9))
