"""Boards that are not as they should be: what the user is told, and how soon."""

from __future__ import annotations

import dataclasses
import io
import json
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgecompress.targets.inventory import add

pytestmark = [pytest.mark.board, pytest.mark.slow]

# Of Python and what it loads, before anything is asked of the board.
START_S = 15


def refused(scene: Any, fault: str, *said: str, limit: float = 30.0 + START_S) -> None:
    """The job ends with exit status 4 (the board's fault), the reason and what to do next."""
    command = scene.bench()
    status, text = command.end(limit)
    seconds = time.monotonic() - command.began
    assert status == 4, text
    # The terminal's lines end where they must.
    flat = " ".join(text.split())
    assert all(words in flat for words in said), text
    scene.row(fault, f"refused: {said[0]}", seconds, limit)


def test_a_full_disk(scene: Any) -> None:
    add(dataclasses.replace(scene.shelf.entries[scene.board], workdir="/run/small-disk/work"))
    refused(scene, "disk full", "is full", "MB free below", "try: ")


def test_a_home_that_is_read_only(scene: Any) -> None:
    home = scene.shelf.disk(scene.board) / "home"
    script = f"mount --bind '{home}' '{home}' && mount -o remount,ro,bind '{home}'"
    sshd = scene.shelf.first(scene.board).pid
    command = ["nsenter", "--target", str(sshd), "--mount", "sh", "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the namespace of the board cannot be entered here: {done.stderr}")
    try:
        refused(scene, "home read-only", "cannot make", "Read-only file system")
    finally:
        scene.shelf.kill(scene.board)


def test_a_clock_that_is_wrong(scene: Any) -> None:
    """Two hours behind: nothing depends on it."""
    with wrong_clock(scene.shelf, scene.board, "-7200"):
        command = scene.bench()
        status, text = command.end(120)
        assert status == 0, text
        scene.require_complete()
        scene.row("clock two hours wrong", "no difference", time.monotonic() - command.began, 120)


@contextmanager
def wrong_clock(shelf: Any, name: str, seconds: str) -> Iterator[None]:
    """A board whose programs all read a clock that is wrong; files' times are right."""
    tree = shelf.disk(name)
    source = Path(__file__).with_name("wrong_clock.c")
    library = tree / "usr/local/lib/wrong_clock.so"
    zig = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        "aarch64-linux-gnu.2.31",
        "-shared",
        "-O1",
    ]
    subprocess.run([*zig, "-o", str(library), str(source)], check=True)
    configuration = tree / "etc/ssh/sshd_config"
    before = configuration.read_text()
    lines = [
        f"{line} LD_PRELOAD=/usr/local/lib/wrong_clock.so WRONG_BY={seconds}"
        if line.startswith("SetEnv ")
        else line
        for line in before.splitlines()
    ]
    shelf.kill(name)
    configuration.write_text("\n".join(lines) + "\n")
    try:
        shelf.start(name)
        yield
    finally:
        configuration.write_text(before)
        library.unlink()
        shelf.kill(name)


def test_no_python(scene: Any) -> None:
    python = scene.shelf.disk(scene.board) / "usr/bin/python3"
    target = python.readlink()
    python.unlink()
    try:
        refused(scene, "no Python", "has no Python 3", "sudo apt install python3")
    finally:
        python.symlink_to(target)


def test_another_python(scene: Any) -> None:
    """The bundle is made for the Python that the inventory names; the board has another one."""
    add(dataclasses.replace(scene.shelf.entries[scene.board], python="3.12"))
    refused(scene, "wrong Python", "runtime is for Python 3.12, this is 3.11", limit=120)


def test_a_stale_runtime(scene: Any) -> None:
    bundle = scene.out / "bundle.tar"
    with tarfile.open(bundle) as old:
        members = [
            (member, (old.extractfile(member) or io.BytesIO()).read())
            for member in old.getmembers()
        ]
    manifest = json.loads(members[0][1])
    manifest["versions"]["tvm"] = "0.19.0"
    members[0] = (members[0][0], json.dumps(manifest).encode())
    with tarfile.open(bundle, "w") as new:
        for member, content in members:
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    refused(scene, "stale runtime in the bundle", "tvm is 0.19.0, this runner works with")


def test_half_a_bundle(scene: Any, link: Any) -> None:
    """Killed while it sends the bundle: nothing half is taken for whole, and the next one works."""
    link.order("rate 500000")
    first = scene.bench()
    parts = scene.shelf.home(scene.board) / "bundles"
    while not list(parts.glob(".*.part")):
        assert first.process.poll() is None
        time.sleep(0.05)
    time.sleep(1.0)
    first.kill()
    assert scene.shelf.is_idle(scene.board, within=60), "what is on its way still arrives"
    assert not list(parts.glob("*.tar"))
    link.order("pass")
    command = scene.bench()
    status, text = command.end(120)
    assert status == 0, text
    scene.require_complete()
    seconds = time.monotonic() - command.began
    scene.row("bundle half uploaded, host killed", "sent again, whole", seconds, 120)


@pytest.mark.parametrize("answer", [b"", b"\xff\x00garbage\n" * 50])
def test_something_else_at_the_address(scene: Any, answer: bytes) -> None:
    """A server that accepts and is silent, and one that talks nonsense without end."""
    with server(answer) as port:
        add(dataclasses.replace(scene.shelf.entries[scene.board], port=port))
        what = "talks garbage" if answer else "never answers"
        refused(scene, f"the SSH port {what}", "cannot reach", "check its power")


@contextmanager
def server(answer: bytes) -> Iterator[int]:
    """A TCP server that says `answer` over and over to each who comes."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def talk(connection: socket.socket) -> None:
        try:
            while answer and not ended.is_set():
                connection.sendall(answer)
            ended.wait()
        except OSError:
            pass
        connection.close()

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        listener.close()


@pytest.mark.parametrize(
    ("how", "answer", "said"),
    [
        ("nonsense", "echo '{\"state\": []}'", "does not say who measures on it"),
        ("nonsense without end", "exec cat /dev/urandom", "said more than"),
        ("nothing", "sleep 1000", "does not say who measures on it"),
    ],
    ids=["nonsense", "endless", "silent"],
)
def test_a_board_that_answers_wrongly(scene: Any, how: str, answer: str, said: str) -> None:
    """Its `python3` is not what it seems."""
    false = scene.shelf.disk(scene.board) / "usr/local/bin/python3"
    false.parent.mkdir(parents=True, exist_ok=True)
    false.write_text(f"#!/bin/sh\n{answer}\n")
    false.chmod(0o755)
    try:
        refused(scene, f"the board's programs say {how}", said, limit=60)
    finally:
        false.unlink()
    assert scene.shelf.is_idle(scene.board, within=10)
