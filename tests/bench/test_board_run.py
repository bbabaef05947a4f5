"""Photos through a board and back, and what a user is told when that cannot be.

The board is `host`, which takes the same way as the others; full disks and foreign processors are
the virtual board's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import platform
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgecompress import events
from edgecompress.bench import board_photos, spread
from edgecompress.bench import board_run as board_run_module
from edgecompress.bench.accuracy import match
from edgecompress.bench.board_photos import PHOTOS, identify
from edgecompress.bench.board_run import BoardRun, read_board_run, run_on_boards
from edgecompress.bench.deploy import (
    PYTHON,
    deploy,
    manifest_sha256,
    runner_error,
    runner_zip,
    upload_runner,
)
from edgecompress.cli.job import BenchTable, LatencyTable
from edgecompress.compress.data.photos import PhotoSet
from edgecompress.errors import BoardError, CompileError, EdgeCompressError, InputError
from edgecompress.events import Event
from edgecompress.rpc import Session, connect, virtual
from edgecompress.rpc.local import LocalSession
from edgecompress.rpc.process import Completed
from edgecompress.rpc.ssh import SshSession
from edgecompress.runner.records import Record, read_records
from edgecompress.targets import load_board

LATENCY = LatencyTable(runs=1, seconds=0, retries=0, cool_seconds=0)
OPTIONS = BenchTable(threads=1, warmup=1, latency=LATENCY)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """The board `host`, with nothing on it."""
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path / "cache"))
    with connect("host") as opened:
        yield opened


@pytest.fixture
def told() -> Iterator[list[Event]]:
    """The events of the test."""
    heard: list[Event] = []
    with events.listening(heard.append):
        yield heard


def run_on_host(bundle: Path, photos: PhotoSet, out: Path, options: Any = OPTIONS) -> BoardRun:
    """As a job does it."""
    return run_on_boards({"host": partial(connect, "host")}, bundle, photos, out, options)


def begun(told: list[Event]) -> list[str]:
    return [event.task for event in told if event.kind == "begin"]


def on_board(session: Session, folder: str) -> dict[str, int]:
    """The files of a folder of the board, and when each was written."""
    root = Path(session.workdir, folder)
    return {path.name: path.stat().st_mtime_ns for path in root.iterdir()}


def said(records: Mapping[str, Record]) -> dict[str, Any]:
    """Records without their times, which no two runs share."""
    return {
        key: {**record.to_json(), "timings_ms": None, "error": None}
        for key, record in records.items()
    }


def test_the_same_as_the_runner_alone(
    tiny: Any, photos: PhotoSet, session: Session, tmp_path: Path
) -> None:
    run = run_on_host(tiny.bundle, photos, tmp_path / "out")
    runner = tmp_path / "runner.pyz"
    runner.write_bytes(runner_zip())
    command = [sys.executable, runner, tiny.bundle, "--out", tmp_path / "direct", "--threads", "1"]
    command += ["--unpack", tmp_path / "unpacked", "--latency-photos", "0"]
    command += ["--photos", *photos.paths]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)
    alone = read_records(tmp_path / "direct/predictions.jsonl")
    assert said(run.records) == said(alone)
    assert sum(record.outcome is not None for record in run.records.values()) == 8
    assert (run.measurements["photos"], run.measurements["photos_failed"]) == (8, 2)
    again = read_board_run(tmp_path / "out")
    assert said(again.records) == said(run.records)
    assert again.measurements == run.measurements
    assert not list(Path(session.workdir, "runs").iterdir()), "what was fetched is cleared away"


def test_a_second_run_reuses_what_is_there(
    tiny: Any, photos: PhotoSet, session: Session, tmp_path: Path, told: list[Event]
) -> None:
    first = run_on_host(tiny.bundle, photos, tmp_path / "1")
    there = on_board(session, PHOTOS)
    assert set(there) == {key for key, path in identify(photos.paths).items() if path}
    assert "copying tiny.tar to host" in begun(told)
    told.clear()
    second = run_on_host(tiny.bundle, photos, tmp_path / "2")
    assert not [task for task in begun(told) if task.startswith("copying")]
    assert on_board(session, PHOTOS) == there
    assert said(second.records) == said(first.records)
    # It is a run of its own nevertheless, not the first one's answers.
    assert second.measurements["photos_resumed"] == 0
    # One more photo is one more copied.
    extra = tmp_path / "extra.jpg"
    extra.write_bytes(photos.paths[0].read_bytes() + b"\0")
    more = dataclasses.replace(photos, paths=(*photos.paths, extra), targets=(*photos.targets, 0))
    third = run_on_host(tiny.bundle, more, tmp_path / "3")
    now = on_board(session, PHOTOS)
    assert {key: now[key] for key in there} == there and len(now) == len(there) + 1
    assert len(third.records) == len(first.records) + 1


def test_a_photo_twice_is_one_record_and_two_answers(
    tiny: Any, photo_files: tuple[Path, ...], session: Session, tmp_path: Path
) -> None:
    twice = PhotoSet("twice", (*photo_files[:2], photo_files[0]), (0, 1, 5), ("a", "b"))
    run = run_on_host(tiny.bundle, twice, tmp_path / "out")
    assert len(run.records) == run.measurements["photos"] == 2
    assert run.measurements["photos_repeated"] == 1
    answers = match(twice, run.records)
    assert [answer.target for answer in answers] == [0, 1, 5]
    assert answers[0].outcome == answers[2].outcome is not None


def test_what_was_damaged_on_the_board_is_sent_anew(
    tiny: Any, photos: PhotoSet, session: Session, tmp_path: Path
) -> None:
    first = run_on_host(tiny.bundle, photos, tmp_path / "1")
    there = sorted(Path(session.workdir, PHOTOS).iterdir())
    for path in there[:3]:
        path.write_bytes(path.read_bytes()[:20])  # as a board that lost its power leaves it
    assert said(run_on_host(tiny.bundle, photos, tmp_path / "2").records) == said(first.records)
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in there)


def runners() -> list[psutil.Process]:
    """The runners that this process has started, without the shells around them."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "--feed" in process.cmdline() and process.name().startswith("python"):
                found.append(process)
    return found


