"""A shelf of boards that tests may start, kill and cut off, and a job that runs on them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgecompress.rpc import Session, virtual
from edgecompress.rpc.deadline import Deadline
from edgecompress.targets import BoardEntry
from edgecompress.targets.inventory import add

SORT = "virtual-pi4"
PHOTOS = 240

JOB = """
name = "shapes"
board = "virtual-pi4"

[data]
train = {train}
photos = {photos}

[compress]
crop = "always"
held_out = 0.25
base = {{ family = "resnet18", width = 0.125, resolution = 32 }}
train = {{ epochs = 1, batch = 16, rate = 0.02, decay = 0.01, scale = 0.6 }}
predictor = {{ resolution = 32, width = 0.5, cam_resolution = 64, epochs = 1 }}
shrink = {{ epochs = 1, search = 0 }}
members = {{ budgets = [0.4, 1.0], epochs = 1, tune_epochs = 1 }}

[bench]
warmup = 1
"""


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_sshd(process: psutil.Process) -> bool:
    try:
        return any("sshd" in word or "sftp-server" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return True


@dataclasses.dataclass(frozen=True)
class Shelf:
    """Virtual boards of one sort, by name."""

    entries: dict[str, BoardEntry]

    def start(self, name: str) -> BoardEntry:
        """Switch a board on; it answers at the same address each time."""
        entry = virtual.start(SORT, name)
        assert self.entries.setdefault(name, entry) == entry
        return entry

    def kill(self, name: str) -> None:
        """Take a board's power away."""
        virtual.stop(SORT, name)

    def home(self, name: str) -> Path:
        """What lies below `workdir` on a board, seen from this machine."""
        return self.disk(name) / "home/pi" / self.entries[name].workdir

    def disk(self, name: str) -> Path:
        """The root of a board's disk, seen from this machine."""
        return next(virtual.status(SORT, name).folder.glob("tree-*"))

    def first(self, name: str) -> psutil.Process:
        """A board's first process: its SSH server that listens."""
        return psutil.Process(virtual.status(SORT, name).pid).children()[0]

    def processes(self, name: str) -> list[psutil.Process]:
        """What else runs on a board."""
        if not virtual.status(SORT, name).running:
            return []
        family = self.first(name).children(recursive=True)
        return [one for one in family if _lives(one)]

    def kill_connections(self, name: str) -> None:
        """Kill the sshd processes that serve us; the one that listens lives."""
        for one in self.processes(name):
            if _is_sshd(one):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()

    def is_idle(self, name: str, within: float) -> bool:
        """Whether nothing of ours runs on a board any more: sshd's own wait for what may come."""
        return any(
            not [one for one in self.processes(name) if not _is_sshd(one)]
            for _ in Deadline(within).attempts(0.2)
        )


@pytest.fixture(scope="session")
def _shelf(virtual_board: Session) -> Iterator[Shelf]:
    shelf = Shelf({})
    yield shelf
    for name in shelf.entries:
        virtual.reset(SORT, name)
        shutil.rmtree(virtual.status(SORT, name).folder)


@pytest.fixture
def shelf(_shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """The shelf, and an inventory without boards."""
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path / "config"))
    return _shelf


@pytest.fixture
def board(shelf: Shelf) -> str:
    """The name of a board that runs, has nothing on it, and is in the inventory."""
    name = "faults-a"
    add(shelf.start(name))
    shutil.rmtree(shelf.home(name), ignore_errors=True)
    return name


class Link:
    """The network between this machine and a board (`link.py`)."""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("link.py")), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())

    def order(self, line: str) -> None:
        """Say "cut", "pass", "delay 0.2" or "rate 50000"."""
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Take it away."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def link_to(shelf: Shelf) -> Iterator[Callable[[str], Link]]:
    """Makes the network to a board: from then on the inventory leads over it."""
    made: list[Link] = []

    def make(name: str) -> Link:
        made.append(Link(shelf.entries[name].port or 22))
        add(dataclasses.replace(shelf.entries[name], port=made[-1].port))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def link(link_to: Callable[[str], Link], board: str) -> Link:
    """The network to `board`."""
    return link_to(board)


