"""The photos onto a board, the run there, and its results back.

A run that was cut off goes on where it was: what the board has written stays there until all of it
has been fetched. The host's own CPU is a board like the others.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgecompress import events
from edgecompress.errors import BoardError, InputError
from edgecompress.files import read_json, sha256_json

from ..rpc.packages import environment
from ..rpc.session import Session
from ..runner.errors import RunnerError
from ..runner.records import Record, photo_id, read_records
from ..runner.run import MEASUREMENTS, PREDICTIONS
from .deploy import PYTHON, Deployment, deploy, runner_error

PHOTOS = "photos"
COMMAND_S = 300.0
PHOTO_S = 120.0  # an upper bound for one photo, under emulation
BATCH_BYTES = 32 << 20
PROFILED_PHOTOS = 3

# What a prediction takes on the board's disk, with the logits of a thousand classes.
_RECORD_BYTES = 8000

# Unpack beside, then rename each file: a photo is whole on the board or not there.
_RECEIVE = (
    'rm -rf "$2" && mkdir -p "$2" "$3" && tar -xf "$1" -C "$2" && mv "$2"/* "$3"/ && rm -rf "$2"'
)


class Photos(Protocol):
    """What is needed of a photo set (`compress.photos.PhotoSet` is one)."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        ...


class Options(Protocol):
    """What is needed of a job's `[bench]` table; its limits have been applied to the photos."""

    @property
    def threads(self) -> int | None:
        """CPU threads; None is the cores of the cluster."""
        ...

    @property
    def cluster(self) -> str:
        """Which of the board's cores: "fast", "efficient" or "all"."""
        ...

    @property
    def warmup(self) -> int:
        """Classifications before the clock counts."""
        ...

    @property
    def repeat(self) -> int:
        """Classifications of each photo."""
        ...

    @property
    def profile(self) -> bool:
        """Whether operators are timed too."""
        ...


@dataclass(frozen=True)
class BoardRun:
    """What came back from a board.

    Attributes:
        records: photo id to record, as the board wrote it.
        measurements: measurements.json, as the board wrote it (`runner/run.py`).
    """

    records: dict[str, Record]
    measurements: dict[str, Any]


def run_on_board(
    session: Session, bundle: Path, photos: Photos, out: Path, options: Options
) -> BoardRun:
    """Classify photos on a board and fetch predictions.jsonl and measurements.json into `out`.

    A photo that cannot be read is a record with its error, not a failure of the run.

    Raises:
        InputError: the bundle is damaged, or no photo at all could be classified.
        BoardError: the board was lost, is full, or does not fit the bundle.
        CompileError: a network fails on the board.
    """
    with events.task(f"hashing {len(photos.paths)} photos"):
        identities = identify(photos.paths)
    _need_disk(session, bundle, len(identities))
    deployed = deploy(session, bundle)
    _send_photos(session, identities)
    command = _command(deployed, options)
    # The key leaves the board nothing to mix up: other photos or options are another run.
    folder = f"runs/{sha256_json([command, sorted(identities)])[:24]}"
    # Absolute: the list names its photos relative to its own folder.
    lines = [f"{key}\t{session.workdir}/{PHOTOS}/{key}\n" for key in identities]
    session.write(f"{folder}/photos.tsv", "".join(lines).encode())
    command += ["--list", f"{folder}/photos.tsv", "--out", folder]
    _stream(session, command, len(identities), options)
    for name in (PREDICTIONS, MEASUREMENTS):
        session.download(f"{folder}/{name}", out / name)
    session.remove(folder)
    return read_board_run(out)


def read_board_run(folder: Path) -> BoardRun:
    """Read back what `run_on_board` left.

    Raises:
        InputError: a file is missing or damaged.
    """
    try:
        records = read_records(folder / PREDICTIONS)
    except RunnerError as error:
        raise InputError(error.message, error.hint) from error
    return BoardRun(records, read_json(folder / MEASUREMENTS, "measurements"))


