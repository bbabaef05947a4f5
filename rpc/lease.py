"""Leases: who measures on a board, so that nobody else does at the same time.

A lease is a lock on one well-known file of the board, whoever logs in there, held by a process of
ours (`lease_holder.py`) that ends like every command on a board: with us or our connection at once,
and when the board has not heard of us for `process.SILENCE_S`. So nobody has to clear up after a
killed host, a board that was started again, or a network that was cut. What stands in the file
tells others who holds it, and until when that may be believed, by the board's own uptime.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecompress import events
from edgecompress.errors import BoardError

from .deadline import Deadline
from .probe import PYTHON_HINT
from .process import Running
from .session import Session

LEASE_FILE = "/tmp/edgecompress-lease.json"
# Names another file for this machine's own lease, where it measures on itself.
VARIABLE = "EDGECOMPRESS_LEASE"

LASTS_S = 60.0
ANSWER_S = 30.0
_LONGEST_S = 30 * 24 * 3600.0

_NO_PROGRAM = 127
_HOLDER = Path(__file__).with_name("lease_holder.py")


@dataclass(frozen=True)
class Holder:
    """Who measures on a board, as a file there says that anybody may write.

    Attributes:
        owner: `user@machine`.
        purpose: what for ("tuning").
        since_s: for how long, seconds.
        left_s: until it counts for nothing unless it is renewed, seconds.
    """

    owner: str
    purpose: str
    since_s: float
    left_s: float = 0.0

    def __str__(self) -> str:
        minutes = self.since_s / 60
        spent = f"{minutes:.0f} min" if minutes >= 1 else f"{self.since_s:.0f} s"
        return f"{self.owner} ({self.purpose}, for {spent})"


class LeaseTakenError(BoardError):
    """Somebody has taken the board away from us: trying again would disturb them."""


class Lease:
    """A lease that is held."""

    def __init__(self, session: Session, running: Running) -> None:
        self._session = session
        self._running = running
        # Who has taken it away; None while it is ours.
        self._lost_to: str | None = None
        # Whether the board still answered when it was lost.
        self._answered = False
        self._ended = threading.Event()

    def require(self) -> None:
        """Return while it is ours.

        Raises:
            LeaseTakenError: it was taken away.
            BoardError: it has ended with the connection, or with its file or process there.
        """
        if self._lost_to is not None:
            raise _gone(self._session.name, self._lost_to)

    def require_untaken(self) -> None:
        """Return while nobody else can have the board: a connection that has ended says so itself.

        Raises:
            LeaseTakenError: it was taken away.
            BoardError: its file or process there has gone, so that another may hold the board.
        """
        if self._answered or self._lost_to != _NOBODY:
            self.require()

    def watch(self) -> None:
        """Notice when it is lost, until `end` is called."""
        said: list[dict[str, Any]] = []
        while not self._ended.is_set():
            if self._running.poll(1.0, lambda line: said.append(_parsed(line))):
                by = _holder(said[-1] if said else {}).owner
                answered = not self._ended.is_set() and self._answers()
                if not self._ended.is_set():
                    self._lost_to, self._answered = by, answered
                    events.warn(_gone(self._session.name, by).message)
                return

    def _answers(self) -> bool:
        """Whether the board does, over the connection that the lease hung on."""
        try:
            self._session.ping()
        except BoardError:
            return False
        return True

    def end(self) -> None:
        """Let it go."""
        self._ended.set()
        self._running.stop()


@contextmanager
def lease(session: Session, purpose: str, *, wait: float = 0.0, token: str = "") -> Iterator[Lease]:
    """Hold the board of a session for as long as the block lasts.

    When it is taken away, commands that the session runs in the block end with `LeaseTakenError`;
    when it is lost otherwise, and the board is still there, with `BoardError`.

    Args:
        purpose: what for, as others are told.
        wait: seconds to wait for one who holds it.
        token: who we are; one who holds it with the same token is ourselves, from before a
            connection was lost, and is relieved. By default nobody else is.

    Raises:
        BoardError: somebody else holds it, another run of ours included; or it cannot be held.
    """
    argv = _command("take", lease_path(session), _ourselves(purpose, token), wait)
    with session.start(argv, timeout=_LONGEST_S) as running:
        _await(session.name, running, wait)
        held = Lease(session, running)
        threading.Thread(target=held.watch, name="lease", daemon=True).start()
        before, session.require = session.require, held.require_untaken
        try:
            yield held
        finally:
            session.require = before
            held.end()


def release(session: Session) -> Holder | None:
    """Take a board's lease away from whoever holds it: who that was, or None.

    Raises:
        BoardError: it cannot be taken away.
    """
    argv = _command("break", lease_path(session), _ourselves("release", ""), 0)
    done = session.run(argv, timeout=ANSWER_S).check(*_refused(session.name))
    answer = _parsed(done.stdout.strip())
    if answer.get("state") == "busy":
        raise BoardError(
            f"the lease on '{session.name}' is held by a process that does not let go",
            f"log in there and end what has {lease_path(session)} open: fuser -k PATH",
        )
    return _holder(answer) if answer.get("state") == "broken" else None


def new_token() -> str:
    """A token for `lease` that nobody else has."""
    return secrets.token_hex(8)


def lease_path(session: Session) -> str:
    """The file that is locked: the same for everybody on a board."""
    own = os.environ.get(VARIABLE) if session.board.kind == "host" else None
    return own or LEASE_FILE


def standing(text: str, boot: str, uptime: float) -> Holder | None:
    """Who holds a lease by what stands in its file, or None.

    Args:
        boot: which start of the board this is, its `boot_id`.
        uptime: of the board, seconds.
    """
    there = _parsed(text)
    since, expires = _seconds(there.get("since")), _seconds(there.get("expires"))
    if there.get("boot") != boot or since is None or expires is None or uptime >= expires:
        return None
    return replace(_holder({"by": there, "now": uptime}), left_s=expires - uptime)


def _command(do: str, path: str, who: Mapping[str, str], wait: float) -> list[str]:
    source = _HOLDER.read_text(encoding="utf-8")
    return ["python3", "-I", "-c", source, do, path, json.dumps(who), str(wait), str(LASTS_S)]


def _ourselves(purpose: str, token: str) -> dict[str, str]:
    owner = f"{getpass.getuser()}@{socket.gethostname()}"
    return {"owner": owner, "purpose": purpose, "token": token or new_token()}


def _await(name: str, running: Running, wait: float) -> None:
    """Return when the lease is held."""
    deadline = Deadline(wait + ANSWER_S)
    lines: list[str] = []
    while not deadline.expired:
        ended = running.poll(min(1.0, deadline.remaining), lines.append)
        while lines:
            answer = _parsed(lines.pop(0))
            if answer.get("state") == "held":
                return
            if answer.get("state") == "waiting":
                events.note(f"'{name}' is in use by {_holder(answer)}: waiting for it")
            if answer.get("state") == "busy":
                raise BoardError(
                    f"'{name}' is in use by {_holder(answer)}",
                    f"wait with --wait 10m, or take it away: edgecompress boards release {name}",
                )
        if ended:
            done = running.wait()
            if done.returncode == _NO_PROGRAM:
                raise BoardError(f"'{name}' has no Python 3", PYTHON_HINT)
            done.check(*_refused(name))
            break
    raise BoardError(f"'{name}' does not say who measures on it", f"edgecompress doctor -b {name}")


def _gone(name: str, by: str) -> BoardError:
    """The error for a lease that is ours no more."""
    since = "what was measured since then may be disturbed"
    if by == _NOBODY:
        return BoardError(f"the lease on '{name}' is gone", f"give the same command again: {since}")
    return LeaseTakenError(
        f"the lease on '{name}' was taken away by {by}", f"{since}: measure again"
    )


def _refused(name: str) -> tuple[str, str]:
    return (
        f"cannot take the lease on '{name}'",
        "look at that file on the board, and remove it: it is only ever a lease",
    )


def _parsed(text: str) -> dict[str, Any]:
    """A JSON object; empty where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


_NOBODY = "somebody"


def _holder(answer: Mapping[str, Any]) -> Holder:
    """The holder that an answer tells of, whatever stands there."""
    by = answer.get("by")
    by = by if isinstance(by, dict) else {}
    now, since = _seconds(answer.get("now")), _seconds(by.get("since"))
    spent = 0.0 if now is None or since is None else max(0.0, now - since)
    return Holder(_word(by.get("owner")) or _NOBODY, _word(by.get("purpose")) or "measuring", spent)


def _word(value: object) -> str:
    """A short printable text of one who may be anybody."""
    return re.sub(r"[^\w@. -]", "", str(value))[:60].strip() if isinstance(value, str) else ""


def _seconds(value: object) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12
    return float(value) if good else None  # pyright: ignore[reportArgumentType]
