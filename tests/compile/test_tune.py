"""Tuning on this machine through real RPC servers, good ones and bad ones."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgecompress import events
from edgecompress.compile import farm, measure
from edgecompress.compile.builder import Builder
from edgecompress.compile.database import open_database
from edgecompress.compile.known import known_kernel
from edgecompress.compile.link import zig_binary
from edgecompress.compile.measure import Meter, Outcome, Timing
from edgecompress.compile.records import read_records
from edgecompress.compile.search import MisfitError, Search, schedule_with
from edgecompress.compile.tune import tune_tasks
from edgecompress.compile.tuning import Budget, TuningTask
from edgecompress.errors import BoardError, CompileError, InputError, UsageError
from edgecompress.targets import Board, load_board

QUICK = Timing(repeat=2, min_repeat_ms=1, deadline_s=10)
SPACE = 2 * 3 + 2 * 3 * 2  # of `tiled`


def gemm(rows: int = 16) -> Any:
    from tvm import te

    a = te.placeholder((rows, 32), name="A")
    b = te.placeholder((32, 16), name="B")
    k = te.reduce_axis((0, 32), name="k")
    c = te.compute((rows, 16), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return te.create_prim_func([a, b, c])


def tiled(schedule: Any) -> None:
    """A schedule with three choices, the last of which is there for large tiles only."""
    block = schedule.get_sblock("C")
    i, j, k = schedule.get_loops(block)
    rows = schedule.sample_categorical([1, 2, 4, 8], [0.25] * 4, decision=1)
    columns = schedule.sample_categorical([4, 8, 16], [1 / 3] * 3, decision=2)
    outer, inner = schedule.split(i, [None, rows])
    left, right = schedule.split(j, [None, columns])
    schedule.reorder(outer, left, k, inner, right)
    if schedule.get(rows) > 2:
        unrolled = schedule.sample_categorical([0, 1], [0.5, 0.5], decision=1)
        if schedule.get(unrolled):
            schedule.unroll(inner)
    schedule.vectorize(right)


def for_another_machine(schedule: Any) -> None:
    """A schedule whose result cannot be built for a CPU."""
    i, *_ = schedule.get_loops(schedule.get_sblock("C"))
    schedule.bind(i, "threadIdx.x")


def task(rows: int = 16) -> TuningTask:
    return TuningTask(f"gemm {rows}x16x32", gemm(rows), tiled, 1)


# A process that has imported TVM and forks an RPC server in a moment whenever it is asked to.
NURSERY = """
import os, sys, time
sys.modules["torch"] = None
from tvm.rpc.server import PopenRPCServerState
for line in sys.stdin:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        sys.stdin = open(os.devnull)
        state = PopenRPCServerState("127.0.0.1", 9190, 9990, silent=True)
        os.write(writer, str(state.port).encode())
        os.close(writer)
        while True:
            time.sleep(60)
    os.close(writer)
    print(os.read(reader, 9).decode(), pid, flush=True)
    os.close(reader)
