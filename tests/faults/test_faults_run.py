"""What becomes of an accuracy run when something breaks in the middle of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = pytest.mark.board


def test_the_host_process_is_killed(scene: Any) -> None:
    """Nothing goes on running on the board, and the same command does only what is left."""
    first = scene.bench()
    scene.wait_answered(40)
    first.kill()
    killed = time.monotonic()
    assert scene.shelf.is_idle(scene.board, within=10)
    idle = time.monotonic() - killed
    status, said = scene.bench().end(120)
    assert status == 0, said
    assert "done before" in said
    scene.require_complete()
    scene.row("host process, kill -9", "nothing runs on; the same command does the rest", idle, 10)


def test_the_connection_is_killed(scene: Any) -> None:
    """The sshd processes that serve us; the one that listens lives."""
    command = scene.bench()
    scene.wait_answered(40)
    for process in scene.shelf.processes(scene.board):
        if process.name().startswith("sshd") or "sshd" in " ".join(process.cmdline()):
            process.kill()
    killed, before = time.monotonic(), scene.answered()
    scene.wait_answered(before + 5)
    again = time.monotonic() - killed
    status, said = command.end(120)
    assert status == 0, said
    scene.require_complete()
    scene.row("sshd of the connection, kill -9", "connects again and goes on by itself", again, 30)


def test_the_power_fails(scene: Any) -> None:
    """And comes back: the command goes on by itself."""
    command = scene.bench()
    scene.wait_answered(40)
    scene.shelf.kill(scene.board)
    before = scene.answered()
    time.sleep(3)
    scene.shelf.start(scene.board)
    revived = time.monotonic()
    scene.wait_answered(before + 5)
    again = time.monotonic() - revived
    status, said = command.end(120)
    assert status == 0, said
    scene.require_complete()
    scene.row("board, power lost for 3 s", "goes on by itself, once the board is up", again, 60)


def test_the_link_is_slow(scene: Any, link: Any) -> None:
    """200 ms each way, and 100 kB/s."""
    for order in ("delay 0.2", "rate 100000"):
        link.order(order)
        command = scene.bench()
        status, said = command.end(200)
        assert status == 0, said
        scene.require_complete()