@pytest.fixture
def many(photos: PhotoSet, many_photos: tuple[Path, ...]) -> PhotoSet:
    """Photos enough that a run can be hit in the middle, and the two that are none."""
    paths = (*many_photos, *photos.paths[-2:])
    return dataclasses.replace(photos, paths=paths, targets=(0,) * len(paths))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses before a board is tried again."""
    monkeypatch.setattr(spread, "_PAUSES_S", (0.05,))


def killing(at: Callable[[Event], bool]) -> Callable[[Event], None]:
    """A listener that kills the runner at some of the photos."""

    def kill(event: Event) -> None:
        if event.kind == "advance" and event.task.startswith("classifying") and at(event):
            for process in runners():
                process.kill()

    return kill


@pytest.mark.usefixtures("session", "impatient")
def test_a_killed_runner_is_started_again(
    tiny: Any, many: PhotoSet, tmp_path: Path, told: list[Event]
) -> None:
    to_come = [300, 120, 3]

    def now(event: Event) -> bool:
        return bool(to_come) and event.done >= to_come[-1] and to_come.pop() > 0

    with events.listening(killing(now)):
        run = run_on_host(tiny.bundle, many, tmp_path / "out")
    warned = [event.text for event in told if event.kind == "warning"]
    assert len(warned) == 3 and all("status 137" in text for text in warned)
    lines = (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["photo"] for line in lines] == list(identify(many.paths))
    assert run.measurements["photos_resumed"] == 0
    counts = (run.measurements["photos"], run.measurements["photos_failed"])
    assert counts == (len(many) - 2, 2)
    assert [one["starts"] for one in run.measurements["boards"]] == [4]
    assert run.measurements["latency_ms"]["total"]["n"] == LATENCY.photos
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"predictions.jsonl", "latency.jsonl", "measurements.json"}


@pytest.mark.usefixtures("session", "impatient")
def test_a_runner_that_never_gets_far_is_given_up(
    tiny: Any, many: PhotoSet, tmp_path: Path, told: list[Event]
) -> None:
    out = tmp_path / "out"
    late, over = threading.Event(), threading.Event()

    def kill_all() -> None:
        while not over.is_set():
            for process in runners() if late.is_set() else ():
                process.kill()
            time.sleep(0.005)

    def watch(event: Event) -> None:
        if event.task.startswith("classifying") and event.done > 40:
            late.set()

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        with events.listening(watch), pytest.raises(BoardError, match="status 137") as refused:
            run_on_host(tiny.bundle, many, out)
    finally:
        over.set()
        killer.join()
    assert "edgecompress doctor" in refused.value.hint
    assert not (out / "predictions.jsonl").exists(), "half a run is no result"
    # Other options and other photos are other runs: nothing of this one is in them.
    fewer = run_on_host(tiny.bundle, many.take(range(4)), tmp_path / "fewer")
    assert (fewer.measurements["photos_resumed"], fewer.measurements["photos"]) == (0, 4)
    told.clear()
    run = run_on_host(tiny.bundle, many, out)
    resumed = run.measurements["photos_resumed"]
    assert 40 <= resumed < len(many)
    start = next(event for event in told if event.task == "classifying on host")
    assert (start.kind, start.done, start.total) == ("begin", resumed, len(many))
    last = [event.text for event in told if event.task == "classifying on host"][-1]
    assert f"{resumed} photos done before" in last and "2 failed" in last
    assert [record.photo for record in run.records.values()] == list(identify(many.paths))
    assert all(record.error_kind in (None, "input") for record in run.records.values())


@pytest.mark.usefixtures("session", "impatient")
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("latency.jsonl", '"total":', '"total":NaN,"new":'),
        ("measurements.json", '"wall_s":', '"new": [NaN], "wall_s":'),
        ("measurements.json", '"identity":', '"person":'),
    ],
)
def test_latency_that_makes_no_sense_is_measured_again(
    tiny: Any,
    photos: PhotoSet,
    tmp_path: Path,
    told: list[Event],
    monkeypatch: pytest.MonkeyPatch,
    *,
    file: str,
    old: str,
    new: str,
) -> None:
    """No answer is lost over it, however often it comes."""
    download, damage = LocalSession.download, [True]

    def damaged(session: LocalSession, remote: str, local: Path) -> None:
        download(session, remote, local)
        if remote.endswith(file) and damage[-1]:
            content = local.read_text()
            assert old in content
            local.write_text(content.replace(old, new))

    monkeypatch.setattr(LocalSession, "download", damaged)
    out = tmp_path / "out"
    with pytest.raises(BoardError, match="'host' measured makes no sense"):
        run_on_host(tiny.bundle, photos, out)
    assert begun(told).count("measuring latency on host") == spread.MOST_TRIES
    told.clear()

    def mend(event: Event) -> None:
        if event.kind == "warning":
            damage.append(False)

    with events.listening(mend):
        run = run_on_host(tiny.bundle, photos, out)
    assert run.measurements["photos_resumed"] == 10 and run.runs
    assert begun(told).count("measuring latency on host") == 2


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"new": {"deep": [1.0, float("inf")]}}, "not JSON compliant"),
        ({"load_ms": float("nan")}, "not JSON compliant"),
        ({"new": "\ud800"}, "surrogates not allowed"),
        ({"load_ms": "fast"}, "load_ms"),
        ({"peak_rss_mib": -1}, "its memory is no number"),
        ({"identity": {}}, "no 'python'"),
        ({"telemetry": {"before": None}}, "NoneType"),
        ({"cpus": None}, "NoneType"),
        ({"latency_ms": []}, "list"),
        ({"latency_ms": {"total": {"n": 1, "p50": "fast"}}}, "p50"),
        ({"latency": {"reason": None, "passes": 7}}, "int"),
        ({"latency": 7}, "int"),
        ({"operators": {"value": {"small": [{"name": "conv"}]}, "reason": None}}, "no 'p50'"),
        ({"operators": {"value": {"small": 7}, "reason": None}}, "int"),
    ],
)
def test_measurements_of_which_no_report_can_be_made_are_refused(
    board_run: BoardRun, tmp_path: Path, changes: dict[str, Any], cause: str
) -> None:
    """All that is used, and what is not used is kept as JSON nevertheless."""
    (tmp_path / "latency.jsonl").touch()
    host, file = load_board("host"), tmp_path / "measurements.json"
    file.write_text(json.dumps(board_run.measurements))
    assert board_run_module._sound("pi", tmp_path, host) == board_run.measurements
    file.write_text(json.dumps({**board_run.measurements, **changes}))
    with pytest.raises(BoardError, match="what 'pi' measured makes no sense") as refused:
        board_run_module._sound("pi", tmp_path, host)
    assert cause in refused.value.message
    assert refused.value.hint == "check the board: edgecompress doctor --board pi"


def test_results_that_are_not_there(tiny: Any, board_run: BoardRun, tmp_path: Path) -> None:
    for missing in ("predictions.jsonl", "latency.jsonl", "measurements.json"):
        folder = tmp_path / missing
        folder.mkdir()
        (folder / "predictions.jsonl").touch()
        (folder / "latency.jsonl").touch()
        (folder / "measurements.json").write_text(json.dumps(board_run.measurements))
        assert not read_board_run(folder).records
        (folder / missing).unlink()
        with pytest.raises(InputError, match=missing):
            read_board_run(folder)


@pytest.mark.usefixtures("session", "impatient")
def test_the_board_is_held_from_the_first_photo_to_the_last_run(
    tiny: Any, photos: PhotoSet, tmp_path: Path
) -> None:
    moves: list[str] = []

    @contextlib.contextmanager
    def opener() -> Iterator[Session]:
        moves.append("taken")
        with connect("host") as session:
            yield session
        moves.append("let go")

    def hear(event: Event) -> None:
        if event.kind in ("begin", "end") and event.task.startswith(("classifying", "measuring")):
            moves.append(f"{event.kind} {event.task.split()[0]}")

    with events.listening(hear):
        run_on_boards({"host": opener}, tiny.bundle, photos, tmp_path / "out", OPTIONS)
    assert moves == [
        *("begin classifying", "taken", "end classifying"),
        *("begin measuring", "end measuring", "let go"),
    ]


@pytest.mark.usefixtures("session", "impatient")
def test_a_board_that_is_lost_between_photos_and_latency_is_waited_for(
    tiny: Any, photos: PhotoSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploys, opened = [], []

    def lost(*arguments: Any) -> Any:
        deploys.append(arguments)
        if len(deploys) == 2:
            raise BoardError("the connection was lost")
        return deploy(*arguments)

    def opener() -> Session:
        opened.append(len(deploys))
        if len(opened) == 2:
            raise BoardError("'host' is in use by a colleague")
        return connect("host")

    monkeypatch.setattr(board_run_module, "deploy", lost)
    run = run_on_boards({"host": opener}, tiny.bundle, photos, tmp_path / "out", OPTIONS)
    assert opened == [0, 2, 2] and run.runs


def test_words_of_a_board_do_not_reach_the_terminal_as_they_are(told: list[Event]) -> None:
    line = json.dumps({"event": "pass", "pass": 1, "disturbed": ["\x1b]0;owned\x07"]})

    class Hostile:
        name, board = "pi", load_board("host")

        def stream(self, *_: Any, on_line: Callable[[str], None], **__: Any) -> Completed:
            on_line(line)
            return Completed(0, "", "")

    board_run_module._stream(Hostile(), [], 1, 0, LATENCY)  # type: ignore[arg-type]
    texts = [event.text for event in told if event.kind == "advance"]
    assert texts == ["pass 1 was disturbed: \\x1b]0;owned\\x07"]


def test_photos_of_a_users_own_stay(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder may be somebody's home."""
    folder = Path(session.workdir, PHOTOS)
    own = {"holiday.jpg", "A" * 64, "a" * 63, "0" * 65}
    (folder / ("b" * 64)).mkdir(parents=True)
    for name in (*own, "f" * 64, "0123456789abcdef" * 4):
        (folder / name).write_text("photo")
    (folder / ("b" * 64) / "inside").touch()
    monkeypatch.setattr(board_photos, "free_bytes", lambda _: 1_000_000)
    shelf = board_photos.Shelf(session, {"c" * 64: 5_000_000})
    assert {path.name for path in folder.iterdir()} == {*own, "b" * 64}
    assert shelf.lacks("f" * 64)


