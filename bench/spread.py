"""Photos shared out to boards that come and go: each photo gets exactly one record.

A board takes a few photos when it is free. What it took and did not answer goes back when it fails,
and is given to whoever asks next.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from heapq import heappop, heappush
from pathlib import Path

from edgecompress import events
from edgecompress.errors import BoardError

from ..rpc.deadline import Deadline
from ..rpc.lease import LeaseTakenError
from ..rpc.session import Session
from ..runner.records import Record
from .answers import Journal
from .board_photos import size_of

Opener = Callable[[], AbstractContextManager[Session]]

PATIENCE_S = 180.0
"""So long a board that was lost is tried again without being reached: it may be starting up."""

MOST_TRIES = 4
"""So often a board is tried that is there, and gives no new answer."""

MOST_SENT = 3
"""So often a photo is sent to boards that lose it, or that end over it."""

_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)
_RATE_S = 60.0


class Work:
    """The photos of a run, and who does them. Boards call it from threads of their own.

    Args:
        key: of the run; names its folder on boards.
        photos: id to file, in order; None where there is no file.
        journal: what is known.
        boards: names of the boards.
        task: whose bar shows how far it is.

    Attributes:
        sizes: bytes of each photo that boards classify, by id.
        resumed: photos that were known from the beginning.
        answered: photos that each board has answered.
        begun: boards that have been seen working.
    """

    def __init__(
        self,
        key: str,
        photos: Mapping[str, Path | None],
        journal: Journal,
        boards: Sequence[str],
        task: events.Task,
    ) -> None:
        self.key = key
        self.sizes = {photo: size_of(path) for photo, path in photos.items() if path}
        self.resumed = len(journal)
        self.answered: Counter[str] = Counter(dict.fromkeys(boards, 0))
        self.begun: set[str] = set()
        self._photos = photos
        self._journal = journal
        self._queue = deque(photo for photo in self.sizes if photo not in journal)
        # Those that were larger than the room of a board, by size: each is looked at once, however
        # often a board asks.
        self._large: list[tuple[int, str]] = []
        self._boards = set(boards)
        self._taken: dict[str, set[str]] = {name: set() for name in boards}
        self._seen: dict[str, set[str]] = {name: set() for name in boards}
        self._trouble: Counter[str] = Counter()
        self._moved = threading.Condition()
        self._stopped = False
        self._task = task
        self._pace: deque[tuple[float, int]] = deque()

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to do, or no use in doing it."""
        return self._stopped or len(self._journal) == len(self._photos)

    def file(self, photo: str) -> Path:
        """The photo's file here."""
        path = self._photos[photo]
        assert path is not None
        return path

    def take(
        self, board: str, count: int, room: int | None, most: float = math.inf
    ) -> list[str] | None:
        """Up to `count` photos of up to `room` bytes together, which are `board`'s now.

        None where there is none to take; none of them where each is larger than the room. Those
        that are wait until a board has room for them.
        Towards the end a board takes a part only of what is left, so that all end together.

        Args:
            most: bytes that they should have together; a single photo may have more.
        """
        with self._moved:
            if self._stopped:
                return None
            if len(self._boards) > 1:
                waiting = len(self._queue) + len(self._large)
                count = min(count, math.ceil(waiting / (2 * len(self._boards))))
            space = math.inf if room is None else room
            taken: list[str] = []
            left = min(space, most)
            while len(taken) < count and (photo := self._next(space)) is not None:
                if taken and self.sizes[photo] > left:
                    self._queue.appendleft(photo)
                    break
                left -= self.sizes[photo]
                taken.append(photo)
            self._taken[board].update(taken)
            return taken if taken or self._large else None

    def _next(self, room: float) -> str | None:
        """The next photo of up to `room` bytes, out of the queue; larger ones are put aside."""
        while True:
            if self._large and (self._large[0][0] <= room or self._large[0][1] in self._journal):
                photo = heappop(self._large)[1]
            elif self._queue:
                photo = self._queue.popleft()
            else:
                return None
            if photo in self._journal:
                continue
            if self.sizes[photo] <= room:
                return photo
            heappush(self._large, (self.sizes[photo], photo))

    def smallest(self) -> int:
        """Bytes of the smallest photo that nobody has taken."""
        with self._moved:
            waiting = (*self._queue, *(photo for _, photo in self._large))
            return min((self.sizes[one] for one in waiting if one not in self._journal), default=0)

    def give_back(self, board: str) -> None:
        """What `board` has taken and not answered is for anyone again."""
        with self._moved:
            lost = self._taken[board]
            self._queue.extendleft(p for p in reversed(self.sizes) if p in lost)
            self._taken[board], self._seen[board] = set(), set()
            self._moved.notify_all()

    def saw(self, board: str, photo: str) -> None:
        """`board` says that it has answered a photo; its record comes later."""
        with self._moved:
            if photo in self._taken[board]:
                self._seen[board].add(photo)
                self._tell()

    def add(self, board: str, records: Iterable[Record]) -> None:
        """Records from `board`; what is none of this run's, or known, is left out."""
        with self._moved:
            self._add(board, board, records)

    def _add(self, board: str, by: str, records: Iterable[Record]) -> None:
        added: set[str] = set()

        def ours() -> Iterable[Record]:
            for record in records:
                if record.photo in self.sizes:
                    added.add(record.photo)
                    yield record

        new = self._journal.add(ours(), by)
        self.answered[board] += new if by else 0
        self._taken[board] -= added
        self._seen[board] -= added
        self._tell()
        self._moved.notify_all()

    def trouble(self, board: str, photo: str, why: str, kind: str) -> None:
        """`board` lost a photo, or ended over it; too often, and that is its record."""
        with self._moved:
            self._trouble[photo] += 1
            if self._trouble[photo] >= MOST_SENT:
                self._add(board, "", [Record(photo, None, why, kind)])
            elif photo in self._taken[board]:
                self._taken[board].discard(photo)
                self._queue.appendleft(photo)
                self._moved.notify_all()

    def leave(self, board: str) -> bool:
        """`board` is out; returns whether another one is left."""
        self.give_back(board)
        with self._moved:
            self._boards.discard(board)
            return bool(self._boards)

    def stop(self) -> None:
        """Have all boards end soon."""
        with self._moved:
            self._stopped = True
            self._moved.notify_all()

    def wait(self, seconds: float) -> None:
        """Until something has moved, `seconds` at most."""
        with self._moved:
            if not self.finished:
                self._moved.wait(seconds)

    def _tell(self) -> None:
        done = len(self._journal) + sum(map(len, self._seen.values()))
        now = time.monotonic()
        self._pace.append((now, done))  # from the first photo on: getting ready is no pace
        while now - self._pace[0][0] > _RATE_S and len(self._pace) > 2:
            self._pace.popleft()
        (since, before), total = self._pace[0], len(self._photos)
        rate = (done - before) / max(now - since, 1e-3)
        parts = [f"{rate:.3g} photos/s"] if rate > 0 else []
        parts += [f"{_clock((total - done) / rate)} left"] if rate > 0 and done < total else []
        parts += [f"{self._journal.failed} failed"] if self._journal.failed else []
        parts += [f"{self.resumed} photos done before"] if self.resumed else []
        if len(self.answered) > 1:
            each = {name: n + len(self._seen[name]) for name, n in self.answered.items()}
            parts.append(", ".join(f"{name} {n}" for name, n in each.items()))
        self._task.update(done, "; ".join(parts))


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:03", "2:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def spread(
    work: Work, boards: Mapping[str, Opener], serve: Callable[[str, Session], None], patience: float
) -> None:
    """Have boards do the work, each in a thread, until it is finished.

    A board that is lost is tried again; one that stays away is left out with a warning, as long as
    another one is left.

    Args:
        serve: answers photos on a board, by its name, until the work is finished.
        patience: seconds after which a lost board is given up.

    Raises:
        EdgeCompressError: what the last board ended with, or what no other board would do better.
    """
    failures: list[BaseException] = []

    def tend(name: str) -> None:
        try:
            keep_trying(
                name,
                boards[name],
                lambda session: serve(name, session),
                patience,
                finished=lambda: work.finished,
                answered=lambda: work.answered[name],
                begun=lambda: name in work.begun,
                failed=lambda: work.give_back(name),
                pause=work.wait,
            )
        except BaseException as error:
            others = work.leave(name)
            if isinstance(error, BoardError) and others and not work.finished:
                events.warn(
                    f"{error.message}; '{name}' is put aside, the other boards do its photos"
                )
                return
            if isinstance(error, BoardError) and work.finished:
                return
            failures.append(error)
            work.stop()

    threads = [threading.Thread(target=tend, args=(name,), daemon=True) for name in boards]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    except BaseException:
        work.stop()
        for thread in threads:
            thread.join(5)
        raise
    if failures:
        raise failures[0]