"""


@dataclass(frozen=True)
class Endpoint:
    host: str
    port: int
    key: str = ""
    tracked: bool = False
    cpus: tuple[int, ...] = ()

    def require(self) -> None:
        """Nobody takes it away."""


@dataclass
class Servers:
    """Opens RPC servers; `opened` has the process of each."""

    nursery: subprocess.Popen[str]
    opened: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def open(self) -> Iterator[Endpoint]:
        assert self.nursery.stdin and self.nursery.stdout
        with self.lock:  # boards that tune together open theirs at the same time
            self.nursery.stdin.write("open\n")
            self.nursery.stdin.flush()
            port, pid = self.nursery.stdout.readline().split()
            self.opened.append(int(pid))
        try:
            yield Endpoint("127.0.0.1", int(port))
        finally:
            self.kill(int(pid))

    def kill(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def servers(nursery: subprocess.Popen[str]) -> Servers:
    return Servers(nursery)


@pytest.fixture(scope="module")
def host() -> Board:
    return load_board("host")


@pytest.fixture(scope="module")
def known(host: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Builder(host, tmp_path_factory.mktemp("known"), 1) as builder:
        (built,) = builder.build([known_kernel()])
    assert built.library is not None, built.failure
    return built.library


# The search


def all_decisions(search: Search) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    while batch := search.propose(5):
        for candidate in batch:
            found.append(candidate.decisions)
            search.tell(candidate, 1.0)
    return found


def test_the_search_covers_the_space_once() -> None:
    search = Search(tiled, gemm(), {}, seed=3)
    found = all_decisions(search)
    assert found[0] == (1, 2), "the untuned schedule comes first"
    assert len(found) == len(set(found)) == SPACE
    assert search.exhausted
    assert search.misfits == 0


def test_the_search_leaves_out_what_is_known() -> None:
    kernel = gemm()
    known = {schedule_with(tiled, kernel, d).key: 0.5 for d in [(1, 2), (0, 0)]}
    search = Search(tiled, kernel, known, seed=3)
    assert search.default_seconds == 0.5
    found = all_decisions(search)
    assert len(found) == SPACE - 2
    assert not {(1, 2), (0, 0)} & set(found)


def test_the_search_goes_to_the_fast_ones_first() -> None:
    """On a smooth cost the best of 18 is found within half of them, for most seeds."""
    hits = 0
    for seed in range(1, 9):
        search = Search(tiled, gemm(), {}, seed=seed)
        for _ in range(9):
            (candidate,) = search.propose(1)
            rows, columns, *_ = candidate.decisions
            search.tell(candidate, 1.0 + abs(rows - 3) + abs(columns - 0))
        hits += search.best_seconds == 1.0
    assert hits >= 6


def test_decisions_that_do_not_fit_are_passed_over() -> None:
    def picky(schedule: Any) -> None:
        choice = schedule.sample_categorical([1, 2, 3], [1 / 3] * 3, decision=0)
        if schedule.get(choice) == 2:
            raise ValueError("two does not work")

    search = Search(picky, gemm(), {}, seed=1)
    assert sorted(all_decisions(search)) == [(0,), (2,)]
    assert search.misfits == 1


def test_an_untuned_schedule_must_work(host: Board, servers: Servers, tmp_path: Path) -> None:
    def broken(schedule: Any) -> None:
        schedule.get_sblock("nothing of that name")

    with pytest.raises(MisfitError):
        Search(broken, gemm(), {}, seed=1)
    with pytest.raises(CompileError, match="schedule of x"):
        tune_tasks(
            [TuningTask("x", gemm(), broken, 1)], host, servers.open, database=tmp_path / "t.jsonl"
        )


def test_untuned_kernels_that_do_not_build_are_an_error(
    host: Board, servers: Servers, tmp_path: Path
) -> None:
    database = tmp_path / "tuning.jsonl"
    wrong = TuningTask("x", gemm(), for_another_machine, 1)
    with pytest.raises(CompileError, match="none of the kernels works"):
        tune_tasks([wrong], host, servers.open, database=database, timing=QUICK)
    assert read_records(database) == [], "it may work with another TVM: try again then"
    result = tune_tasks(
        [wrong, task()],
        host,
        servers.open,
        database=database,
        budget=Budget(trials=3),
        timing=QUICK,
    )
    assert (result.records, result.failures) == (3, 1)
    assert [r.failure[:6] for r in read_records(database) if r.failure] == ["build:"]


# Building


def test_failed_builds_are_results(host: Board, tmp_path: Path) -> None:
    import tvm

    wrong = schedule_with(for_another_machine, gemm()).mod
    right = tvm.IRModule({"main": gemm()})
    with Builder(host, tmp_path, workers=1) as builder:
        first, second = builder.build([wrong, right])
    assert first.library is None
    assert first.failure.startswith("build: ") and len(first.failure) > len("build: ")
    assert not first.lost
    assert second.library is not None and second.library.exists()


def test_a_build_that_takes_too_long_is_given_up(host: Board, tmp_path: Path) -> None:
    import tvm

    with Builder(host, tmp_path, workers=1, deadline_s=0.2) as builder:  # TVM's import takes longer
        (built,) = builder.build([tvm.IRModule({"main": gemm()})])
    assert built.lost
    assert "no answer within" in built.failure


# Measuring


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes libraries whose `main` does what one line of C says."""
    folder = tmp_path_factory.mktemp("libraries")

    def make(name: str, statement: str) -> Path:
        source = folder / f"{name}.c"
        source.write_text(
            "void abort(void); int pause(void);\n"
            "int __tvm_ffi_main(void* self, const void* args, int count, void* result) {\n"
            f"  {statement}; return 0;\n}}\n"
        )
        output = folder / f"{name}.so"
        triple = f"{platform.machine()}-linux-gnu.2.28"
        options = ["-shared", "-nostdlib", "-fno-sanitize=all", "-target", triple]
        subprocess.run([zig_binary(), "cc", *options, source, "-o", output, "-lc"], check=True)
        return output

    return make