def test_photos_that_are_none_at_all(tiny: Any, session: Session, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    paths = (tmp_path / "broken.jpg", tmp_path / "missing.jpg")
    broken = PhotoSet("broken", paths, (0, 1), ("a", "b"))
    for _ in range(2):  # asking again does not make it a success
        with pytest.raises(InputError, match="none of the 2 photos") as refused:
            run_on_host(tiny.bundle, broken, tmp_path / "out")
        assert refused.value.exit_code == 3
        assert refused.value.hint


def rewritten(
    bundle: Path, into: Path, change: Callable[[dict[str, Any]], None], **files: bytes
) -> Path:
    """The bundle with another manifest, and with other content for some files."""
    with tarfile.open(bundle) as old, tarfile.open(into, "w") as new:
        for member in old:
            content = old.extractfile(member).read()  # type: ignore[union-attr]
            if member.name == "manifest.json":
                manifest = json.loads(content)
                change(manifest)
                content = json.dumps(manifest).encode()
            content = files.get(member.name, content)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return into


def _other_arch(manifest: dict[str, Any]) -> None:
    manifest["target"]["arch"] = "riscv64"


def _other_features(manifest: dict[str, Any]) -> None:
    manifest["target"]["features"] = ["warpdrive"]


def _other_runtime(manifest: dict[str, Any]) -> None:
    manifest["versions"]["tvm"] = "0.1"


def _same(manifest: dict[str, Any]) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (_other_arch, "the bundle is for riscv64"),
        (_other_features, "warpdrive"),
        (_other_runtime, "the bundle's tvm is 0.1"),
    ],
)
def test_a_bundle_of_another_board(
    tiny: Any, session: Session, tmp_path: Path, change: Callable[..., None], cause: str
) -> None:
    bundle = rewritten(tiny.bundle, tmp_path / "other.tar", change)
    refused = _refused(session, bundle)
    assert (type(refused), refused.exit_code) == (BoardError, 4)
    assert refused.message.startswith("host: ")
    assert cause in refused.message
    assert "edgecompress compile" in refused.hint


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.3, 0.99])
def test_a_truncated_bundle(tiny: Any, session: Session, tmp_path: Path, share: float) -> None:
    whole = tiny.bundle.read_bytes()
    (tmp_path / "short.tar").write_bytes(whole[: int(len(whole) * share)])
    refused = _refused(session, tmp_path / "short.tar")
    assert (type(refused), refused.exit_code) == (InputError, 3)
    assert "edgecompress compile" in refused.hint


