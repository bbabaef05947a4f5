"""One board answers photos: while it works on a list, the next one is on its way.

On the board a run has a folder named by its key, and each start of the runner one of its own below
that; the next start takes over what an earlier one left. Lists, and photos that do not stay, are
removed as soon as their answers are on the host's disk.
"""

from __future__ import annotations

import json
import re
import secrets
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from edgecompress.errors import BoardError

from ..rpc.packages import environment
from ..rpc.process import Running
from ..rpc.session import Session
from ..runner.feed import DAMAGED, END, answers_name, list_name
from ..runner.photo import MAX_PIXELS
from ..runner.records import Record
from ..runner.spec import Cascade
from .answers import whole_records
from .board_photos import COMMAND_S, Shelf, no_room
from .deploy import runner_error
from .records import MANY
from .spread import Work

PHOTO_S = 120.0
"""An upper bound for one photo, under emulation."""

RUN_S = 7 * 24 * 3600.0
"""The longest that one start of the runner lives."""

WINDOW = 2
"""Lists that a board has: one that it answers, and one that waits for it."""

# A list takes about so long: long beside what sending it costs, short enough to be lost.
_LIST_S = 15.0
_FEWEST, _MOST = 8, 256
_LIST_BYTES = 16_000_000
_POLL_S = 0.2
_ANSWERS = re.compile(r"(?:\./)?([0-9a-f]{8}/[0-9]{6}\.jsonl)")
_MOST_LEFT = 10_000


@dataclass
class Told:
    """What the starts of the runner on one board said of themselves.

    Attributes:
        starts: of the runner.
        peak_rss_mib: the most memory that one of them held.
    """

    starts: int = 0
    peak_rss_mib: float = 0.0


@dataclass
class _List:
    """Photos that the board has been given together; `seen` it says that it has answered."""

    number: int
    photos: list[str]
    seen: set[str] = field(default_factory=set)


def serve(
    session: Session,
    work: Work,
    *,
    name: str,
    command: Sequence[str],
    cascade: Cascade,
    told: Told,
) -> None:
    """Answer photos of `work` on a board until it is finished.

    Args:
        name: the board's, as `work` calls it.
        command: the runner's command line but for the folder of the lists.
        cascade: what the answers are of.
        told: is kept up to date.

    Raises:
        BoardError: the board was lost, is full, or its runner ended; what it had answered by then
            is known, or will be found by the next `serve`.
        CompileError: a network fails on the board.
    """
    base = f"runs/{work.key[:24]}"
    for records in _left(session, base, cascade):
        work.add(name, records)
    session.remove(base)
    shelf = Shelf(session, work.sizes)
    folder = f"{base}/{secrets.token_hex(4)}"
    session.run(["mkdir", "-p", folder], timeout=COMMAND_S).check(
        f"cannot make a folder on '{session.name}'", "free some space on the board"
    )
    told.starts += 1
    argv = [*command, "--feed", folder]
    with session.start(argv, timeout=RUN_S, env=environment(session)) as running:
        board = _Board(session, name, shelf, folder, cascade)
        _Feeding(board, work, running, told).go()
    session.remove(base)


@dataclass(frozen=True)
class _Board:
    """Where a start of the runner takes place: `folder` is its own, below the working folder."""

    session: Session
    name: str
    shelf: Shelf
    folder: str
    cascade: Cascade


