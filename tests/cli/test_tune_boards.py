"""Several boards of one sort tune together: the virtual board and a copy of it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgecompress import events
from edgecompress.cli.tune_boards import endpoints
from edgecompress.compile.records import read_records
from edgecompress.compile.tune import tune_tasks
from edgecompress.compile.tuning import TuningTask
from edgecompress.errors import BoardError
from edgecompress.rpc import connect, virtual
from edgecompress.rpc.lease import lease
from edgecompress.rpc.ssh import SshSession
from edgecompress.targets.inventory import add

ROWS = (8, 16)


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
            if server := re.search(r"/(farm-pi-[ab])/keys/[0-9a-f]+$", word):
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


@pytest.fixture
def names(
    virtual_board: SshSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """Two boards in the inventory."""
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path))
    copy = virtual.start("virtual-pi4", "farm-b")
    entries = {"pi-a": virtual_board.entry, "pi-b": copy}
    for name, entry in entries.items():
        add(dataclasses.replace(entry, name=name, workdir=f"farm-{name}"))
    yield list(entries)
    virtual.reset("virtual-pi4", "farm-b")
    shutil.rmtree(virtual.status("virtual-pi4", "farm-b").folder)


@contextlib.contextmanager
def in_use(name: str) -> Iterator[None]:
    with connect(name) as session, lease(session, "bench"):
        yield


@pytest.mark.board
def test_two_boards_and_a_server_that_is_killed(
    names: list[str], virtual_board: SshSession, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one(event: events.Event) -> None:
        if event.text.startswith("5 measured") and not killed:
            killed.append(len(servers()))
            kill(next(iter(servers().values())))
            with pytest.raises(BoardError, match=r"in use by .+@.+ \(tuning"), in_use("pi-a"):
                pass

    database = tmp_path / "tuning.jsonl"
    tasks = [TuningTask(f"gemm {rows}", kernel(rows), tiled, 1) for rows in ROWS]
    with events.listening(kill_one), endpoints(names, "fast") as opened:
        assert list(opened) == names
        result = tune_tasks(tasks, virtual_board.board, opened, database=database)
    records = read_records(database)
    assert killed == [2], "a server for each of the two"
    assert result.ended == "exhausted" and result.failures == 0
    assert len({(one.workload, one.candidate) for one in records}) == len(records) == 2 * 4 * 3
    assert sum(result.boards.values()) == len(records) and min(result.boards.values()) > 2
    assert {one.measured for one in records} == {"emulated"}