def test_an_altered_bundle(tiny: Any, session: Session, tmp_path: Path) -> None:
    library = b"\x7fELF and something that was never compiled"
    bundle = rewritten(tiny.bundle, tmp_path / "b.tar", _same, **{"networks/small.so": library})
    refused = _refused(session, bundle)
    assert (type(refused), refused.exit_code) == (InputError, 3)
    assert "networks/small.so" in refused.message
    assert "edgecompress compile" in refused.hint


def test_a_bundle_that_is_not_there(session: Session, tmp_path: Path) -> None:
    refused = _refused(session, tmp_path / "none.tar")
    assert (type(refused), refused.exit_code) == (InputError, 3)
    assert "edgecompress compile" in refused.hint


def _refused(session: Session, bundle: Path) -> EdgeCompressError:
    with pytest.raises(EdgeCompressError) as caught:
        deploy(session, bundle)
    assert "\n" not in caught.value.message
    bundles = Path(session.workdir, "bundles")
    left = list(bundles.iterdir()) if bundles.exists() else []
    assert left == [], "a refused bundle leaves nothing on the board"
    return caught.value


def test_what_was_altered_on_the_board_is_sent_anew(tiny: Any, session: Session) -> None:
    first = deploy(session, tiny.bundle)
    assert first.sent
    assert first.sha256 == manifest_sha256(tiny.bundle)
    assert not deploy(session, tiny.bundle).sent
    library = Path(session.workdir, first.bundle, "networks/small.so")
    content = library.read_bytes()
    library.write_bytes(b"altered")
    assert deploy(session, tiny.bundle).sent
    assert library.read_bytes() == content


