"""Several boards of one sort tune together: copies of the virtual board."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgecompress import events
from edgecompress.cli.tune_boards import endpoints
from edgecompress.compile import farm
from edgecompress.compile.records import read_records
from edgecompress.compile.tune import tune_tasks
from edgecompress.compile.tuning import TuningTask
from edgecompress.errors import BoardError
from edgecompress.rpc import connect, virtual
from edgecompress.rpc.deadline import Deadline
from edgecompress.rpc.lease import lease
from edgecompress.rpc.ssh import SshSession
from edgecompress.targets import load_board
from edgecompress.targets.inventory import add

SORT = "virtual-pi4"
SPACE = 4 * 3  # of `tiled`


def kernel(rows: int) -> Any:
    from tvm import te

    a = te.placeholder((rows, 32), name="A")
    b = te.placeholder((32, 16), name="B")
    k = te.reduce_axis((0, 32), name="k")
    product = te.compute((rows, 16), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return te.create_prim_func([a, b, product])


def tiled(schedule: Any) -> None:
    i, j, _ = schedule.get_loops(schedule.get_sblock("C"))
    rows = schedule.sample_categorical([1, 2, 4, 8], [0.25] * 4, decision=1)
    columns = schedule.sample_categorical([4, 8, 16], [1 / 3] * 3, decision=2)
    schedule.split(i, [None, rows])
    _, right = schedule.split(j, [None, columns])
    schedule.vectorize(right)


def servers() -> dict[str, list[psutil.Process]]:
    """The processes of each RPC server on this machine's virtual boards, by its board's folder."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter(["cmdline"]):
        for word in process.info["cmdline"] or []:
            if server := re.search(r"/(farm-[abc])/keys/[0-9a-f]+$", word):
                found.setdefault(server.group(1), []).append(process)
    return found


def kill(server: list[psutil.Process]) -> None:
    """Kill a server and its children; one that ends by itself meanwhile is as dead as the rest."""
    family = {*server}
    for one in server:
        with contextlib.suppress(psutil.NoSuchProcess):
            family.update(one.children(recursive=True))
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


Shelf = Callable[..., list[str]]


@pytest.fixture
def shelf(
    virtual_board: SshSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shelf]:
    """Puts boards into the inventory; `virtual_board` says whether any can run here."""
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path))
    started: list[str] = []

    def start(*names: str) -> list[str]:
        for name in names:
            started.append(name)
            entry = virtual.start(SORT, name)
            add(dataclasses.replace(entry, name=name, workdir=name))
        return list(names)

    yield start
    for name in started:
        virtual.reset(SORT, name)
        shutil.rmtree(virtual.status(SORT, name).folder)


@contextlib.contextmanager
def in_use(name: str) -> Iterator[None]:
    with connect(name) as session, lease(session, "bench"):
        yield


def tasks(count: int) -> list[TuningTask]:
    return [TuningTask(f"gemm {8 * n}", kernel(8 * n), tiled, 1) for n in range(1, count + 1)]


def each_once(database: Path) -> int:
    """The number of records, none of them twice."""
    records = read_records(database)
    assert len({(one.workload, one.candidate) for one in records}) == len(records)
    assert {one.measured for one in records} == {"emulated"}
    return len(records)


@pytest.mark.slow
@pytest.mark.board
def test_two_boards_and_a_server_that_is_killed(shelf: Shelf, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_one(event: events.Event) -> None:
        if event.text.startswith("5 measured") and not killed:
            killed.append(len(servers()))
            kill(next(iter(servers().values())))
            with pytest.raises(BoardError, match=r"in use by .+@.+ \(tuning"), in_use("farm-a"):
                pass

    database = tmp_path / "tuning.jsonl"
    names = shelf("farm-a", "farm-b")
    with events.listening(kill_one), endpoints(names, "fast") as opened:
        assert list(opened) == names
        result = tune_tasks(tasks(1), load_board(SORT), opened, database=database)
    assert killed == [2], "a server for each of the two"
    assert result.ended == "exhausted" and result.failures == 0
    assert each_once(database) == SPACE == sum(result.boards.values())
    assert min(result.boards.values()) > 0


@pytest.mark.slow
@pytest.mark.board
def test_three_boards_each_of_which_is_killed_twice(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their power is taken away and given back; the tracker is killed as well."""
    monkeypatch.setattr(farm, "PAUSES_S", (2.0, 4.0))
    names = shelf("farm-a", "farm-b", "farm-c")
    turns = {4 + 5 * turn: names[turn % 3] for turn in range(6)}
    said: list[str] = []
    threads: list[threading.Thread] = []

    def off_and_on(name: str) -> None:
        virtual.stop(SORT, name)
        time.sleep(3)
        virtual.start(SORT, name)

    def listen(event: events.Event) -> None:
        if event.kind != "advance":
            said.append(event.text)
            return
        count = event.text.partition(" measured")[0]
        if count.isdecimal() and (name := turns.pop(int(count), "")):
            threads.append(threading.Thread(target=off_and_on, args=(name,)))
            threads[-1].start()
            if len(threads) == 3:
                kill([one for one in psutil.Process().children() if is_tracker(one)])

    database = tmp_path / "tuning.jsonl"
    with events.listening(listen), endpoints(names, "fast") as opened:
        result = tune_tasks(tasks(3), load_board(SORT), opened, database=database)
    for thread in threads:
        thread.join()
    assert len(threads) == 6
    assert result.ended == "exhausted" and result.failures == 0
    assert each_once(database) == 3 * SPACE == sum(result.boards.values())
    assert min(result.boards.values()) > 0
    assert "the RPC tracker was killed: starting it again" in said
    # One that is killed between two batches may be there again before it is missed, and the end
    # may come before the last one is.
    assert any("is put aside" in text for text in said)
    assert any(f"'{name}' is back" in said for name in names)
    assert any(not servers() for _ in Deadline(20).attempts())


def is_tracker(process: psutil.Process) -> bool:
    return "edgecompress.rpc.tracker_process" in process.cmdline()
