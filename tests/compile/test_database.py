"""The file of tuning records: nothing that was measured is lost, nothing foreign is touched."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from edgecompress import events
from edgecompress.compile.database import (
    open_database,
    target_key,
    trace_json,
    workload_key,
)
from edgecompress.compile.records import Record, append_records, read_records, versions
from edgecompress.errors import InputError
from edgecompress.targets import Board, load_board


def record(number: int = 0, **changes: Any) -> Record:
    plain = Record(
        workload="00ff",
        target="llvm aarch64-linux-gnu cortex-a72 cores=4",
        name="conv2d 1x1",
        trace=[[["GetSBlock", [], ["C", "main"], ["b0"]]], [[0, number]]],
        seconds=(2e-3, 1e-3, 3e-3),
        failure="",
        board="rpi4b",
        measured="real",
    )
    return replace(plain, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tuning.jsonl"


@pytest.fixture
def pi4() -> Board:
    return load_board("rpi4b")


def test_records_come_back_as_they_were(path: Path) -> None:
    first = [record(1), record(2, seconds=(), failure='run: "no"\nanswer')]
    append_records(path, first)
    append_records(path, [])
    append_records(path, [record(3)])
    assert read_records(path) == [*first, record(3, time=read_records(path)[2].time)]
    assert path.read_bytes().count(b"\n") == 3


def test_the_median_decides_and_a_failure_never_wins() -> None:
    assert record().median == 2e-3
    assert record(seconds=(), failure="run: no answer").median == float("inf")
    assert record(1).candidate != record(2).candidate
    assert record(1).candidate == record(1, seconds=(5.0,)).candidate


@pytest.mark.parametrize("kept", [1, 9, 10, 40, 200])
def test_a_line_that_a_kill_tore_off_is_dropped(path: Path, kept: int) -> None:
    append_records(path, [record(1), record(2)])
    whole = path.read_bytes()
    append_records(path, [record(3)])
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    said: list[events.Event] = []
    with events.listening(said.append):
        assert len(read_records(path)) == 2
    assert [event.kind for event in said] == ["warning"]
    append_records(path, [record(4)])
    assert [r.trace[1][0][1] for r in read_records(path)] == [1, 2, 4]
    assert path.read_bytes().startswith(whole)


def test_only_a_torn_line(path: Path) -> None:
    path.write_bytes(b'{"format":1,"work')
    with events.listening(lambda _: None):
        assert read_records(path) == []


def test_a_last_line_without_its_end_is_kept(path: Path) -> None:
    append_records(path, [record(1), record(2)])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(read_records(path)) == 2
    append_records(path, [record(3)])
    assert len(read_records(path)) == 3


def altered(**changes: Any) -> bytes:
    line = json.loads(json.dumps({"format": 1, **record().__dict__}))
    line.update(changes)
    return json.dumps({k: v for k, v in line.items() if v is not ...}).encode()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"#!/bin/sh\nrm -rf\n", "line 1: no JSON"),
        (b"\x7fELF\x02\x01", "line 1: no tuning record"),
        (b'{"name": "a job"}\n', "line 1: no tuning record"),
        (b"[1, 2]\n", "line 1: no tuning record"),
        (b"123", "line 1: no tuning record"),
        (altered() + b"\n\x00\x00\x00\n" + altered() + b"\n", "line 2: no JSON"),
        (altered(format=2) + b"\n", "another format"),
        (altered(seconds=["fast"]) + b"\n", "'seconds'"),
        (altered(seconds=[-1.0]) + b"\n", "'seconds'"),
        (altered(seconds=[float("nan")]) + b"\n", "'seconds'"),
        (altered(trace="rm") + b"\n", "'trace'"),
        (altered(measured="guessed") + b"\n", "'measured'"),
        (altered(board=...) + b"\n", "board"),
        (altered(extra=1) + b"\n", "extra"),
    ],
)
def test_damaged_and_foreign_files_are_refused_and_left_alone(
    path: Path, content: bytes, cause: str
) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=cause) as caught:
        read_records(path)
    assert caught.value.exit_code == 3
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "changes",
    [
        *({"seconds": (1e-3, second)} for second in (0.0, -1.0, float("nan"), float("inf"), 1)),
        {"measured": "guessed"},
        {"trace": "no trace"},
        {"failure": None},
    ],
)
def test_what_could_not_be_read_again_is_not_written(path: Path, changes: dict[str, Any]) -> None:
    append_records(path, [record(1)])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"no tuning record: '{next(iter(changes))}'"):
        append_records(path, [record(2), record(3, **changes)])
    assert path.read_bytes() == before
    assert len(read_records(path)) == 1


@pytest.mark.parametrize("content", [b"one\ntwo", b"no end", b"\0\0", b'{"kind": 1}\nx'])
def test_nothing_is_cut_off_what_is_no_file_of_records(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for batch in ([], [record()]):
        with pytest.raises(InputError, match="line 1: no tuning record"):
            append_records(path, batch)
    assert path.read_bytes() == content


def test_a_large_file_is_neither_read_anew_for_each_record_nor_asked_for_its_version(
    path: Path, pi4: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_records(path, [record(number, name="x" * 1000) for number in range(2000)])
    before = bytes_read()
    append_records(path, [record(1)])
    assert bytes_read() - before < path.stat().st_size / 10
    versions()
    monkeypatch.setattr(metadata, "version", None)
    assert len(open_database(path, pi4)) == 2001


def bytes_read() -> int:
    """By this process, from files and caches."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_last_line_that_is_longer_than_a_block(path: Path) -> None:
    append_records(path, [record(1), record(2, name="x" * 200_000)])
    path.write_bytes(path.read_bytes()[:-1])
    append_records(path, [record(3)])
    path.write_bytes(path.read_bytes()[:-1] + b'\n{"format":' + b"x" * 200_000)
    append_records(path, [record(4)])
    assert [one.trace[1][0][1] for one in read_records(path)] == [1, 2, 3, 4]