def identify(paths: Sequence[Path]) -> dict[str, Path | None]:
    """Photo id to file, each once, in order; a photo that is not there is known by its path."""
    found: dict[str, Path | None] = {}
    for path in paths:
        try:
            found.setdefault(photo_id(path), path)
        except RunnerError:
            found.setdefault(str(path), None)
    return found


def _command(deployed: Deployment, options: Options) -> list[str]:
    command = [PYTHON, deployed.runner, deployed.bundle]
    command += ["--warmup", str(options.warmup), "--repeat", str(options.repeat)]
    command += ["--cluster", options.cluster]
    if options.threads:
        command += ["--threads", str(options.threads)]
    if options.profile:
        command += ["--profile", str(PROFILED_PHOTOS)]
    return command


def _stream(session: Session, command: list[str], count: int, options: Options) -> None:
    """Run the runner, its lines as progress."""
    with events.task(f"classifying on {session.name}", count) as task:

        def show(line: str) -> None:
            event = _event(line)
            if event.get("event") == "loaded":
                task.update(event["resumed"], f"{event['resumed']} photos done before")
            elif event.get("event") == "photo":
                task.advance(text=event.get("label") or event.get("error"))

        deadline = COMMAND_S + PHOTO_S * (count * options.repeat + options.warmup)
        done = session.stream(command, timeout=deadline, on_line=show, env=environment(session))
    if done.returncode != 0:
        raise runner_error(session, done)


def _event(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _send_photos(session: Session, identities: Mapping[str, Path | None]) -> None:
    """Copy the photos that the board lacks, many in one archive: SFTP pays for each file."""
    listed = session.run(["sh", "-c", f"mkdir -p {PHOTOS} && ls {PHOTOS}"], timeout=COMMAND_S)
    there = set(listed.check(f"cannot list photos on '{session.name}'").stdout.split())
    missing = [(key, path) for key, path in identities.items() if path and key not in there]
    if not missing:
        return
    with events.task(f"copying photos to {session.name}", len(missing)) as task:
        for batch in _batches(missing):
            with tempfile.TemporaryDirectory() as temporary:
                archive = Path(temporary) / "photos.tar"
                with tarfile.open(archive, "w", dereference=True) as tar:
                    for key, path in batch:
                        tar.add(path, arcname=key, filter=_plain)
                session.upload(archive, "incoming.tar")
            receive = ["sh", "-c", _RECEIVE, "sh", "incoming.tar", "incoming", PHOTOS]
            session.run(receive, timeout=COMMAND_S).check(
                f"cannot unpack photos on '{session.name}'", "free some space on the board"
            )
            session.remove("incoming.tar")
            task.advance(len(batch))


def _batches(photos: list[tuple[str, Path]]) -> list[list[tuple[str, Path]]]:
    batches: list[list[tuple[str, Path]]] = [[]]
    size = 0
    for key, path in photos:
        size += path.stat().st_size
        if size > BATCH_BYTES and batches[-1]:
            batches.append([])
            size = path.stat().st_size
        batches[-1].append((key, path))
    return batches


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mode, member.uid, member.gid, member.uname, member.gname = 0o644, 0, 0, "", ""
    return member


def _need_disk(session: Session, bundle: Path, photos: int) -> None:
    """Refuse early where the board's disk cannot hold bundle and predictions.

    The bundle counts twice (archive and unpacked); photos are checked as they are sent.
    """
    need = 2 * (bundle.stat().st_size if bundle.exists() else 0) + photos * _RECORD_BYTES
    free = free_bytes(session)
    if free is not None and free < need:
        raise BoardError(
            f"the disk of '{session.name}' is full: {need / 1e6:.1f} MB needed,"
            f" {free / 1e6:.1f} MB free below {session.workdir}",
            f"free some space on the board: rm -r {session.workdir}/bundles",
        )


def free_bytes(session: Session) -> int | None:
    """Free space below a session's working folder, bytes; None where `df` does not tell."""
    done = session.run(["df", "-Pk", session.workdir], timeout=COMMAND_S)
    try:
        return int(done.stdout.splitlines()[-1].split()[3]) * 1024
    except (IndexError, ValueError):
        return None
