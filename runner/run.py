"""The run over many photos: every answer is in its file before the next photo is opened.

Each photo is classified once, for accuracy; then a few of them again and again, for latency.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import measure, protocol, telemetry
from .bundle import Bundle
from .cascade import Network, Outcome, classify
from .cpus import Placement
from .engine import Engine
from .errors import RunnerError
from .photo import decode
from .profile import Profile
from .records import Record, drop_torn_line, iter_records, photo_id
from .spec import Cascade

FORMAT = 1
PREDICTIONS = "predictions.jsonl"
LATENCY = "latency.jsonl"
MEASUREMENTS = "measurements.json"
SETTINGS = "settings.json"

Say = Callable[[dict[str, Any]], None]


_PLAN = protocol.Plan()


@dataclasses.dataclass(frozen=True)
class Photo:
    """A file and what its record is filed under (`records.photo_id`)."""

    id: str
    path: Path


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run.

    Attributes:
        threads: CPU threads of the compiled networks.
        cluster: which of the board's cores they run on, one of `cpus.CHOICES`.
        warmup: classifications before each latency pass.
        latency: how latency is measured.
        profile: so many photos are run once more after the rest, with each operator timed.
        every_stage: run the members after the one that answers too, for threshold curves; not
            where latency is measured.
    """

    threads: int
    cluster: str = "fast"
    warmup: int = 3
    latency: protocol.Plan = _PLAN
    profile: int = 0
    every_stage: bool = False


def find_photos(paths: Iterable[Path]) -> "list[Photo]":
    """Files, and the files below folders, each with its id; sorted within a folder."""
    photos = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        photos += [Photo(_identity(one), one) for one in inside]
    return photos


def listed_photos(path: Path) -> "list[Photo]":
    """Photos of a list: one line a photo, its id and its path with a tab between.

    Raises:
        RunnerError: (`input`) the list cannot be read, or a line is not like that.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RunnerError("input", f"cannot read the list {path}: {error}") from error
    photos = []
    for number, line in enumerate(lines, start=1):
        identity, separator, file = line.partition("\t")
        if not separator or not identity:
            raise RunnerError("input", f"{path}, line {number}: not an id, a tab and a path")
        photos.append(Photo(identity, path.parent / file))
    return photos


def _identity(path: Path) -> str:
    try:
        return photo_id(path)
    except RunnerError:
        return str(path)


def run(
    bundle: Bundle,
    photos: Sequence[Photo],
    out: Path,
    options: Options,
    *,
    placement: Placement,
    say: Say,
) -> None:
    """Classify photos and write predictions.jsonl, latency.jsonl and measurements.json into `out`.

    Photos that predictions.jsonl has already are not run again; latency that was not measured to
    the end, or of fewer photos, is measured anew. A photo that cannot be read is a record with its
    error and is counted.

    Args:
        placement: the CPUs that this process has been pinned to.
        say: is told of each photo, with `done` and `total`, and of how the measuring goes.

    Raises:
        RunnerError: the runtime or a network fails; `out` has the predictions of another bundle or
            of other settings; or no photo at all could be classified.
    """
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
    _claim(out, bundle, options)
    predictions = out / PREDICTIONS
    with _writing(predictions):
        drop_torn_line(predictions)
    known = {record.photo for record in iter_records(predictions)}
    todo = list({photo.id: photo for photo in photos if photo.id not in known}.values())
    if not todo and _read_json(out / MEASUREMENTS) is not None:
        _need_an_answer(_tally(predictions), predictions)
        return
    cascade = bundle.manifest.cascade
    started = time.perf_counter()
    before = telemetry.state()
    with telemetry.Sampler(placement.cpus) as sampler:
        engine = Engine(bundle, options.threads, placement.cpus)
        loaded = {"load_ms": round(engine.load_ms, 1), "cpus": placement.cpus}
        say({"event": "loaded", **loaded, "resumed": len(known)})
        began = round(sampler.now(), 3)
        # Those of fewer photos: with them, a run that is killed from now on would look finished.
        with _writing(out):
            for old in (MEASUREMENTS, LATENCY):
                (out / old).unlink(missing_ok=True)
        for index, photo in enumerate(todo):
            record = answer(cascade, engine, photo, options)
            append(predictions, record)
            say(progress(cascade, record, index + 1, len(todo)))
        if todo:
            with _writing(predictions):
                _sync(predictions)
        accuracy = {"began_s": began, "ended_s": round(sampler.now(), 3), "photos": len(todo)}
        latency = _latency(
            cascade,
            engine,
            photos,
            out,
            options=options,
            cpus=placement.cpus,
            sampler=sampler,
            say=say,
        )
    after = telemetry.state()
    result = {
        "format": FORMAT,
        "bundle_sha256": bundle.sha256,
        "identity": measure.identity(placement.available),
        "cpus": dataclasses.asdict(placement),
        "options": dataclasses.asdict(options),
        "telemetry": {"before": before, "after": after},
        "series": sampler.to_json(),
        "accuracy": accuracy,
        "latency": latency.facts,
        "latency_ms": latency.summary,
        "load_ms": round(engine.load_ms, 1),
        "peak_rss_mib": measure.peak_rss_mib(),
        "wall_s": round(time.perf_counter() - started, 3),
        "photos_resumed": len(known),
        "operators": _operators(cascade, engine, photos, options),
        **_tally(predictions),
    }
    _write_whole(out / MEASUREMENTS, json.dumps(result, indent=1, allow_nan=False) + "\n")
    _need_an_answer(result, predictions)


def _need_an_answer(tally: dict[str, Any], predictions: Path) -> None:
    """Refuse a run in which every photo failed, also when it is asked for again."""
    if tally["photos"] == 0 and tally["photos_failed"] > 0:
        raise RunnerError(
            "input",
            f"none of the {tally['photos_failed']} photos could be classified",
            f"see the errors in {predictions}",
        )


def _claim(out: Path, bundle: Bundle, options: Options) -> None:
    """Mark `out` as this run's, or refuse where it is another's: numbers must not mix."""
    settings = {"bundle_sha256": bundle.sha256, **dataclasses.asdict(options)}
    found, predictions = _read_json(out / SETTINGS), out / PREDICTIONS
    # Answers of which nothing tells what gave them, as in a folder of the host's, are another's.
    if found is None and not (predictions.exists() and predictions.stat().st_size):
        _write_whole(out / SETTINGS, json.dumps(settings) + "\n")
    elif found != settings:
        raise RunnerError(
            "input",
            f"{out} holds a run of another bundle or with other options",
            "choose another --out, or remove that folder",
        )


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What came of measuring latency: for measurements.json, and the percentiles by part."""

    facts: dict[str, Any]
    summary: dict[str, Any]