class Command:
    """An `edgecompress` command as a user gives it."""

    def __init__(self, *words: str) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgecompress.cli.main", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def kill(self) -> None:
        """Kill it, and only it, at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def end(self, within: float) -> tuple[int, str]:
        """Its exit status and what it said, when it has ended; what it left running is found."""
        family = [self.process.pid]
        try:
            _, said = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            _, said = self.process.communicate()
            pytest.fail(f"it hangs after {within:g} s; it said:\n{said}")
        assert not _in_session(family[0]), "it left processes behind"
        assert "Traceback" not in said, said
        return self.process.returncode, said


def _in_session(leader: int) -> list[psutil.Process]:
    """Living processes of a session (a child may still be ending)."""
    found: list[psutil.Process] = []
    for _ in Deadline(3.0).attempts():
        found = []
        for one in psutil.process_iter(["status"]):
            try:
                if os.getsid(one.pid) == leader and one.info["status"] != psutil.STATUS_ZOMBIE:
                    found.append(one)
            except OSError:
                continue
        if not found:
            break
    return found


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A job that is done up to its bundle: only the board's part is left."""

    job: Path
    done: Path

    def copy(self, folder: Path) -> Path:
        """An output folder of its own."""
        shutil.copytree(self.done, folder)
        return folder

    def bench(self, name: str, out: Path) -> Command:
        """Measure on a board."""
        return Command("bench", str(self.job), "--board", name, "--out", str(out))

    def tune(self, names: Sequence[str], out: Path, trials: int) -> Command:
        """Tune on boards."""
        boards = [word for name in names for word in ("--board", name)]
        budget = ["--trials", str(trials)]
        return Command("tune", str(self.job), *boards, *budget, "--out", str(out))


@pytest.fixture(scope="session")
def prepared(
    virtual_board: Session,
    shapes: tuple[Path, Path],
    make_shapes: Callable[[Path, int, int], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Prepared:
    """See `Prepared`; a minute of training and compiling."""
    root = tmp_path_factory.mktemp("faults")
    photos = make_shapes(root / "photos", PHOTOS // 2, 2)
    job = root / "shapes.toml"
    job.write_text(JOB.format(train=json.dumps(str(shapes[0])), photos=json.dumps(str(photos))))
    status, said = Command("compile", str(job), "--out", str(root / "out")).end(300)
    assert status == 0, said
    return Prepared(job, root / "out")


@dataclasses.dataclass
class Scene:
    """One job, one board that runs and has nothing on it, and what is noted of a fault there."""

    shelf: Shelf
    board: str
    prepared: Prepared
    out: Path
    test: str

    def bench(self) -> Command:
        """Measure on the board."""
        return self.prepared.bench(self.board, self.out)

    def records(self) -> list[dict[str, Any]]:
        """The predictions that came back, as they stand in the file."""
        lines = (self.out / "board/predictions.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def require_complete(self) -> None:
        """Fail unless each photo of the run has its answer, once."""
        found = self.records()
        names = [record["photo"] for record in found]
        assert len(names) == len(set(names)) == PHOTOS
        assert not [record for record in found if record.get("error")]

    def answered(self) -> int:
        """How many answers of the run that is under way are safe on this machine."""
        journal = self.out / "board/answers.jsonl"
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    def wait_answered(self, count: int) -> None:
        """Until so many are."""
        if not any(self.answered() >= count for _ in Deadline(120).attempts(0.05)):
            pytest.fail(f"{self.board} has answered {self.answered()} photos, not {count}")

    def row(self, fault: str, outcome: str, seconds: float, limit: float) -> None:
        """Note a recovery for docs/reliability.md (`table.py`), where that is asked for."""
        assert seconds <= limit, f"{fault}: {seconds:.1f} s, {limit:g} s are promised"
        path = os.environ.get("EDGECOMPRESS_RELIABILITY")
        if path:
            line = {
                "fault": fault,
                "outcome": outcome,
                "seconds": round(seconds, 1),
                "limit": limit,
                "test": self.test,
            }
            with Path(path).open("a") as stream:
                stream.write(json.dumps(line) + "\n")


@pytest.fixture
def scene(
    shelf: Shelf, board: str, prepared: Prepared, tmp_path: Path, request: pytest.FixtureRequest
) -> Scene:
    """See `Scene`."""
    out = prepared.copy(tmp_path / "out")
    return Scene(shelf, board, prepared, out, request.node.originalname)
