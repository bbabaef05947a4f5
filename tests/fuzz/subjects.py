"""Everything that reads what others wrote: each takes one damaged file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgecompress.rpc.process import Completed

from . import seeds as made


@dataclass(frozen=True)
class Subject:
    """What is fuzzed.

    Attributes:
        form: how its files are damaged (`mutate.mutate`).
        seeds: good ones.
        read: reads a damaged one, and does with it what is done with a good one. Gets the file and
            an empty folder.
    """

    form: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path, Path], object]


def subjects(folder: Path) -> dict[str, Subject]:
    """All of them, by name. `folder` is that of the seeds."""

    def of(name: str) -> bytes:
        return (folder / name).read_bytes()

    report, board = of("report.json"), folder / "board"
    measured = of("board/measurements.json")
    return {
        "bundle": Subject("tar", (of("small.tar"),), _bundle),
        "deployed bundle": Subject("tar", (of("small.tar"),), _deployed),
        "manifest": Subject("json", (of("manifest.json"), of("signed.json")), _manifest),
        "signature": Subject("bytes", (of("manifest.sig"),), _signature(of("signed.json"))),
        "trusted keys": Subject("bytes", (of("trusted-keys"),), _trusted),
        "cascade": Subject("json", (of("cascade.json"),), _cascade),
        "report": Subject("json", (report,), _report(folder / "report.json")),
        "measurements": Subject("json", (measured,), _measurements(folder, "measurements.json")),
        "predictions": Subject(
            "lines", (of("board/predictions.jsonl"),), _measurements(folder, "predictions.jsonl")
        ),
        "latency": Subject(
            "lines", tuple(map(Path.read_bytes, board.glob("latency.jsonl"))),
            _measurements(folder, "latency.jsonl"),
        ),
        "records": Subject("lines", (of("board/predictions.jsonl"),), _records),
        "history": Subject("bytes", (of("history.sqlite"),), _history),
        "inventory": Subject("toml", (made.INVENTORY,), _inventory),
        "board file": Subject("toml", (made.board_file(),), _board_file),
        "job": Subject("toml", made.jobs(), _job),
        "ssh config": Subject("bytes", (made.SSH_CONFIG,), _ssh_config),
        "probe answer": Subject("json", (made.probe_answer(),), _probe),
        "cpus": Subject("json", (made.CPUS,), _cpus),
        "lease": Subject("json", (made.LEASE,), _lease),
        "runner's error": Subject("json", (made.RUNNER_ERROR,), _runner_error),
        "tuning records": Subject("lines", (made.tuning_records(),), _tuning),
        "photo list": Subject("bytes", (made.photo_list(),), _photo_list),
        "photo": Subject(
            "bytes", tuple(map(Path.read_bytes, sorted((folder / "photos").iterdir()))), _photo
        ),
    }  # fmt: skip


def _bundle(path: Path, folder: Path) -> object:
    from edgecompress.runner.bundle import open_bundle
    from edgecompress.runner.signature import Trust

    opened = open_bundle(path, folder, trust=Trust())
    return open_bundle(opened.folder, folder, trust=Trust())


def _deployed(path: Path, _: Path) -> object:
    from edgecompress.bench.deploy import manifest_sha256, read_manifest

    return manifest_sha256(path), read_manifest(path)


def _manifest(path: Path, _: Path) -> object:
    from edgecompress.runner.machine import check_fit, this_machine
    from edgecompress.runner.manifest import manifest_from_bytes

    manifest = manifest_from_bytes(path.read_bytes())
    assert manifest_from_bytes(manifest.to_bytes()) == manifest
    return check_fit(manifest, this_machine())


def _signature(manifest: bytes) -> Callable[[Path, Path], object]:
    from edgecompress.runner.signature import Trust, check_signature

    return lambda path, _: check_signature(manifest, path.read_bytes()[:2000], Trust())


def _trusted(path: Path, _: Path) -> object:
    from edgecompress.runner.signature import parse_trust, read_trust, trust_text

    trust = read_trust((path,))
    assert parse_trust(trust_text(trust).encode(), "x") == trust
    return trust


def _cascade(path: Path, _: Path) -> object:
    from edgecompress.files import read_json
    from edgecompress.runner.spec import cascade_from_json

    cascade = cascade_from_json(read_json(path))
    assert cascade_from_json(json.loads(json.dumps(cascade.to_json()))) == cascade
    return cascade


def _report(good: Path) -> Callable[[Path, Path], object]:
    from edgecompress.bench.benchmark_json import benchmark_document
    from edgecompress.bench.compare import compare
    from edgecompress.bench.compare_page import render_comparison
    from edgecompress.bench.history import entry_of
    from edgecompress.bench.markdown import comparison_markdown
    from edgecompress.bench.page import render_page
    from edgecompress.bench.report import read_report, write_report
    from edgecompress.bench.report_markdown import report_markdown

    def read(path: Path, folder: Path) -> object:
        first, second = read_report(path), read_report(good)
        comparison = compare(first, second, (path, good))
        write_report(first, folder / "again.json")
        return (
            render_page(first),
            report_markdown(first),
            render_comparison(comparison),
            comparison_markdown(comparison),
            benchmark_document(first, {}),
            entry_of(first, "x"),
            read_report(folder / "again.json"),
        )

    return read


def _measurements(root: Path, name: str) -> Callable[[Path, Path], object]:
    """A run's folder in which one file is damaged, and the report of it."""
    from edgecompress.bench.board_run import read_board_run
    from edgecompress.bench.report import Material, build_report
    from edgecompress.compress.data.photos import PhotoSet
    from edgecompress.targets import load_board

    paths = tuple(sorted((root / "photos").iterdir()))
    photos = PhotoSet("photos", paths, (0, 1, 2), tuple(f"class {i}" for i in range(10)))
    reference = dict(read_board_run(root / "board").records)
    board = load_board("host")

    def read(path: Path, folder: Path) -> object:
        shutil.copytree(root / "board", folder, dirs_exist_ok=True)
        shutil.copy(path, folder / name)
        run = read_board_run(folder)
        return build_report(Material("t", board, root / "tiny.tar", photos, run, reference))

    return read