def test_a_missing_file(path: Path, pi4: Board) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_database(path, pi4)
    assert len(open_database(path, pi4, create=True)) == 0
    assert not path.exists()


def test_a_folder_is_refused(tmp_path: Path, pi4: Board) -> None:
    with pytest.raises(InputError):
        open_database(tmp_path, pi4)
    with pytest.raises(InputError):
        append_records(tmp_path, [record()])


def test_a_full_disk_leaves_what_was_there(path: Path) -> None:
    append_records(path, [record(1)])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(InputError, match="cannot write"):
            append_records(path, [record(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_database as kit
for number in range(10_000):
    kit.append_records(Path(sys.argv[2]), [kit.record(number)])
    print(number, flush=True)
"""


def test_killed_while_writing(path: Path) -> None:
    """Whatever was reported as written is there; two writers do not mix their lines."""
    arguments = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(path)]
    writers = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "0\n"
    time.sleep(0.3)
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
    reported = sum(1 + writer.communicate()[0].count("\n") for writer in writers)
    with events.listening(lambda _: None):
        found = len(read_records(path))
    assert reported <= found <= reported + 2


def gemm(rows: int) -> Any:
    from tvm import te

    a = te.placeholder((rows, 32), name="A")
    b = te.placeholder((32, 16), name="B")
    k = te.reduce_axis((0, 32), name="k")
    c = te.compute((rows, 16), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return te.create_prim_func([a, b, c])


def split_by(kernel: Any, rows: int) -> Any:
    from tvm.s_tir import Schedule

    schedule = Schedule(kernel)
    i, *_ = schedule.get_loops(schedule.get_sblock("C"))
    schedule.split(i, [None, rows])
    return trace_json(schedule.trace)


def test_the_best_record_of_the_best_kind_is_looked_up(path: Path, pi4: Board) -> None:
    import tvm

    kernel, target = gemm(64), tvm.target.Target(pi4.tvm_target())
    assert target_key(target).startswith("llvm aarch64")
    mine = {"workload": workload_key(kernel), "target": target_key(target)}

    def with_rows(rows: int, seconds: float, **changes: Any) -> Record:
        timed = (seconds,) if seconds else ()
        return record(trace=split_by(kernel, rows), seconds=timed, **{**mine, **changes})

    append_records(
        path,
        [
            with_rows(2, 3e-3),
            with_rows(4, 2e-3),
            with_rows(8, 0, failure="run: no answer"),
            with_rows(16, 1e-6, measured="emulated", board="virtual-pi4"),
            with_rows(32, 1e-6, measured="cost"),
            with_rows(64, 1e-9, versions="edgecompress 0.0, tvm 0.1"),
            with_rows(64, 1e-9, target="llvm x86_64-linux-gnu"),
            with_rows(64, 1e-9, workload="0"),
        ],
    )
    database = open_database(path, pi4)
    assert len(database.records(kernel, target)) == 4
    best = database.best(kernel.with_attr("global_symbol", "fused_conv7"), target)
    assert best is not None and best.seconds == (2e-3,)
    trace = database.lookup(kernel, target)
    assert trace is not None and trace_json(trace) == split_by(kernel, 4)
    assert database.lookup(gemm(32), target) is None

    virtual = open_database(path, load_board("virtual-pi4"))
    assert len(virtual.records(kernel, target)) == 5
    best = virtual.best(kernel, target)
    assert best is not None and best.measured == "real"


def test_equal_kernels_have_equal_keys() -> None:
    assert workload_key(gemm(64)) == workload_key(gemm(64).with_attr("global_symbol", "other"))
    assert workload_key(gemm(64)) != workload_key(gemm(32))
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_database as kit; "
    code += "print(kit.workload_key(kit.gemm(64)))"
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == workload_key(gemm(64)), "also in another process"


def test_a_trace_that_does_not_apply_is_a_warning(path: Path, pi4: Board) -> None:
    import tvm

    kernel, target = gemm(64), tvm.target.Target(pi4.tvm_target())
    foreign = [[["GetSBlock", [], ["no such block", "main"], ["b0"]]], []]
    append_records(
        path, [record(workload=workload_key(kernel), target=target_key(target), trace=foreign)]
    )
    said: list[events.Event] = []
    with events.listening(said.append):
        assert open_database(path, pi4).lookup(kernel, target) is None
    assert [event.kind for event in said] == ["warning"]
    assert "conv2d 1x1" in said[0].text