ARGUMENT = [((4,), "float32")]


def test_a_crash_and_a_hang_are_failures_and_the_rest_goes_on(
    servers: Servers, library: Any, known: Path
) -> None:
    good, crash, hang = library("good", ""), library("crash", "abort()"), library("hang", "pause()")
    start = time.monotonic()
    with Meter(servers.open, replace(QUICK, deadline_s=2), known) as meter:
        assert len(meter.measure(good, ARGUMENT).seconds) == QUICK.repeat
        crashed, hung = meter.measure(crash, ARGUMENT), meter.measure(hang, ARGUMENT)
        assert len(meter.measure(good, ARGUMENT).seconds) == QUICK.repeat
    assert crashed.lost and crashed.failure.startswith("run: ")
    assert hung.lost and "no answer within 2 s" in hung.failure
    assert len(servers.opened) == 5, "one, and a new one after each loss"
    assert time.monotonic() - start < 60


def test_what_does_not_load_is_a_failure(servers: Servers, tmp_path: Path, known: Path) -> None:
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"no library")
    with Meter(servers.open, QUICK, known) as meter:
        outcome = meter.measure(damaged, ARGUMENT)
    assert outcome.failure and not outcome.lost
    assert len(servers.opened) == 1


def test_a_board_that_answers_wrongly_is_found_out(servers: Servers, library: Any) -> None:
    idle = library("idle", "")
    with Meter(servers.open, QUICK, idle) as meter, pytest.raises(BoardError, match="wrongly"):
        meter.measure(idle, ARGUMENT)


def test_a_board_that_is_not_fit_is_not_measured_on(servers: Servers, known: Path) -> None:
    hot: list[str] = []

    @dataclass(frozen=True)
    class Watched(Endpoint):
        def require(self) -> None:
            if hot:
                raise BoardError(hot[0])

    @contextmanager
    def watched() -> Iterator[Endpoint]:
        with servers.open() as endpoint:
            yield Watched(endpoint.host, endpoint.port)

    with Meter(watched, QUICK, known) as meter:
        meter.check()
        hot.append("it throttles")
        with pytest.raises(BoardError, match="throttles"):
            meter.check()
        hot.clear()
        servers.kill(servers.opened[-1])
        meter.check()
    assert len(servers.opened) == 2, "a server that was lost is no reproach"