def _latency(
    cascade: Cascade,
    engine: Engine,
    photos: Sequence[Photo],
    out: Path,
    *,
    options: Options,
    cpus: Sequence[int],
    sampler: telemetry.Sampler,
    say: Say,
) -> _Measured:
    """Measure latency by `runner/protocol.py`, and leave every run in latency.jsonl."""
    plan = options.latency
    images = _readable(protocol.choose(_answered(out / PREDICTIONS, photos), plan.photos), photos)
    if not images:
        _write_whole(out / LATENCY, "")
        why = "no photo was answered" if plan.photos else "not asked for"
        return _Measured({"reason": why, "photos": 0}, {})

    def time_photo(photo: str) -> protocol.Timings:
        return _once(cascade, engine, images[photo], every_stage=False).timings_ms

    governors = telemetry.governors(telemetry.SYS, cpus)
    passes: list[protocol.Pass] = []
    coolings: list[protocol.Cooling] = []
    sampler.quicken()
    while True:
        number = len(passes) + 1
        coolings.append(protocol.cool_down(plan, sampler, say))
        _warm_up(cascade, engine, next(iter(images.values())), options.warmup)

        def tell(runs: int, seconds: float, number: int = number) -> None:
            passed = {"runs": runs, "seconds": round(seconds, 1), "of_seconds": plan.seconds}
            say({"event": "run", "pass": number, **passed})

        one = protocol.one_pass(
            list(images), time_photo, plan, sampler, governors=governors, tell=tell
        )
        passes.append(one)
        disturbed = [doubt.text for doubt in protocol.disturbances(one)]
        say({"event": "pass", "pass": number, "runs": len(one.runs), "disturbed": disturbed})
        if not disturbed or len(passes) > plan.retries:
            break
        protocol.pause(plan)
    _write_whole(
        out / LATENCY,
        "".join(
            protocol.write_line(number, photo, timings)
            for number, one in enumerate(passes, start=1)
            for photo, timings in one.runs
        ),
    )
    counted = protocol.best(passes)
    facts = {
        "reason": None,
        "photos": len(images),
        "counted": counted + 1,
        "passes": [_told(one) for one in passes],
        "coolings": [dataclasses.asdict(one) for one in coolings],
        "governor": governors,
        "doubts": [
            dataclasses.asdict(one) for one in protocol.doubts(passes[counted], plan, governors)
        ],
    }
    return _Measured(facts, measure.latency(timings for _, timings in passes[counted].runs))