def _records(path: Path, _: Path) -> object:
    from edgecompress.bench.answers import whole_records
    from edgecompress.runner.records import drop_torn_line, outcomes, read_records

    known = list(whole_records(path))
    drop_torn_line(path)
    return known, outcomes(read_records(path))


def _history(path: Path, _: Path) -> object:
    from edgecompress.bench.history import by_series, read, sparkline
    from edgecompress.bench.history_page import render_history

    entries = read(path)
    if entries:
        render_history(entries, "top1")
    return sparkline([one.number("top1") for one in entries]), by_series(entries)


def _inventory(path: Path, _: Path) -> object:
    from edgecompress.rpc.ssh_config import resolve
    from edgecompress.targets.inventory import VARIABLE, entries

    os.environ[VARIABLE] = str(path)
    return [resolve(entry) for entry in entries()]


def _board_file(path: Path, folder: Path) -> object:
    from edgecompress.targets import load_board
    from edgecompress.targets.board import forget

    os.environ["EDGECOMPRESS_CONFIG"] = str(folder)
    (folder / "boards").mkdir()
    shutil.copy(path, folder / "boards/mine.toml")
    forget()
    board = load_board("mine")
    return board.on("efficient"), board.tvm_target()


def _job(path: Path, _: Path) -> object:
    from edgecompress.cli.job import compress_config, load_job, pretrained_config

    job = load_job(path)
    return compress_config(job) if job.compress is not None else pretrained_config(job)


def _ssh_config(path: Path, folder: Path) -> object:
    from edgecompress.rpc.ssh_config import resolve
    from edgecompress.targets import BoardEntry

    os.environ["HOME"] = str(folder)
    (folder / ".ssh").mkdir()
    shutil.copy(path, folder / ".ssh/config")
    return [resolve(BoardEntry("x", "rpi4b", host)) for host in ("attic", "one", "else")]


def _session(path: Path) -> Any:
    """A board that answers with what stands in a file."""
    text = path.read_bytes().decode("utf-8", "replace")
    board = SimpleNamespace(telemetry=SimpleNamespace(temperature="", throttled=()), kind="host")
    return SimpleNamespace(
        name="x", workdir="/x", board=board, run=lambda *_, **__: Completed(0, text, text)
    )


def _probe(path: Path, _: Path) -> object:
    from edgecompress.rpc.probe import evidence, probe
    from edgecompress.targets.board import parse_board
    from edgecompress.targets.describe import describe

    session = _session(path)
    probe(session)
    description = describe(evidence(session))
    return parse_board(description.toml, "x")


def _cpus(path: Path, _: Path) -> object:
    from edgecompress.bench.placement import placement
    from edgecompress.targets import load_board

    session = _session(path)
    session.board = load_board("rk3588")
    return placement(session, "fast")


def _lease(path: Path, _: Path) -> object:
    from edgecompress.rpc.lease import standing

    return str(standing(path.read_bytes().decode("utf-8", "replace"), "b", 10.0))


def _runner_error(path: Path, _: Path) -> object:
    from edgecompress.bench.deploy import runner_error

    session = _session(path)
    return str(runner_error(session, session.run()))


def _tuning(path: Path, _: Path) -> object:
    from edgecompress.compile.database import open_database
    from edgecompress.targets import load_board

    database = open_database(path, load_board("host"))
    return len(database)


def _photo_list(path: Path, _: Path) -> object:
    from edgecompress.runner.run import listed_photos

    return listed_photos(path)


def _photo(path: Path, _: Path) -> object:
    from edgecompress.runner.photo import decode, sample

    image = decode(path)
    return sample(image, (0.0, 0.0, float(image.width), float(image.height)), 16)