def keep_trying(
    name: str,
    opener: Opener,
    attempt: Callable[[Session], None],
    patience: float,
    *,
    begun: Callable[[], bool],
    finished: Callable[[], bool] = lambda: False,
    answered: Callable[[], int] = lambda: 0,
    failed: Callable[[], None] = lambda: None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Have one board work, again after each failure, with longer and longer pauses.

    A board that has begun is given `patience` seconds to be reached again, from its loss on; where
    it is there and fails nevertheless, `MOST_TRIES` without a new answer.

    Args:
        attempt: the work, over an open session.
        begun: whether the board has been seen working; until then a failure is final.
        finished: whether the work is no more to be done.
        answered: how much the board has done.
        failed: is called after each failure.
        pause: waits so many seconds, or less where something has moved.

    Raises:
        EdgeCompressError: the last failure.
    """
    done, failures, tries = answered(), 0, 0
    deadline: Deadline | None = None
    while not finished():
        there = False
        try:
            with opener() as session:
                there = True
                attempt(session)
            return
        except LeaseTakenError:
            failed()
            raise  # somebody wants the board: trying again would disturb them
        except BoardError as error:
            failed()
            if answered() > done:
                done, failures, tries = answered(), 0, 0
            if there or deadline is None:
                deadline = Deadline(patience)
            tries += there
            if finished():
                return
            if not begun() or tries >= MOST_TRIES or deadline.expired:
                raise
            seconds = _PAUSES_S[min(failures, len(_PAUSES_S) - 1)]
            failures += 1
            events.warn(f"{error.message}; trying '{name}' again in {seconds:g} s")
            resting = Deadline(seconds)
            while not resting.expired and not finished():
                pause(resting.remaining)


def unreadable(photos: Mapping[str, Path | None]) -> Iterable[Record]:
    """The records of photos that are not there, which no board has to be asked about."""
    for photo, path in photos.items():
        if path is None:
            yield Record(photo, None, f"cannot read {photo}", "input")
