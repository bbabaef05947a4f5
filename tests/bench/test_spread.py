"""Photos over boards that fail: each has exactly one record, whoever was killed and when.

The boards are folders of this machine, each with real runners; the last one is emulated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgecompress import events
from edgecompress.bench import board_feed, board_photos, board_run, spread
from edgecompress.bench.answers import Journal, RecordFile
from edgecompress.bench.board_feed import fits, within
from edgecompress.bench.board_photos import identify
from edgecompress.bench.board_run import BoardRun, run_on_boards
from edgecompress.bench.deploy import manifest_sha256, read_manifest
from edgecompress.bench.records import MANY
from edgecompress.bench.spread import Work, unreadable
from edgecompress.cli.job import BenchTable, LatencyTable
from edgecompress.compress.data.photos import PhotoSet
from edgecompress.errors import BoardError
from edgecompress.files import sha256_json
from edgecompress.rpc import virtual
from edgecompress.rpc.deadline import Deadline
from edgecompress.rpc.lease import VARIABLE, LeaseTakenError, lease
from edgecompress.rpc.local import LocalSession
from edgecompress.rpc.ssh import SshSession
from edgecompress.runner.cascade import Outcome
from edgecompress.runner.records import Record
from edgecompress.targets import load_board

LATENCY = LatencyTable(photos=1, runs=1, seconds=0, retries=0, cool_seconds=0)
OPTIONS = BenchTable(threads=1, warmup=0, latency=LATENCY)


class Shelf:
    """Boards of this machine by name, each with a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gone: set[str] = set()

    def open(self, name: str) -> LocalSession:
        """Reach a board, unless it is gone."""
        if name in self.gone:
            raise BoardError(f"'{name}' cannot be reached")
        session = LocalSession(load_board("host"), self.root / name)
        session.name = name
        return session

    def boards(self, *names: str) -> dict[str, Any]:
        """What `run_on_boards` takes."""
        return {name: partial(self.open, name) for name in names}

    def take_away(self, name: str) -> None:
        """A board loses its power for good."""
        self.gone.add(name)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if str(self.root / name) in (process.cwd(), *process.cmdline()):
                    process.kill()


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Boards with nothing on them, which are not waited for."""
    monkeypatch.setattr(spread, "_PAUSES_S", (0.05,))
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path / "cache"))
    return Shelf(tmp_path)


@pytest.fixture
def photos(many_photos: tuple[Path, ...], tmp_path: Path) -> PhotoSet:
    """Photos, repeats, corrupt ones and missing ones, mixed."""
    corrupt = tmp_path / "corrupt.jpg"
    corrupt.write_bytes(many_photos[0].read_bytes()[:300])
    paths = [*many_photos[:300], *many_photos[:20], corrupt, tmp_path / "missing.jpg"]
    random.Random(3).shuffle(paths)
    return PhotoSet("mixed", tuple(paths), (0,) * len(paths), ("a", "b"))


def require_each_once(run: BoardRun, photos: PhotoSet, out: Path) -> None:
    """Each photo has one record, in the order of the list."""
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [line["photo"] for line in lines] == list(identify(photos.paths))
    assert {line.get("error_kind") for line in lines} == {None, "input"}
    assert sum("error" in line for line in lines) == 2
    told = run.measurements
    assert (told["photos"], told["photos_failed"], told["photos_repeated"]) == (300, 2, 20)
    assert sum(one["photos"] for one in told["boards"]) == 301, "nobody is asked for a missing one"


@contextlib.contextmanager
def at(done: int, act: Any, warnings: list[str] | None = None) -> Iterator[list[str]]:
    """Do something once so many photos are done; gives the warnings."""
    waiting, warnings = [act], [] if warnings is None else warnings

    def hear(event: events.Event) -> None:
        if event.kind == "warning":
            warnings.append(event.text)
        if event.task.startswith("classifying") and event.done >= done and waiting:
            waiting.pop()()

    with events.listening(hear):
        yield warnings


def test_a_board_that_fails_for_good(
    tiny: Any, photos: PhotoSet, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    warnings: list[str] = []
    take = Work.take

    def unhurried(work: Work, board: str, *rest: Any) -> list[str] | None:
        """The other board leaves photos to do until this one is given up."""
        given_up = Deadline(30)
        while shelf.gone and board == "a" and not given_up.expired:
            if any("is put aside" in text for text in warnings):
                break
            time.sleep(0.01)
        return take(work, board, *rest)

    monkeypatch.setattr(Work, "take", unhurried)
    with at(100, lambda: shelf.take_away("b"), warnings):
        run = run_on_boards(shelf.boards("a", "b"), tiny.bundle, photos, out, OPTIONS, patience=1.0)
    require_each_once(run, photos, out)
    shares = {one["name"]: one["photos"] for one in run.measurements["boards"]}
    assert list(shares) == ["a", "b"] and min(shares.values()) > 0
    assert warnings[-1].endswith("'b' is put aside, the other boards do its photos")
    assert not list((shelf.root / "a/runs").iterdir())


def test_the_first_board_fails_for_good(
    tiny: Any, photos: PhotoSet, shelf: Shelf, tmp_path: Path
) -> None:
    """The others finish the photos; only latency is left for when it is back."""
    out, both = tmp_path / "out", shelf.boards("a", "b")
    with (
        at(100, lambda: shelf.take_away("a")),
        pytest.raises(BoardError, match="'a' cannot be reached"),
    ):
        run_on_boards(both, tiny.bundle, photos, out, OPTIONS, patience=1.0)
    shelf.gone.clear()
    begun: list[float] = []
    with events.listening(lambda e: begun.append(e.done) if e.kind == "begin" else None):
        run = run_on_boards(both, tiny.bundle, photos, out, OPTIONS)
    assert max(begun) == run.measurements["photos_resumed"] == 302
    require_each_once(run, photos, out)


def test_photos_pass_through_a_board_that_keeps_none(
    tiny: Any, photos: PhotoSet, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_photos, "KEEP_BYTES", 1000)
    monkeypatch.setattr(board_feed, "_MOST", 20)
    most = 0

    def count(event: events.Event) -> None:
        nonlocal most
        if event.task.startswith("classifying"):
            most = max(most, sum(1 for _ in (shelf.root / "a").glob("runs/*/*/*/*")))

    out = tmp_path / "out"
    with events.listening(count):
        run = run_on_boards(shelf.boards("a"), tiny.bundle, photos, out, OPTIONS)
    require_each_once(run, photos, out)
    assert 20 < most <= 40, "two lists at most"
    assert not [path for name in ("photos", "runs") for path in (shelf.root / "a" / name).iterdir()]


@contextlib.contextmanager
def little_disk(folder: Path, size: int) -> Iterator[Path]:
    """A folder on a disk of so many bytes."""
    if os.geteuid() != 0:
        pytest.skip("a disk of its own needs root")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        # What a board has just killed may take a moment to end.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def large_photos(folder: Path, sizes: Sequence[int]) -> PhotoSet:
    """Little pictures in files of so many bytes and a few more, in that order."""
    folder.mkdir()
    for number, size in enumerate(sizes):
        path = folder / f"{number:02}.jpg"
        Image.new("RGB", (40, 40), (number, 9, 9)).save(path)
        with path.open("ab") as stream:
            stream.write(os.urandom(size))  # behind the picture
    paths = tuple(sorted(folder.iterdir()))
    return PhotoSet("large", paths, (0,) * len(paths), ("a",))


def test_a_little_disk(tiny: Any, shelf: Shelf, tmp_path: Path) -> None:
    """60 MB of photos through a disk on which about 10 MB are left."""
    photos = large_photos(tmp_path / "large", [2_000_000] * 30)
    with little_disk(shelf.root / "a", 44 << 20):
        run = run_on_boards(shelf.boards("a"), tiny.bundle, photos, tmp_path / "out", OPTIONS)
    assert run.measurements["photos"] == 30
    assert run.measurements["boards"][0]["starts"] == 1, "it was never full"


def test_a_bundle_that_lies_there_needs_no_room_again(
    tiny: Any, shelf: Shelf, tmp_path: Path
) -> None:
    """A disk that took a run takes the next one, though photos that stay have made it fuller."""
    photos = large_photos(tmp_path / "large", [2_000_000] * 4)
    need = 2 * tiny.bundle.stat().st_size + board_run._RECORDS_BYTES
    with little_disk(shelf.root / "a", 40_000_000) as folder:
        for out in (tmp_path / "1", tmp_path / "2"):
            run = run_on_boards(shelf.boards("a"), tiny.bundle, photos, out, OPTIONS)
            assert run.measurements["photos"] == 4
            assert shutil.disk_usage(folder).free < need


@pytest.mark.parametrize("damaged", [False, True])
def test_a_disk_that_is_too_small_for_the_bundle(
    tiny: Any, photos: PhotoSet, shelf: Shelf, tmp_path: Path, damaged: bool
) -> None:
    """Nothing is sent there; of one that is damaged there, only the runner that says so."""
    size = tiny.bundle.stat().st_size
    need = f"{(2 * size + board_run._RECORDS_BYTES) / 1e6:.1f} MB needed"
    with little_disk(shelf.root / "a", 2 * size) as folder:
        if damaged:
            (folder / "bundles" / manifest_sha256(tiny.bundle)).mkdir(parents=True)
        with pytest.raises(BoardError, match="is full") as refused:
            run_on_boards(shelf.boards("a"), tiny.bundle, photos, tmp_path / "out", OPTIONS)
        assert need in refused.value.message
        assert f"rm -r {folder}/bundles" in refused.value.hint
        sent = [path.parent.name for path in folder.rglob("*") if path.is_file()]
        assert sent == (["runner"] if damaged else [])


def test_a_photo_that_is_too_large_for_the_disk(tiny: Any, shelf: Shelf, tmp_path: Path) -> None:
    """It stands in front, and holds up no other; what is missing is what it needs."""
    photos = large_photos(tmp_path / "large", [18_000_000, *[50_000] * 40, 19_000_000])
    out = tmp_path / "out"
    with (
        little_disk(shelf.root / "a", 45_000_000),
        pytest.raises(BoardError, match=r"44\.0 MB needed for a photo of 18\.0 MB, .* free"),
    ):
        run_on_boards(shelf.boards("a"), tiny.bundle, photos, out, OPTIONS)
    assert len((out / "answers.jsonl").read_text().splitlines()) == 40
    with little_disk(shelf.root / "b", 90_000_000):
        run = run_on_boards(shelf.boards("b"), tiny.bundle, photos, out, OPTIONS)
    assert (run.measurements["photos"], run.measurements["photos_resumed"]) == (42, 40)
    assert list(run.records) == list(identify(photos.paths))


def sized(tmp_path: Path, sizes: Sequence[int]) -> Work:
    """Work on photos of such sizes, which are called by their numbers."""
    files = {size: tmp_path / f"{size} bytes" for size in sizes}
    for size, path in files.items():
        path.write_bytes(bytes(size))
    photos = {str(number): files[size] for number, size in enumerate(sizes)}
    task = events.Task("classifying", len(sizes))
    return Work("key", photos, Journal(tmp_path / "out", "key"), "ab", task)


def test_photos_that_are_too_large_are_passed_over(tmp_path: Path) -> None:
    work = sized(tmp_path, [9, 2, 3, 8, 4, 1, 7, 2])
    work.leave("b")
    assert work.take("a", 2, 5) == ["1", "2"]
    assert work.take("a", 9, 5) == ["4", "5"], "the last one would be too much"
    assert work.take("a", 9, 8, 7) == ["6"], "those that waited come first, the smallest in front"
    assert work.take("a", 9, 8, 7) == ["3"], "a photo of its own may be larger than a list"
    work.give_back("a")
    work.add("a", [answer("1"), answer("2"), answer("4"), answer("5")])
    assert work.take("a", 9, 5) == ["7"]
    assert (work.take("a", 9, 5), work.smallest()) == ([], 7)
    work.add("a", [answer("6")])
    assert (work.take("a", 9, 5), work.smallest()) == ([], 8)
    assert work.take("a", 9, None) == ["3", "0"]
    assert work.take("a", 9, None) is None


def test_many_photos_that_are_too_large_are_looked_at_once(tmp_path: Path) -> None:
    """A board that has no room for them asks thousands of times."""
    work = sized(tmp_path, [9] * 50_000 + [1] * 50_000)
    work.leave("b")
    looks = 0

    class Counting(dict[str, int]):
        def __getitem__(self, photo: str) -> int:
            nonlocal looks
            looks += 1
            return super().__getitem__(photo)

    work.sizes = Counting(work.sizes)
    taken: list[str] = []
    while more := work.take("a", 8, 8):
        taken += more
    assert taken == [str(number) for number in range(50_000, 100_000)]
    assert looks < 500_000


PROGRAM = """
import json, sys
from functools import partial
from pathlib import Path
from edgecompress import events
from edgecompress.bench.board_run import run_on_boards
from edgecompress.cli.job import BenchTable
from edgecompress.compress.data.photos import PhotoSet
from edgecompress.rpc.deadline import Deadline
from edgecompress.rpc.local import LocalSession
from edgecompress.targets import load_board

