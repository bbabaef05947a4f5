"""The runner as a board runs it: a process of its own, a real compiled network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress.bench.deploy import runner_zip
from edgecompress.runner.bundle import open_bundle
from edgecompress.runner.cascade import classify
from edgecompress.runner.measure import latency, summary
from edgecompress.runner.photo import decode
from edgecompress.runner.protocol import read_lines
from edgecompress.runner.records import photo_id, read_records
from edgecompress.runner.run import _write_whole
from edgecompress.runner.spec import cascade_from_json


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runner") / "runner.pyz"
    path.write_bytes(runner_zip())
    return path


# One short pass over the photos.
QUICK = ("--runs", "1", "--seconds", "0", "--retries", "0", "--cool-seconds", "0")


def _command(runner: Path, bundle: Path, out: Path, *options: Any) -> list[str]:
    command = [sys.executable, str(runner), str(bundle), "--out", str(out)]
    command += ["--unpack", str(out.parent / "bundles"), *QUICK]
    return [*command, *map(str, options)]


def _run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        _command(*arguments),
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


def _events(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_from_photos_to_measurements(
    runner: Path, tiny: Any, photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--photos", photo_files[0].parent, "--runs", 16, "--profile", 2, "--threads", 1]
    events = _events(_run(runner, tiny.bundle, out, *options))
    assert [e["event"] for e in events] == [
        "checked", "loaded", *["photo"] * len(photo_files), "run", "pass",
    ]  # fmt: skip
    photo = events[-3]
    assert photo["done"] == photo["total"] == len(photo_files)
    records = read_records(out / "predictions.jsonl")
    assert set(records) == {photo_id(path) for path in photo_files}
    stages = {record.outcome.stage for record in records.values() if record.outcome}
    assert stages == {0, 1}, "the photos of the fixture end at both stages"
    measured = json.loads((out / "measurements.json").read_text())
    assert measured["photos"] == len(photo_files)
    assert measured["latency_ms"]["total"]["n"] == 2 * len(photo_files)
    assert measured["latency_ms"]["big"]["n"] < measured["latency_ms"]["small"]["n"]
    runs = list(read_lines(out / "latency.jsonl", measured["latency"]["counted"]))
    assert [photo for photo, _ in runs] == 2 * [photo_id(path) for path in sorted(photo_files)]
    for timings in (one for _, one in runs):
        parts = sum(value for part, value in timings.items() if part != "total")
        assert parts <= timings["total"] * 1.001
    assert 10 < measured["peak_rss_mib"] < 500
    assert measured["options"]["threads"] == 1
    operators = measured["operators"]["value"]
    assert set(operators) == {"box", "small", "big"}
    assert all(one["n"] == 2 for one in operators["small"])
    for sample in measured["telemetry"].values():
        nulls = {key for key, value in sample.items() if value is None}
        assert nulls == set(sample["reasons"])


def test_the_compiled_networks_answer_as_numpy_does(
    runner: Path, tiny: Any, photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    _events(_run(runner, tiny.bundle, tmp_path / "out", "--photos", *photo_files))
    cascade = cascade_from_json(json.loads((tiny.folder / "cascade.json").read_text()))

    def network(name: str, tensor: np.ndarray) -> np.ndarray:
        side, box = tensor.shape[1], name == "box"
        weights = np.random.default_rng(side).normal(size=(3, 4 if box else 10))
        weights = (weights / (400 if box else 60)).astype(np.float32)
        output = tensor.astype(np.float32).mean(axis=(1, 2)) @ weights
        return 1 / (1 + np.exp(-(output + np.array([-1, -1, 1, 1])))) if box else output

    for path in photo_files:
        record = read_records(tmp_path / "out/predictions.jsonl")[photo_id(path)]
        expected = classify(cascade, decode(path), network)
        assert record.outcome is not None
        assert (record.outcome.stage, record.outcome.box) == (expected.stage, expected.box)
        np.testing.assert_allclose(record.outcome.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_from_an_unpacked_bundle_with_nothing_else(
    tiny: Any, photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    folder = open_bundle(tiny.bundle, tmp_path).folder
    command = [sys.executable, "-m", "runner", ".", "--photos", str(photo_files[0]), *QUICK]
    for _ in range(2):  # what Python leaves behind the first time does not spoil the second
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "out")],
            cwd=folder, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_damaged_photos_are_counted_not_fatal(
    runner: Path, tiny: Any, photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(photo_files[0].read_bytes()[:300])
    paths = [damaged, *photo_files[:2], tmp_path / "missing.jpg"]
    events = _events(_run(runner, tiny.bundle, tmp_path / "out", "--photos", *paths))
    photos = [e for e in events if e["event"] == "photo"]
    assert [bool(e.get("error")) for e in photos] == [True, False, False, True]
    measured = json.loads((tmp_path / "out/measurements.json").read_text())
    assert (measured["photos"], measured["photos_failed"]) == (2, 2)
    assert measured["latency_ms"]["total"]["n"] == 2


def test_a_killed_run_goes_on(
    runner: Path, tiny: Any, many_photos: tuple[Path, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--photos", *many_photos]
    process = subprocess.Popen(
        _command(runner, tiny.bundle, out, *options), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("done") == 3:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait(10)
    process.stdout.close()
    predictions = out / "predictions.jsonl"
    before = predictions.read_text()
    done_before = before.count("\n")
    assert 3 <= done_before < len(many_photos)
    predictions.write_text(before + '{"photo":"torn')
    events = _events(_run(runner, tiny.bundle, out, *options))
    assert events[1]["resumed"] == done_before
    assert [e["event"] for e in events].count("photo") == len(many_photos) - done_before
    assert predictions.read_text().startswith(before)
    assert len(read_records(predictions)) == len(many_photos)
    measured = json.loads((out / "measurements.json").read_text())
    assert measured["photos"] == len(many_photos)
    assert measured["latency_ms"]["total"]["n"] == measured["latency"]["photos"] == 20
    assert measured["photos_resumed"] == done_before


def test_a_throttled_pass_is_repeated_and_the_good_one_counts(
    runner: Path, tiny: Any, photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    """The board's own program says so until the first pass is over."""
    flags, command = tmp_path / "flags", tmp_path / "bin/vcgencmd"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\n[ "$1" = get_throttled ] && cat {flags}\n')
    command.chmod(0o755)
    flags.write_text("throttled=0x50005\n")
    options = ["--photos", *photo_files, "--seconds", 0.3, "--retries", 5]
    process = subprocess.Popen(
        _command(runner, tiny.bundle, tmp_path / "out", *options),
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": f"{command.parent}:{os.environ['PATH']}"},
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(json.loads(line))
        if said[-1]["event"] == "pass":
            flags.write_text("throttled=0x50000\n")
    assert process.wait(60) == 0
    passes = [event for event in said if event["event"] == "pass"]
    assert passes[0]["disturbed"][0] == "the board was throttled (under-voltage now, throttled now)"
    measured = json.loads((tmp_path / "out/measurements.json").read_text())
    told = measured["latency"]
    assert len(told["passes"]) == len(passes) > 1, "all are kept"
    assert told["counted"] > 1
    own = told["passes"][told["counted"] - 1]
    assert own["throttled"] == []
    assert measured["latency_ms"]["total"] == own["total_ms"]
    runs = list(read_lines(tmp_path / "out/latency.jsonl", told["counted"]))
    assert len(runs) == own["runs"]
    assert "throttled" not in {doubt["kind"] for doubt in told["doubts"]}


def _kill_while_it_measures(command: list[str]) -> None:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "run":
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait(10)
    process.stdout.close()


def test_latency_that_was_cut_off_is_measured_anew(
    runner: Path, tiny: Any, photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--photos", *photo_files, "--seconds", 2]
    _kill_while_it_measures(_command(runner, tiny.bundle, out, *options))
    before = (out / "predictions.jsonl").read_text()
    assert before.count("\n") == len(photo_files)
    assert not (out / "measurements.json").exists()
    events = _events(_run(runner, tiny.bundle, out, *options))
    assert "photo" not in {event["event"] for event in events}
    assert (out / "predictions.jsonl").read_text() == before, "no photo was answered again"
    measured = json.loads((out / "measurements.json").read_text())
    (one,) = measured["latency"]["passes"]
    assert one["ended_s"] - one["began_s"] >= 2
    assert measured["series"]["samples"]


def test_more_photos_that_were_cut_off_are_measured_to_the_end(
    runner: Path, tiny: Any, photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    """What was measured with fewer photos does not count for all of them."""
    out = tmp_path / "out"
    quick = ["--seconds", 1]
    _events(_run(runner, tiny.bundle, out, "--photos", *photo_files[:3], *quick))
    options = ["--photos", *photo_files, *quick]
    _kill_while_it_measures(_command(runner, tiny.bundle, out, *options))
    assert not (out / "latency.jsonl").exists()
    events = _events(_run(runner, tiny.bundle, out, *options))
    assert "pass" in {event["event"] for event in events}
    assert json.loads((out / "measurements.json").read_text())["photos"] == len(photo_files)


def test_an_empty_file_of_measurements_is_no_finished_run(
    runner: Path, tiny: Any, photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    """A power cut may leave one."""
    options = ["--photos", *photo_files[:2], "--latency-photos", 0]
    _events(_run(runner, tiny.bundle, tmp_path / "out", *options))
    measured = tmp_path / "out/measurements.json"
    measured.write_bytes(b"")
    _events(_run(runner, tiny.bundle, tmp_path / "out", *options))
    assert json.loads(measured.read_text())["photos"] == 2


def test_a_whole_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []

    def fsync(handle: int) -> None:
        place = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append((place.name, (tmp_path / "whole").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    _write_whole(tmp_path / "whole", "text")
    assert synced == [(".whole.new", False), (tmp_path.name, True)]


def test_without_latency(
    runner: Path, tiny: Any, photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    options = ["--photos", *photo_files, "--latency-photos", 0]
    events = _events(_run(runner, tiny.bundle, tmp_path / "out", *options))
    assert "pass" not in {event["event"] for event in events}
    measured = json.loads((tmp_path / "out/measurements.json").read_text())
    assert measured["latency"] == {"reason": "not asked for", "photos": 0}
    assert measured["latency_ms"] == {}


def test_runs_do_not_mix(
    runner: Path, tiny: Any, photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    first = ["--photos", photo_files[0]]
    _events(_run(runner, tiny.bundle, tmp_path / "out", *first))
    done = _run(runner, tiny.bundle, tmp_path / "out", *first, "--runs", 3)
    assert done.returncode == 3
    assert "other options" in json.loads(done.stderr)["error"]


def test_predictions_of_unknown_settings_are_left_alone(
    runner: Path, tiny: Any, photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    """As in a job's folder of the host's, or where a power cut has emptied settings.json."""
    predictions = tmp_path / "out/predictions.jsonl"
    predictions.parent.mkdir()
    predictions.write_text('{"photo":"x","error":"e","error_kind":"input"}\n')
    for _ in range(2):
        done = _run(runner, tiny.bundle, tmp_path / "out", "--photos", photo_files[0])
        assert (done.returncode, json.loads(done.stderr)["kind"]) == (3, "input")
        assert predictions.read_text().count("\n") == 1
        (tmp_path / "out/settings.json").write_bytes(b"")
    predictions.write_bytes(b"")
    options = ["--photos", photo_files[0], "--latency-photos", 0]
    _events(_run(runner, tiny.bundle, tmp_path / "out", *options))


def test_exit_codes_and_one_line_errors(runner: Path, tiny: Any, tmp_path: Path) -> None:
    short = tmp_path / "short.tar"
    short.write_bytes(tiny.bundle.read_bytes()[:50_000])
    broken = tmp_path / "photo.jpg"
    broken.write_bytes(b"no photo")
    for bundle, options, status, kind in (
        (short, ["--photos", broken], 4, "bundle"),
        (tmp_path / "none.tar", ["--check"], 4, "bundle"),
        (tiny.bundle, ["--photos", broken], 3, "input"),
        (tiny.bundle, ["--list", tmp_path / "none.tsv"], 3, "input"),
    ):
        done = _run(runner, bundle, tmp_path / "out", *options)
        assert done.returncode == status
        told = json.loads(done.stderr)
        assert told["kind"] == kind
        assert told["hint"] or kind == "input"
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert _run(runner, tiny.bundle, tmp_path / "out").returncode == 2


@pytest.mark.parametrize("option", ["--cool-below-c", "--cool-seconds", "--seconds"])
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_numbers_that_no_json_holds_are_refused_at_once(
    runner: Path, tiny: Any, tmp_path: Path, option: str, value: str
) -> None:
    done = _run(runner, tiny.bundle, tmp_path / "out", "--photos", tmp_path, f"{option}={value}")
    assert done.returncode == 2
    assert f"argument {option}: invalid" in done.stderr
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_used_are_one_line(
    runner: Path, tiny: Any, photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    options = ["--latency-photos", 0, "--photos"]
    _events(_run(runner, tiny.bundle, tmp_path / "out", *options, photo_files[0]))
    (tmp_path / "out/predictions.jsonl").unlink()
    (tmp_path / "out/predictions.jsonl").mkdir()
    for photo, status, kind in (("x" * 300, 3, "input"), (photo_files[0], 4, "disk")):
        done = _run(runner, tiny.bundle, tmp_path / "out", *options, photo)
        told = json.loads(done.stderr)
        assert (done.returncode, told["kind"]) == (status, kind)
        assert "ls -ld" in told["hint"]


@pytest.mark.parametrize("way", ["Ctrl-C", "no reader"])
def test_an_end_from_outside_is_one_line(
    way: str, runner: Path, tiny: Any, many_photos: tuple[Path, ...], tmp_path: Path
) -> None:
    options = ["--photos", *many_photos, "--seconds", 20]
    with subprocess.Popen(
        _command(runner, tiny.bundle, tmp_path / "out", *options),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Tests that run in a shell's background have it ignored, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        while json.loads(process.stdout.readline())["event"] != "photo":
            pass
        if way == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            process.stdout.close()
        told = json.loads(process.stderr.read())
    status, kind = (130, "interrupt") if way == "Ctrl-C" else (4, "output")
    assert (process.returncode, told["kind"]) == (status, kind)
    assert "goes on" in told["hint"]


def test_summary_by_hand() -> None:
    points = {"p10": 10.0, "p50": 50.0, "p90": 90.0, "p99": 99.0}
    assert summary(range(101)) == {**points, "mean": 50.0, "n": 101}
    assert summary([]) == {**dict.fromkeys(points), "mean": None, "n": 0}
    parts = latency([{"a": 1.0, "total": 2.0}, {"total": 4.0}])
    assert (parts["a"]["n"], parts["total"]["mean"]) == (1, 3.0)
