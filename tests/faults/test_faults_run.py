"""What becomes of an accuracy run when something breaks in the middle of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = [pytest.mark.board, pytest.mark.slow]


def test_the_host_process_is_killed(scene: Any) -> None:
    """Nothing goes on running on the board, and the same command does only what is left."""
    first = scene.bench()
    scene.wait_answered(1)
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
    scene.wait_answered(1)
    scene.shelf.kill_connections(scene.board)
    killed, before = time.monotonic(), scene.answered()
    scene.wait_answered(before + 1)
    again = time.monotonic() - killed
    status, said = command.end(120)
    assert status == 0, said
    scene.require_complete()
    scene.row("sshd of the connection, kill -9", "connects again and goes on by itself", again, 30)


def test_the_power_fails(scene: Any) -> None:
    """And comes back: the command goes on by itself."""
    command = scene.bench()
    scene.wait_answered(1)
    scene.shelf.kill(scene.board)
    before = scene.answered()
    time.sleep(3)
    scene.shelf.start(scene.board)
    revived = time.monotonic()
    scene.wait_answered(before + 1)
    again = time.monotonic() - revived
    status, said = command.end(120)
    assert status == 0, said
    scene.require_complete()
    scene.row("board, power lost for 3 s", "goes on by itself, once the board is up", again, 60)


@pytest.mark.parametrize(
    ("what", "order"),
    [("200 ms of delay each way", "delay 0.2"), ("200 kB a second", "rate 200000")],
    ids=["delay", "rate"],
)
def test_the_link_is_slow(scene: Any, link: Any, what: str, order: str) -> None:
    """Bundle and photos arrive all the same."""
    link.order(order)
    command = scene.bench()
    status, said = command.end(400)
    assert status == 0, said
    scene.require_complete()
    seconds = time.monotonic() - command.began
    scene.row(f"link with {what}", "the whole run, undisturbed", seconds, 400)


def test_the_link_is_cut_for_half_a_minute(scene: Any, link: Any) -> None:
    """Nobody need be told."""
    command = scene.bench()
    scene.wait_answered(1)
    link.order("cut")
    time.sleep(30)
    link.order("pass")
    restored = time.monotonic()
    status, said = command.end(200)
    assert status == 0, said
    scene.require_complete()
    seconds = time.monotonic() - restored
    scene.row("link cut for 30 s", "goes on by itself; seconds to the end", seconds, 200)


def test_the_link_is_cut_for_good(scene: Any, link: Any) -> None:
    """The command ends within its deadline, the board's part too; given again, it resumes."""
    command = scene.bench()
    scene.wait_answered(1)
    link.order("cut")
    struck = time.monotonic()
    status, said = command.end(400)
    seconds = time.monotonic() - struck
    assert status == 4, said
    assert "try:" in said
    assert scene.shelf.is_idle(scene.board, within=150), "the missing heartbeat ends what ran there"
    link.order("pass")
    status, said = scene.bench().end(200)
    assert status == 0, said
    scene.require_complete()
    scene.row("link cut for good", "ends and says so; given again, it resumes", seconds, 400)