board, bundle, out, options, *paths = sys.argv[1:]
events._listeners.append(lambda event: print(event.task, event.done, flush=True))
photos = PhotoSet("mixed", tuple(map(Path, paths)), (0,) * len(paths), ("a", "b"))
opener = partial(LocalSession, load_board("host"), Path(board))
run_on_boards({"a": opener}, Path(bundle), photos, Path(out), BenchTable(**json.loads(options)))
"""


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1), who=st.sampled_from(["host", "all"]))
def test_a_host_that_is_killed_anywhere(
    tiny: Any, photos: PhotoSet, shelf: Shelf, share: float, who: str
) -> None:
    """The process alone, as a crash does it, or with all that it started, as a power cut does."""
    root = shelf.root / f"{share}-{who}"
    out, options = root / "out", json.dumps(OPTIONS.model_dump())
    argv = [sys.executable, "-c", PROGRAM, root / "a", tiny.bundle, out, options, *photos.paths]
    with subprocess.Popen(
        [str(word) for word in argv], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            *task, done = line.split()
            if task[:1] == ["classifying"] and float(done) >= share * 290:
                break
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        for process in family if who == "all" else family[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
    opener = partial(LocalSession, load_board("host"), root / "a")
    run = run_on_boards({"a": opener}, tiny.bundle, photos, out, OPTIONS)
    require_each_once(run, photos, out)
    assert not list((root / "a/runs").iterdir())


def answer(photo: str, target: int = 0) -> Record:
    """Any record of a photo."""
    return Record(photo, None, f"said {target}", "input")


MOVES = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.sampled_from(["take", "answer", "fail", "trouble", "again"])
    ),
    max_size=80,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(moves=MOVES, count=st.integers(1, 12))
def test_whatever_boards_do_each_photo_is_answered_once(
    tmp_path: Path, moves: list[tuple[str, str]], count: int
) -> None:
    file = tmp_path / "photo"
    file.write_bytes(b"1234")
    photos: dict[str, Path | None] = {f"photo{number}": file for number in range(count)}
    photos["missing"] = None
    folder = tmp_path / f"{count}-{len(moves)}-{hash(tuple(moves))}"
    journal = Journal(folder, "key")
    journal.add(unreadable(photos))
    work = Work("key", photos, journal, "ab", events.Task("classifying", count))
    held: dict[str, list[str]] = {"a": [], "b": []}
    answered: list[str] = []
    for board, move in moves:
        if move == "take":
            held[board] += work.take(board, 3, 9) or []
        elif move == "fail":
            work.give_back(board)
            held[board] = []
        elif move == "again" and answered:
            work.add(board, [answer(answered[0], 1), answer("of another run")])
        elif held[board]:
            photo = held[board].pop()
            if move == "trouble":
                work.trouble(board, photo, "lost", "transfer")
            else:
                work.add(board, [answer(photo)])
                answered.append(photo)
    for board in "ab":
        work.give_back(board)
    while not work.finished:
        taken = work.take("a", 100, None)
        assert taken
        work.add("a", map(answer, taken))
    journal.write(photos, folder / "all.jsonl")
    records = RecordFile(folder / "all.jsonl")
    assert list(records) == list(photos)
    assert {record.error for record in records.values()} <= {
        "said 0",
        "lost",
        "cannot read missing",
    }
    again = Journal(folder, "key")
    assert (len(again), again.answered) == (len(photos), journal.answered)
    assert len(Journal(folder, "another")) == 0


def test_a_torn_line_is_none(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "key")
    journal.add([answer("one"), answer("two")], "a")
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-5])
    again = Journal(tmp_path, "key")
    assert list(again) == ["one"]
    again.add([answer("two", 5), answer("one", 5)], "b")
    assert {key: record.error for key, record in Journal(tmp_path, "key").items()} == {
        "one": "said 0",
        "two": "said 5",
    }
    assert Journal(tmp_path, "key").answered == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"stage": 2},
        {"stage": -1},
        {"stage_top1": (0,), "stage": 0},
        {"stage_top1": (10, 0)},
        {"top5": ()},
        {"top5": ((10, 0.5),)},
        {"logits": "nan"},
        {"logits": "short"},
        {"confidences": (float("nan"), 0.5)},
        {"confidences": (1.5, 0.5)},
        {"top5": ((1, float("inf")),)},
        {"top5": ((1, -0.1),)},
        {"box": (0.0, 0.0, float("nan"), 9.0)},
        {"box": (0.0, 0.0, 1e300, 9.0)},
        {"box": (9.0, 0.0, 3.0, 9.0)},
        {"predicted": (0.0, 0.0, 1.0, float("inf"))},
        {"size": 99},
        {"size": None},
        {"timings_ms": {"total": float("nan")}},
        {"timings_ms": {"total": -1.0}},
    ],
)
def test_answers_that_make_no_sense(tiny: Any, direct: Any, change: dict[str, Any]) -> None:
    cascade = read_manifest(tiny.bundle).cascade
    record = next(iter(direct.records.values()))
    assert fits(record, cascade) and fits(answer("x"), cascade)
    logits = {"nan": record.outcome.logits * float("nan"), "short": record.outcome.logits[:9]}
    fields = {
        key: logits.get(value, value) if key == "logits" else value for key, value in change.items()
    }
    outcome: Outcome = dataclasses.replace(record.outcome, **fields)
    assert not fits(dataclasses.replace(record, outcome=outcome), cascade)


@pytest.mark.parametrize("value", [10**400, -1, float("nan"), float("inf"), "1", None, [1]])
def test_numbers_that_make_no_sense(value: Any) -> None:
    assert not within(value, MANY) and within(1, MANY) and within(0.0, MANY)


def test_a_damaged_answer_that_was_left_is_asked_again(
    tiny: Any, direct: Any, photo_files: tuple[Path, ...], shelf: Shelf, tmp_path: Path
) -> None:
    """It stood in the way of every later try, as it was found before any photo was sent."""
    photos = PhotoSet("few", photo_files, (0,) * len(photo_files), ("a", "b"))
    settings = [manifest_sha256(tiny.bundle), OPTIONS.threads, OPTIONS.cluster]
    key = sha256_json([*settings, sorted(identify(photos.paths))])
    record = next(iter(direct.records.values())).to_json()
    left = shelf.root / "a/runs" / key[:24] / "0123abcd/000000.jsonl"
    left.parent.mkdir(parents=True)
    left.write_text(json.dumps({**record, "confidences": [float("nan")]}) + "\n")
    run = run_on_boards(shelf.boards("a"), tiny.bundle, photos, tmp_path / "out", OPTIONS)
    assert run.measurements["photos"] == len(photo_files)


def test_a_lease_that_is_gone_is_taken_again(
    tiny: Any,
    photo_files: tuple[Path, ...],
    shelf: Shelf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its file was removed: what is measured from then on might be disturbed."""
    file, warnings = tmp_path / "lease.json", list[str]()
    monkeypatch.setenv(VARIABLE, str(file))
    taken: list[LocalSession] = []

    @contextlib.contextmanager
    def opener() -> Iterator[LocalSession]:
        with shelf.open("a") as session, lease(session, "bench") as held:
            taken.append(session)
            yield session
            held.require()

    def hear(event: events.Event) -> None:
        if event.kind == "warning":
            warnings.append(event.text)
        if event.task.startswith("measuring") and len(taken) == 1:
            file.unlink(missing_ok=True)

    photos = PhotoSet("few", photo_files, (0,) * len(photo_files), ("a", "b"))
    latency = LatencyTable(photos=1, runs=1, seconds=5, retries=0, cool_seconds=0)
    options = BenchTable(threads=1, warmup=0, latency=latency)
    with events.listening(hear):
        run = run_on_boards({"a": opener}, tiny.bundle, photos, tmp_path / "out", options)
    assert any("the lease on 'a' is gone; trying 'a' again" in text for text in warnings)
    assert len(taken) == 2 and run.runs