def _told(one: protocol.Pass) -> dict[str, Any]:
    """A pass without its single runs."""
    return {
        "began_s": one.began_s,
        "ended_s": one.ended_s,
        "runs": len(one.runs),
        "total_ms": measure.summary(timings["total"] for _, timings in one.runs),
        "spread": one.spread,
        "throttled": one.throttled,
        "clock_drop": one.clock_drop,
        "others": one.others,
        "disturbed": [dataclasses.asdict(doubt) for doubt in protocol.disturbances(one)],
    }


def _answered(predictions: Path, photos: Sequence[Photo]) -> list[tuple[str, int]]:
    """The photos that were answered, in the order of `photos`, and by which member."""
    stages = {
        record.photo: record.outcome.stage
        for record in iter_records(predictions)
        if record.outcome is not None
    }
    order = dict.fromkeys(photo.id for photo in photos)
    return [(photo, stages[photo]) for photo in order if photo in stages]


def _readable(chosen: Iterable[str], photos: Sequence[Photo]) -> dict[str, Photo]:
    """Those that can still be read, which leaves their files in memory."""
    known = {photo.id: photo for photo in photos}
    found = {}
    for identity in chosen:
        with contextlib.suppress(RunnerError):
            decode(known[identity].path)
            found[identity] = known[identity]
    return found


def _warm_up(cascade: Cascade, network: Network, photo: Photo, count: int) -> None:
    """Run all networks `count` times on a photo."""
    image = decode(photo.path)
    for _ in range(count):
        classify(cascade, image, network, every_stage=True)


def answer(cascade: Cascade, network: Network, photo: Photo, options: Options) -> Record:
    """Classify a photo; a record with an error where it cannot be read."""
    try:
        return Record(photo.id, _once(cascade, network, photo, options.every_stage))
    except RunnerError as error:
        if error.kind != "input":
            raise
        return Record(photo.id, None, error.message, error.kind)


def _once(cascade: Cascade, network: Network, photo: Photo, every_stage: bool) -> Outcome:
    start = time.perf_counter()
    image = decode(photo.path)
    decode_ms = (time.perf_counter() - start) * 1e3
    outcome = classify(cascade, image, network, every_stage=every_stage)
    timings = {"decode": decode_ms, **outcome.timings_ms}
    timings["total"] += decode_ms
    return dataclasses.replace(outcome, timings_ms=timings)


def append(predictions: Path, record: Record) -> None:
    """Add a record to a file before anything else is done: a killed runner loses none.

    A board that loses its power may lose the last half minute's, until the operating system has
    written them: to wait for the disk after each photo would wear out an SD card.
    """
    # Closed each time: what a full disk did not take must not fail once more at the end.
    with _writing(predictions), predictions.open("a", encoding="utf-8") as stream:
        stream.write(record.to_line())


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell of a disk that takes no more as the runner tells of all errors."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = "free some space on the board" if full else f"see whose it is: ls -ld {path}"
        raise RunnerError("disk", f"cannot write {path}: {error.strerror}", hint) from error


def _write_whole(path: Path, text: str) -> None:
    """Write beside, then rename: a kill or a power cut leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    with _writing(path):
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        temporary.replace(path)
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_json(path: Path) -> Any:
    """What is in a file; None where it is missing, or is what a power cut leaves."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def progress(cascade: Cascade, record: Record, done: int, total: int) -> dict[str, Any]:
    """What is said of a photo once its record is written."""
    line: dict[str, Any] = {"event": "photo", "done": done, "total": total, "photo": record.photo}
    if record.outcome is None:
        return {**line, "error": record.error}
    index, share = record.outcome.top5[0]
    return {
        **line,
        "label": cascade.labels[index],
        "probability": round(share, 4),
        "stage": record.outcome.stage,
        "total_ms": round(record.outcome.timings_ms["total"], 2),
    }


def _operators(
    cascade: Cascade, engine: Engine, photos: Sequence[Photo], options: Options
) -> dict[str, Any]:
    """Times of every operator of every network, or the reason why there are none."""
    if options.profile == 0:
        return {"value": None, "reason": "not asked for"}
    profile = Profile()
    reason = engine.instrument(profile.observe)
    if reason:
        return {"value": None, "reason": reason}
    readable = 0
    for photo in photos:
        try:
            image = decode(photo.path)
        except RunnerError:
            continue
        classify(cascade, image, engine, every_stage=True)
        readable += 1
        if readable == options.profile:
            break
    return {"value": profile.result(), "reason": None}


def _tally(predictions: Path) -> dict[str, Any]:
    """Counts of the whole file: of this process and of those before it."""
    done = failed = 0
    for record in iter_records(predictions):
        done += record.outcome is not None
        failed += record.outcome is None
    return {"photos": done, "photos_failed": failed}
