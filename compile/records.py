"""The file of tuning records: JSON lines, one candidate a line, appended and synced by batches."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from errno import ENOSPC
from functools import cache
from importlib import metadata
from io import RawIOBase
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

from edgecompress import __version__, events
from edgecompress.errors import InputError
from edgecompress.files import sha256_json

FORMAT = 1
_START = b'{"format":'  # of every line
_BLOCK = 1 << 16
Measured = Literal["real", "cost", "emulated"]


@cache
def versions() -> str:
    """The versions that records made now hold for, as they stand in the file."""
    return f"edgecompress {__version__}, tvm {metadata.version('apache-tvm')}"


@dataclass(frozen=True)
class Record:
    """One candidate schedule of one kernel, and what became of it.

    Attributes:
        workload: the kernel (`workload_key`).
        target: the target that it was compiled for (`target_key`).
        name: the kernel's name and shapes, for people.
        trace: the schedule as MetaSchedule's trace JSON; replays on the unscheduled kernel.
        seconds: of one execution, one number a repeat; empty where it failed.
        failure: why it has no seconds, one line; empty where it has.
        board: name of the board that measured it.
        measured: `real` (wall time on hardware), `emulated` (wall time under QEMU: it proves the
            path and says nothing about speed), `cost` (an estimate).
        versions: of this project and TVM: traces and workload keys hold for these only.
        time: when, UTC, ISO 8601.
    """

    workload: str
    target: str
    name: str
    trace: Any
    seconds: tuple[float, ...]
    failure: str
    board: str
    measured: Measured
    versions: str = field(default_factory=versions)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def median(self) -> float:
        """Median seconds of one execution; infinite for a failure."""
        return median(self.seconds) if self.seconds else float("inf")

    @property
    def candidate(self) -> str:
        """A key of the schedule itself: equal traces, equal keys."""
        return trace_key(self.trace)


def trace_key(trace: Any) -> str:
    """A short key of a trace's JSON: equal schedules of one kernel have equal keys."""
    return sha256_json(trace)[:16]


def read_records(path: Path) -> list[Record]:
    """All records of a file, oldest first. A line that a kill tore off is dropped with a warning.

    Raises:
        InputError: the file is missing, damaged, or something else; the message names the line.
    """
    try:
        *lines, tail = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise InputError(
            f"no such file of tuning records: {path}", "`edgecompress tune` makes one"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read tuning records {path}: {error.strerror}") from error
    if _is_json(tail):
        lines.append(tail)
    elif lines or tail.startswith(_START[: len(tail)]):
        if tail:
            events.warn(f"{path}: the last record was cut off by a kill and is dropped")
    else:
        raise _damaged(path, 1, "no tuning record")
    return [_from_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def append_records(path: Path, batch: Sequence[Record]) -> None:
    """Write records and sync them to the disk: when this returns, a kill loses none of them.

    Several processes may append to one file.

    Raises:
        InputError: the file cannot be written, or is no file of records; what it held is as it was.
        ValueError: a record is one that `read_records` would refuse, and the whole file with it.
    """
    lines = "".join(_to_line(record) for record in batch).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not _holds_records(stream):
                raise _damaged(path, 1, "no tuning record")
            end = _mend_tail(stream)
            try:
                written = stream.write(lines)
                if written != len(lines):
                    raise OSError(ENOSPC, "no space left on device")
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(end)
                raise
    except OSError as error:
        raise InputError(
            f"cannot write tuning records to {path}: {error.strerror}",
            f"`df {path.parent}` shows the space left there",
        ) from error


def are_times(seconds: Sequence[Any]) -> bool:
    """Whether a record can have them: finite numbers above zero."""
    return all(isinstance(second, float) and 0 < second < float("inf") for second in seconds)


def _to_line(record: Record) -> str:
    fields = asdict(record)
    if unsound := _unsound({**fields, "seconds": list(record.seconds)}):
        raise ValueError(f"no tuning record: {unsound}")
    return json.dumps({"format": FORMAT, **fields}, separators=(",", ":")) + "\n"


def _mend_tail(stream: RawIOBase) -> int:
    """Cut off what a kill left behind the last whole line; the length that remains, bytes."""
    tail, start = b"", stream.seek(0, os.SEEK_END)
    while start and b"\n" not in tail:
        size = min(start, _BLOCK)
        start = stream.seek(start - size)
        tail = (stream.read(size) or b"") + tail
    end = start + tail.rfind(b"\n") + 1
    last = tail[end - start :]
    if _is_json(last):  # whole, only its line end is missing
        stream.write(b"\n")
        return end + len(last) + 1
    stream.truncate(end)
    return end


def _holds_records(stream: RawIOBase) -> bool:
    """Whether a file begins as one of records does, as far as it goes: else nothing is cut off."""
    stream.seek(0)
    begin = (stream.read(_BLOCK) or b"").lstrip()[: len(_START)]
    return begin == _START[: len(begin)]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _from_line(path: Path, number: int, line: bytes) -> Record:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise _damaged(path, number, "no JSON") from None
    if not isinstance(value, dict) or "format" not in value:
        raise _damaged(path, number, "no tuning record")
    if value.pop("format") != FORMAT:
        raise InputError(
            f"{path}, line {number}: tuning records of another format",
            f"this version reads format {FORMAT}: name another file",
        )
    if unsound := _unsound(value):
        raise _damaged(path, number, unsound)
    return Record(**{**value, "seconds": tuple(value["seconds"])})


def _unsound(value: dict[str, Any]) -> str:
    """What is wrong with a record's fields; "" where nothing is."""
    if value.keys() != _TYPES.keys():
        return f"missing or unknown: {', '.join(sorted(value.keys() ^ _TYPES.keys()))}"
    for name, types in _TYPES.items():
        if not isinstance(value[name], types):
            return f"'{name}' is {value[name]!r:.40}"
    if not are_times(value["seconds"]):
        return f"'seconds' is {tuple(value['seconds'])!r:.40}"
    if value["measured"] not in get_args(Measured):
        return f"'measured' is {value['measured']!r:.40}"
    return ""


_TYPES: dict[str, type] = dict.fromkeys(Record.__dataclass_fields__, str) | {
    "trace": list,
    "seconds": list,
}


def _damaged(path: Path, number: int, cause: str) -> InputError:
    return InputError(
        f"{path}, line {number}: {cause}",
        "the file is left as it is: repair or remove that line, or name another file",
    )