def test_a_link_that_is_lost_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience begins with the loss, not with the work that it cuts off."""
    monkeypatch.setattr(spread, "_PAUSES_S", (0.01,))
    tries = []

    def attempt(_: Any) -> None:
        tries.append(time.sleep(0.3))
        if len(tries) < 3:
            raise BoardError("lost")

    spread.keep_trying("a", contextlib.nullcontext, attempt, 0.2, begun=lambda: True)  # type: ignore[arg-type]
    assert len(tries) == 3


def test_a_board_that_was_taken_away_is_left_alone() -> None:
    tries = []

    def attempt(_: Any) -> None:
        tries.append(1)
        raise LeaseTakenError("'a' was taken away")

    with pytest.raises(LeaseTakenError):
        spread.keep_trying("a", contextlib.nullcontext, attempt, 5.0, begun=lambda: True)  # type: ignore[arg-type]
    assert len(tries) == 1


def test_a_board_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "_PAUSES_S", (0.01,))

    def gone() -> Any:
        raise BoardError("cannot be reached")

    start = time.monotonic()
    with pytest.raises(BoardError, match="cannot be reached"):
        spread.keep_trying("a", gone, lambda _: None, 0.2, begun=lambda: True)
    assert 0.2 <= time.monotonic() - start < 5


@pytest.mark.board
def test_a_connection_that_ends_in_the_middle(
    tiny_arm: Any,
    photos: PhotoSet,
    virtual_board: SshSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spread, "_PAUSES_S", (0.05,))
    few = photos.take(range(16))
    entry = dataclasses.replace(virtual_board.entry, workdir="edgecompress-spread")
    opened: list[SshSession] = []

    def opener() -> SshSession:
        opened.append(SshSession(entry))
        return opened[-1]

    def cut() -> None:
        threading.Thread(target=opened[-1].close).start()

    try:
        with at(5, cut) as warnings:
            run = run_on_boards({"pi": opener}, tiny_arm.bundle, few, tmp_path / "out", OPTIONS)
        assert len(warnings) == 1 and "was lost" in warnings[0]
        assert list(run.records) == list(identify(few.paths))
        assert run.measurements["boards"][0]["starts"] == 2
    finally:
        virtual_board.run(["sh", "-c", "rm -rf ~/edgecompress-spread"], timeout=60)


LONG = Path(__file__).parents[1] / "long"


@pytest.mark.slow
@pytest.mark.board
def test_a_thousand_photos_and_a_reboot(
    tiny_arm: Any, data_root: Path, virtual_board: SshSession, tmp_path: Path
) -> None:
    def python(program: str, *arguments: Any) -> str:
        argv = [sys.executable, LONG / program, *arguments]
        return subprocess.run(
            [str(one) for one in argv], capture_output=True, text=True, check=True
        ).stdout

    python("make_photos.py", data_root / "imagenette160", tmp_path / "photos", "--count", 1000)
    board = virtual_board.board.name
    told = python(
        "long_run.py", tiny_arm.bundle, tmp_path / "photos", tmp_path / "out",
        *("--board", board, "--at", 0.3, "runner", "--at", 0.5, "board", "--at", 0.7, "host"),
    )  # fmt: skip
    found = json.loads(told)
    assert virtual.status(board).running
    assert (found["status"], found["listed"], found["once"]) == (0, 1000, True)
    assert found["records"] == found["photos"] < 1000 and 20 <= found["failed"] <= 30
    assert sum("killed at" in line for line in found["said"]) == 3