def test_a_board_that_loses_every_candidate_is_given_up(
    servers: Servers, host: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvm.script import tirx as T

    monkeypatch.setattr(farm, "PAUSES_S", (0.1,))

    @T.prim_func(s_tir=True)
    def deadly(a: T.Buffer((4,), "float32")) -> None:
        for i in range(4):
            with T.sblock("C"):
                j = T.axis.spatial(4, i)
                a[j] = T.float32(1)
        T.evaluate(T.call_extern("int32", "abort"))

    def annotated(schedule: Any) -> None:
        choice = schedule.sample_categorical([1, 2, 3, 4], [0.25] * 4, decision=0)
        schedule.annotate(schedule.get_sblock("C"), "choice", choice)

    database = tmp_path / "tuning.jsonl"
    with pytest.raises(BoardError, match="3 candidates in a row") as caught:
        tune_tasks(
            [TuningTask("deadly", deadly, annotated, 1)],
            host,
            servers.open,
            database=database,
            timing=QUICK,
        )
    assert "doctor" in caught.value.hint
    assert read_records(database) == [], "the board's fault is not put on the candidates"


def test_a_server_that_never_answers_is_a_board_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_CONNECT_S", 1)
    opened = 0

    @contextmanager
    def mute() -> Iterator[Endpoint]:
        nonlocal opened
        opened += 1
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield Endpoint("127.0.0.1", listener.getsockname()[1])

    start = time.monotonic()
    with (
        Meter(mute, QUICK, Path("any.so")) as meter,
        pytest.raises(BoardError, match="does not answer"),
    ):
        meter.measure(Path("any.so"), ARGUMENT)
    assert time.monotonic() - start < 20
    assert opened == 2


# The whole


def test_times_that_are_none_are_failures_and_the_records_stay_readable(
    servers: Servers, host: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Meter.measure
    # After the two untuned kernels, all of which may not fail.
    lies = [(1e-3, 0.0), (1e-3, -1e-3), (float("nan"),), (float("inf"),), ()]
    to_come = [None, None, *lies]

    def lying(meter: Meter, *given: Any) -> Outcome:
        outcome = honest(meter, *given)
        lie = to_come.pop(0) if to_come else None
        return outcome if lie is None else replace(outcome, seconds=lie)

    monkeypatch.setattr(Meter, "measure", lying)
    database = tmp_path / "tuning.jsonl"
    wanted = Budget(trials=8)
    tasks = [task(), task(32)]
    result = tune_tasks(tasks, host, servers.open, database=database, budget=wanted, timing=QUICK)
    assert (result.records, result.failures) == (8, 5)
    records = read_records(database)
    assert [bool(record.seconds) for record in records] == [True] * 2 + [False] * 5 + [True]
    told = [f"run: no sound time: {lie}" for lie in lies]
    assert [record.failure for record in records[2:7]] == told
    again = tune_tasks(
        tasks, host, servers.open, database=database, budget=Budget(trials=2), timing=QUICK
    )
    assert (again.records, again.failures) == (2, 0)


def test_tuning_writes_records_that_the_next_compile_finds(
    servers: Servers, host: Board, tmp_path: Path
) -> None:
    import tvm
    from tvm.s_tir import Schedule

    database = tmp_path / "new" / "tuning.jsonl"
    said: list[events.Event] = []
    tasks = [task(), task(32)]
    with events.listening(said.append):
        result = tune_tasks(
            tasks, host, servers.open, database=database, budget=Budget(trials=12), timing=QUICK
        )
    assert (result.records, result.failures, result.ended) == (12, 0, "trials")
    assert result.measured == "real"
    assert result.speedup is not None and result.speedup >= 1
    assert json.loads(json.dumps(result.to_json()))["tasks"][0]["before_ms"] > 0
    assert said[0].kind == "begin" and said[-1].kind == "end"
    assert "s left" in said[5].text and "untuned" in said[5].text

    records = read_records(database)
    assert len(records) == len({(r.workload, r.candidate) for r in records}) == 12
    assert {r.board for r in records} == {"host"}

    target = tvm.target.Target(host.tvm_target())
    opened = open_database(database, host)
    for one in tasks:
        best = opened.best(one.kernel, target)
        trace = opened.lookup(one.kernel.with_attr("global_symbol", "another"), target)
        assert best is not None and trace is not None
        schedule = Schedule(one.kernel)
        trace.apply_to_schedule(schedule, remove_postproc=False)
        assert schedule.mod["main"].script() != one.kernel.script()
    assert opened.lookup(gemm(64), target) is None

    # Another run measures only what is left, and then nothing is.
    for expected in (2 * SPACE - 12, 0):
        again = tune_tasks(tasks, host, servers.open, database=database, timing=QUICK)
        assert (again.records, again.ended) == (expected, "exhausted")
    assert all(t.before_ms and t.after_ms and t.after_ms <= t.before_ms for t in again.tasks)
    assert [t.known for t in again.tasks] == [SPACE, SPACE]


def test_a_server_that_is_killed_midway_is_started_again(
    servers: Servers, host: Board, tmp_path: Path
) -> None:
    def kill_once(event: events.Event) -> None:
        if event.text.startswith("4 measured") and len(servers.opened) == 1:
            servers.kill(servers.opened[-1])

    database = tmp_path / "tuning.jsonl"
    with events.listening(kill_once):
        result = tune_tasks([task()], host, servers.open, database=database, timing=QUICK)
    assert (result.records, result.failures) == (SPACE, 0), "the candidate at hand was not guilty"
    assert len(servers.opened) == 2


TUNER = """
import sys
sys.modules["torch"] = None
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_tune as kit
from contextlib import nullcontext
from edgecompress.compile.tune import tune_tasks
from edgecompress.targets import load_board
endpoint = kit.Endpoint("127.0.0.1", int(sys.argv[3]))
tune_tasks([kit.task()], load_board("host"), lambda: nullcontext(endpoint),
           database=Path(sys.argv[2]), timing=kit.replace(kit.QUICK, cooldown_s=0.5))
"""


def test_a_killed_tuner_loses_nothing_and_goes_on(
    servers: Servers, host: Board, tmp_path: Path
) -> None:
    database = tmp_path / "tuning.jsonl"
    with servers.open() as endpoint:
        arguments = [str(Path(__file__).parent), str(database), str(endpoint.port)]
        tuner = subprocess.Popen([sys.executable, "-c", TUNER, *arguments])
        wait_for(lambda: database.exists() and database.read_bytes().count(b"\n") >= 3, 60)
        helpers = psutil.Process(tuner.pid).children(recursive=True)
        assert helpers
        tuner.kill()
        tuner.wait()
        wait_for(lambda: not any(helper.is_running() for helper in helpers), 10)
    before = read_records(database)
    assert 3 <= len(before) < SPACE
    result = tune_tasks([task()], host, servers.open, database=database, timing=QUICK)
    after = read_records(database)
    assert after[: len(before)] == before
    assert result.records == SPACE - len(before)
    assert len({record.candidate for record in after}) == len(after) == SPACE


def wait_for(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def test_times_under_emulation_say_so_and_count_for_virtual_boards_only(
    servers: Servers, host: Board, tmp_path: Path
) -> None:
    import tvm

    database = tmp_path / "tuning.jsonl"
    virtual = replace(host, name="virtual-host", kind="virtual")
    result = tune_tasks([task()], virtual, servers.open, database=database, budget=Budget(trials=2))
    assert result.measured == result.to_json()["measured"] == "emulated"
    assert {record.measured for record in read_records(database)} == {"emulated"}
    target = tvm.target.Target(host.tvm_target())
    assert open_database(database, virtual).lookup(gemm(), target) is not None
    assert open_database(database, host).lookup(gemm(), target) is None


def test_two_boards_measure_together_and_one_may_fail(
    servers: Servers, host: Board, tmp_path: Path
) -> None:
    @contextmanager
    def absent() -> Iterator[Endpoint]:
        raise BoardError("cannot reach the second board")
        yield

    said: list[events.Event] = []
    with events.listening(said.append):
        result = tune_tasks(
            [task()],
            host,
            {"here": servers.open, "there": absent},
            database=tmp_path / "tuning.jsonl",
            budget=Budget(trials=6),
            timing=QUICK,
        )
    assert (result.records, result.failures) == (6, 0)
    warning = next(event.text for event in said if event.kind == "warning")
    assert warning.startswith("'there' is put aside, here goes on: ")
    assert "second board" in warning
    assert result.boards == {"here": 6, "there": 0}


def test_two_boards_share_the_work_and_a_killed_server_loses_nothing(
    servers: Servers, host: Board, tmp_path: Path
) -> None:
    """Each measures some; the records are all candidates of both kernels, each once."""
    said: list[str] = []

    def kill_one(event: events.Event) -> None:
        if event.kind == "advance":
            said.append(event.text)
            if event.text.startswith("6 measured"):
                servers.kill(servers.opened[0])

    database = tmp_path / "tuning.jsonl"
    tasks = [task(), task(32)]
    openers = {"pi-a": servers.open, "pi-b": servers.open}
    with events.listening(kill_one):
        result = tune_tasks(
            tasks, host, openers, database=database, budget=Budget(trials=99), timing=QUICK
        )
    assert len(servers.opened) == 3, "one for each board, and one in place of the killed one"
    records = read_records(database)
    assert len({(one.workload, one.candidate) for one in records}) == len(records) == result.records
    assert result.ended == "exhausted"
    assert (result.failures, sum(result.boards.values())) == (0, result.records)
    assert min(result.boards.values()) > 1
    assert {one.board for one in records} == {"host"}
    assert "best so far" in said[-1] and "pi-a" in said[-1] and "pi-b" in said[-1]


def test_a_board_that_is_gone_for_good_leaves_the_rest_to_the_other(
    servers: Servers, host: Board, tmp_path: Path
) -> None:
    first = []

    @contextmanager
    def once() -> Iterator[Endpoint]:
        if first:
            raise BoardError("no answer from pi-b")
        with servers.open() as endpoint:
            first.append(servers.opened[-1])
            yield endpoint

    heard: list[events.Event] = []

    def kill_it(event: events.Event) -> None:
        heard.append(event)
        if event.text.startswith("4 measured") and first:
            servers.kill(first[0])

    database = tmp_path / "tuning.jsonl"
    openers = {"pi-a": servers.open, "pi-b": once}
    with events.listening(kill_it):
        result = tune_tasks([task(), task(32)], host, openers, database=database, timing=QUICK)
    assert result.ended == "exhausted" and result.failures == 0
    assert len(read_records(database)) == result.records == sum(result.boards.values())
    warnings = [event.text for event in heard if event.kind == "warning"]
    assert warnings == ["'pi-b' is put aside, pi-a goes on: no answer from pi-b"]
    assert "pi-b" not in heard[-2].text, "what is shown are the boards that are left"


def test_without_any_board_left_it_says_how_to_go_on(
    servers: Servers, host: Board, tmp_path: Path
) -> None:
    @contextmanager
    def absent() -> Iterator[Endpoint]:
        raise BoardError("nobody there", "switch it on")
        yield

    database = tmp_path / "tuning.jsonl"
    for openers in ({"pi-a": absent}, {"pi-a": absent, "pi-b": absent}):
        with pytest.raises(BoardError, match="nobody there") as refused:
            tune_tasks([task()], host, openers, database=database, timing=QUICK)
        assert refused.value.hint.startswith("switch it on; then give the same command")
    assert "no board is left" in refused.value.message


@pytest.mark.parametrize("boards", [1, 2])
def test_an_error_while_measuring_ends_the_tuning(
    servers: Servers, host: Board, tmp_path: Path, boards: int
) -> None:
    """A full disk, an interrupt: measuring stops at once, also on the other boards."""

    def interrupt(event: events.Event) -> None:
        if event.text.startswith("2 measured"):
            raise KeyboardInterrupt

    database = tmp_path / "tuning.jsonl"
    openers = {f"board {index}": servers.open for index in range(boards)}
    with events.listening(interrupt), pytest.raises(KeyboardInterrupt):
        tune_tasks([task()], host, openers, database=database, timing=QUICK)
    assert 2 <= len(read_records(database)) <= 2 + farm.SPAN * (boards - 1)
    left = [" ".join(child.cmdline()) for child in psutil.Process().children()]
    assert not [command for command in left if "edgecompress.compile.worker" in command]


def test_a_budget_of_seconds_ends_the_tuning(servers: Servers, host: Board, tmp_path: Path) -> None:
    start = time.monotonic()
    result = tune_tasks(
        [task()],
        host,
        servers.open,
        database=tmp_path / "tuning.jsonl",
        budget=Budget(seconds=1),
        timing=replace(QUICK, cooldown_s=0.5),
    )
    assert result.ended == "seconds"
    assert result.records < SPACE
    assert time.monotonic() - start < 30


def test_tuning_wants_a_board(host: Board, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        tune_tasks([task()], host, {}, database=tmp_path / "tuning.jsonl")


def test_a_file_that_is_no_database_is_left_as_it_is(host: Board, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("what I know\nof tuning")
    with pytest.raises(InputError, match="line 1"):
        tune_tasks([task()], host, {}, database=notes)
    assert notes.read_text() == "what I know\nof tuning"