def test_a_network_that_fails_on_the_board(tiny: Any, session: Session, tmp_path: Path) -> None:
    """The predictor's library under a member's name: it loads, and gives four numbers, not ten."""
    with tarfile.open(tiny.bundle) as archive:
        box = archive.extractfile("networks/box.so").read()  # type: ignore[union-attr]

    def swap(manifest: dict[str, Any]) -> None:
        sha256 = hashlib.sha256(box).hexdigest()
        manifest["files"]["networks/small.so"] = {"sha256": sha256, "size": len(box)}
        manifest["cascade"]["stages"][0]["resolution"] = 24

    bundle = rewritten(tiny.bundle, tmp_path / "b.tar", swap, **{"networks/small.so": box})
    photo = tmp_path / "photo.png"
    _photo(photo)
    one = PhotoSet("one", (photo,), (0,), ("a",))
    with pytest.raises(CompileError, match=r"'small' gives \[1, 4\], not \[1, 10\]") as refused:
        run_on_host(bundle, one, tmp_path / "out")
    assert refused.value.exit_code == 5
    assert refused.value.hint


def _photo(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(path)


def test_a_disk_that_runs_full_in_the_middle(
    tiny: Any, photo_files: tuple[Path, ...], session: Session
) -> None:
    """A file size limit fails a write as a full disk does."""
    deployed = deploy(session, tiny.bundle)
    command = [PYTHON, deployed.runner, deployed.bundle, "--out", "runs/x", "--threads", "1"]
    command += ["--photos", *map(str, photo_files)]
    done = session.run(["prlimit", "--fsize=2000", *command], timeout=60)
    error = runner_error(session, done)
    assert type(error) is BoardError
    assert "cannot write runs/x/predictions.jsonl" in error.message
    assert error.hint == "free some space on the board"


@pytest.mark.parametrize("stderr", ["", "Killed\n", "{}", "[1]", '{"kind": "x"}', "\ufffd"])
def test_a_runner_that_does_not_say_why(session: Session, stderr: str) -> None:
    error = runner_error(session, Completed(137, "", stderr))
    assert type(error) is BoardError
    assert "'host'" in error.message and "137" in error.message
    assert error.hint == "check the board: edgecompress doctor --board host"


@pytest.mark.board
def test_a_bundle_for_this_machine_on_a_raspberry_pi(virtual_board: SshSession, tiny: Any) -> None:
    if platform.machine() == "aarch64":
        pytest.skip("this machine's bundles are for that processor")
    with pytest.raises(BoardError, match="this machine is aarch64") as refused:
        deploy(virtual_board, tiny.bundle)
    assert platform.machine() in refused.value.message
    assert refused.value.exit_code == 4
    assert "edgecompress compile" in refused.value.hint


@pytest.mark.board
def test_a_board_with_a_full_disk(
    virtual_board: SshSession, tiny: Any, photos: PhotoSet, tmp_path: Path
) -> None:
    if virtual.status("virtual-pi4").mode != "namespaces":
        pytest.skip("the board's small disk needs root here")
    entry = dataclasses.replace(virtual_board.entry, workdir="/run/small-disk/bench")
    with SshSession(entry) as session:
        try:
            for work in (
                lambda: run_on_boards(
                    {"pi": partial(SshSession, entry)},
                    tiny.bundle,
                    photos,
                    tmp_path / "out",
                    OPTIONS,
                ),
                lambda: deploy(session, tiny.bundle),
            ):
                with pytest.raises(BoardError, match="is full") as refused:
                    work()
                assert refused.value.exit_code == 4
                assert "MB free" in refused.value.message
                assert "rm -r" in refused.value.hint
            # The runner fits; nothing of the bundle is left in the way.
            listed = session.run(["sh", "-c", "ls -A bundles 2>/dev/null"], timeout=30)
            assert listed.stdout == ""
            assert upload_runner(session)
        finally:
            session.run(["sh", "-c", "rm -rf ./*"], timeout=30)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