class _Feeding:
    """One start of the runner, from its first list to its last."""

    def __init__(self, board: _Board, work: Work, running: Running, told: Told) -> None:
        self.session, self.name, self.folder = board.session, board.name, board.folder
        self.shelf, self.cascade = board.shelf, board.cascade
        self.work, self.running, self.told = work, running, told
        self.flying: deque[_List] = deque()
        self.answered: set[int] = set()
        self.number = 0
        self.pace: float | None = None
        self.heard = self.landed = time.monotonic()
        self.loaded = False

    def go(self) -> None:
        """See `serve`."""
        while not self.work.finished:
            while len(self.flying) < WINDOW and self._give():
                pass
            if self.running.poll(_POLL_S if self.flying else 0.01, self._hear):
                raise self._ended()
            while self.flying and self.flying[0].number in self.answered:
                self._land(self.flying.popleft())
            self._silence()
            if not self.flying:
                self.work.wait(_POLL_S)
        self.session.write(f"{self.folder}/{END}", b"")

    def _give(self) -> bool:
        """Send the next photos and their list; whether there were any."""
        photos = self.work.take(self.name, self._count(), self.shelf.room(), _LIST_BYTES)
        if photos is None:
            return False
        if not photos:
            smallest = self.work.smallest()
            if self.flying or not smallest:
                return False  # their photos make room when they are answered; others have the last
            raise no_room(self.session, smallest, self.shelf.free or 0)
        passing = f"{self.folder}/{self.number:06}"
        places = self.shelf.send([(one, self.work.file(one)) for one in photos], passing)
        # Absolute: a list names its photos relative to its own folder.
        lines = [f"{one}\t{self.session.workdir}/{places[one]}\n" for one in photos]
        self.session.write(f"{self.folder}/{list_name(self.number)}", "".join(lines).encode())
        self.flying.append(_List(self.number, photos))
        # Nothing was listened to meanwhile, which on a slow link is long.
        self.heard = time.monotonic()
        self.number += 1
        return True

    def _count(self) -> int:
        if self.pace is None:
            return _FEWEST
        return max(_FEWEST, min(_MOST, round(_LIST_S / max(self.pace, 1e-4))))

    def _hear(self, line: str) -> None:
        self.heard = time.monotonic()
        event = parsed(line)
        kind = event.get("event")
        if kind == "loaded":
            self.loaded, self.landed = True, self.heard
            self.work.begun.add(self.name)
        elif kind == "photo" and self.flying:
            photo = str(event.get("photo"))
            current = next((one for one in self.flying if photo in one.photos), None)
            if current:
                current.seen.add(photo)
                self.work.saw(self.name, photo)
        elif kind == "list" and isinstance(event.get("list"), int):
            self.answered.add(event["list"])
            peak = event.get("peak_rss_mib")
            if within(peak, MANY):
                self.told.peak_rss_mib = max(self.told.peak_rss_mib, float(peak))

    def _land(self, done: _List) -> None:
        """Fetch the answers of a list, then remove it from the board."""
        now = time.monotonic()
        self.pace, self.landed = (now - self.landed) / len(done.photos), now
        answers = f"{self.folder}/{answers_name(done.number)}"
        wanted, damaged, sound = set(done.photos), [], []
        for record in _fetch(self.session, answers, self.cascade):
            if record.error_kind == DAMAGED:
                damaged.append(record)
            elif record.photo in wanted:
                sound.append(record)
        self.work.add(self.name, sound)
        self.shelf.forget(record.photo for record in damaged)
        missing = wanted - {record.photo for record in sound}
        for record in damaged:
            self.work.trouble(self.name, record.photo, str(record.error), DAMAGED)
        unanswered = missing - {record.photo for record in damaged}
        if unanswered:
            raise BoardError(
                f"'{self.session.name}' gave no sound answer to {len(unanswered)} photos"
                " that it had",
                f"check the board: edgecompress doctor --board {self.session.name}",
            )
        own = [f"{self.folder}/{done.number:06}", f"{self.folder}/{list_name(done.number)}"]
        self.session.run(["rm", "-rf", "--", *own, answers], timeout=COMMAND_S)

    def _silence(self) -> None:
        """Refuse to wait for a board from which nothing comes."""
        limit = PHOTO_S if self.loaded else COMMAND_S
        silent = time.monotonic() - self.heard
        if not self.flying and self.loaded:
            self.heard = time.monotonic()
        elif silent > limit:
            raise BoardError(
                f"'{self.session.name}' has said nothing for {silent:.0f} s",
                f"check the board: edgecompress doctor --board {self.session.name}",
            )

    def _ended(self) -> Exception:
        """The error for a runner that has ended before its time."""
        done = self.running.wait()
        error = runner_error(self.session, done)
        if self.loaded and self.flying and done.returncode > 128:
            # Whatever it was: a photo over which runners end again and again is given up.
            first = next((o for o in self.flying[0].photos if o not in self.flying[0].seen), None)
            if first is not None:
                why = f"the runner ended with status {done.returncode} at this photo"
                self.work.trouble(self.name, first, why, "crash")
        return error


def _left(session: Session, base: str, cascade: Cascade) -> Iterator[list[Record]]:
    """The answers that earlier starts of the runner left on a board, of one list at a time."""
    script = 'cd "$1" 2>/dev/null && find . -type f -name "*.jsonl"'
    found = session.run(["sh", "-c", script, "sh", base], timeout=COMMAND_S).stdout.split("\n")
    for match in filter(None, map(_ANSWERS.fullmatch, sorted(found)[:_MOST_LEFT])):
        records = _fetch(session, f"{base}/{match[1]}", cascade)
        yield [record for record in records if record.error_kind != DAMAGED]


def _fetch(session: Session, remote: str, cascade: Cascade) -> Iterator[Record]:
    """The records of a file of a board, up to the first that is torn or damaged.

    Raises:
        BoardError: it was lost.
    """
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(temporary) / "answers.jsonl"
        session.download(remote, local)
        for record in whole_records(local):
            if not fits(record, cascade):
                return
            yield record


def fits(record: Record, cascade: Cascade) -> bool:
    """Whether a record is one that a cascade can give."""
    outcome = record.outcome
    if outcome is None:
        return True
    classes, stages = len(cascade.labels), len(cascade.stages)
    sizes = len(cascade.predictor.sizes) if cascade.predictor else 0
    left, top, right, bottom = outcome.box
    return (
        outcome.logits.shape == (classes,)
        and bool(np.isfinite(outcome.logits).all())
        and (outcome.predicted is None or bool(np.isfinite(outcome.predicted).all()))
        and 0 <= outcome.stage < len(outcome.stage_top1) <= stages
        and len(outcome.stage_top1) == len(outcome.confidences)
        and bool(outcome.top5)
        and all(0 <= index < classes for index, _ in outcome.top5)
        and all(0 <= index < classes for index in outcome.stage_top1)
        and all(within(share, 1) for _, share in outcome.top5)
        and all(within(share, 1) for share in outcome.confidences)
        and all(within(edge, MAX_PIXELS) for edge in outcome.box)
        and left < right
        and top < bottom
        and outcome.size in (range(sizes) or (None,))
        and all(within(ms, MANY) for ms in outcome.timings_ms.values())
    )


def within(value: Any, most: float) -> TypeGuard[float]:
    """Whether a value that a board gave is a number from 0 to `most`; NaN is none."""
    return isinstance(value, (int, float)) and 0 <= value <= most


def parsed(line: str) -> dict[str, Any]:
    """A line of a runner as an event; an empty one where it is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
