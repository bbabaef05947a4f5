"""The history of runs: one SQLite file that rows are added to and never changed in.

Several processes may write at once: the file is in WAL mode, each row is one transaction, and a
writer waits for the other.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from platformdirs import user_data_path

from edgecompress.errors import EdgeCompressError, InputError, UsageError, near_names
from edgecompress.files import sha256_json

from .compare import precision_of, throttled
from .metrics import metrics
from .schema import Report

SCHEMA_VERSION = 1
VARIABLE = "EDGECOMPRESS_HISTORY"
_WAIT_S = 10.0

_TABLE = """
CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,  -- the same report is one row, however often it is made again
  at TEXT NOT NULL,          -- ISO 8601, UTC
  model TEXT NOT NULL,
  board TEXT NOT NULL,
  precision TEXT NOT NULL,
  members TEXT NOT NULL,     -- JSON: names
  emulated INTEGER NOT NULL,
  throttled INTEGER NOT NULL,
  photos TEXT NOT NULL,
  n INTEGER NOT NULL,
  bundle TEXT NOT NULL,      -- SHA-256
  version TEXT NOT NULL,     -- of edgecompress
  metrics TEXT NOT NULL,     -- JSON: name to number
  error TEXT NOT NULL        -- "" where the run was good
)
"""
# Not even by mistake: what was measured stays.
_GUARDS = [
    f"CREATE TRIGGER no_{what.lower()} BEFORE {what} ON runs"
    " BEGIN SELECT RAISE(ABORT, 'the history is only added to'); END"
    for what in ("UPDATE", "DELETE")
]
_COLUMNS = (
    "key", "at", "model", "board", "precision", "members", "emulated", "throttled", "photos", "n",
    "bundle", "version", "metrics", "error",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One run, or one that failed.

    Attributes:
        key: of what was reported.
        at: ISO 8601, UTC.
        model: the job's name.
        board: as the user calls it.
        metrics: as `metrics.metrics` names them; those that were measured, without layers.
        error: "" where the run was good.
    """

    key: str
    at: str
    model: str
    board: str
    precision: str = "float32"
    members: tuple[str, ...] = ()
    emulated: bool = False
    throttled: bool = False
    photos: str = ""
    n: int = 0
    bundle: str = ""
    version: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def series(self) -> tuple[str, str, str]:
        """What runs have in common that belong in one line: model, board, precision."""
        return self.model, self.board, self.precision

    def number(self, metric: str) -> float | None:
        """A metric as it can be compared: no time of an emulated or throttled board."""
        return None if is_time(metric) and (self.emulated or self.throttled) else self.shown(metric)

    def shown(self, metric: str) -> float | None:
        """A metric as it was measured."""
        return self.metrics.get(metric)


def is_time(metric: str) -> bool:
    """Whether a metric of that name is in milliseconds."""
    return metric == "load" or metric.rpartition(".")[2] in ("p50", "p90", "p99", "mean")


def unit_of(metric: str) -> str:
    """The unit of a metric of that name, as `metrics.Metric.unit`."""
    if is_time(metric):
        return "ms"
    return {"macs": "M", "memory": "MiB", "bundle": "MB"}.get(metric.partition(".")[0], "points")


def default_path() -> Path:
    """The history's file: what `EDGECOMPRESS_HISTORY` names, else one in the user's data folder."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else user_data_path("edgecompress") / "history.sqlite"


def entry_of(report: Report, board: str) -> Entry:
    """The row of a report."""
    values = {
        key: metric.value
        for key, metric in metrics(report).items()
        if metric.value is not None and metric.group != "layers"
    }
    return Entry(
        key=sha256_json([board, report.model_dump(mode="json", exclude={"created"})]),
        at=report.created,
        model=report.name,
        board=board,
        precision=precision_of(report),
        members=tuple(stage.network for stage in report.stages),
        emulated=report.emulated,
        throttled=bool(throttled(report)),
        photos=report.accuracy.photos,
        n=report.accuracy.n,
        bundle=report.bundle.sha256,
        version=report.versions.get("edgecompress", ""),
        metrics=values,
    )


def failure(model: str, board: str, precision: str, error: str) -> Entry:
    """The row of a run that failed now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Entry(uuid.uuid4().hex, now, model, board, precision, error=error or "no reason given")


def append(path: Path, entry: Entry) -> bool:
    """Add a row; False where this report has one already.

    Raises:
        InputError: the file cannot be written, is none of ours, or of a later release.
    """
    values = {
        **{name: getattr(entry, name) for name in _COLUMNS},
        "members": json.dumps(entry.members),
        "metrics": json.dumps(entry.metrics, allow_nan=False),
        "emulated": int(entry.emulated),
        "throttled": int(entry.throttled),
    }
    names = ", ".join(f":{name}" for name in _COLUMNS)
    insert = f"INSERT OR IGNORE INTO runs ({', '.join(_COLUMNS)}) VALUES ({names})"
    with _errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
        try:
            _prepare(connection, path)
            return connection.execute(insert, values).rowcount > 0
        finally:
            connection.close()


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """WAL mode and the table, where they are not there."""
    _patiently(connection, "PRAGMA journal_mode=WAL")
    if _version(connection, path):
        return
    _patiently(connection, "BEGIN IMMEDIATE")
    if not _version(connection, path):  # another process may have been first
        for statement in (_TABLE, *_GUARDS, f"PRAGMA user_version={SCHEMA_VERSION}"):
            connection.execute(statement)
    connection.execute("COMMIT")


def _patiently(connection: sqlite3.Connection, statement: str) -> None:
    """Changing a new file's mode does not wait for others by itself."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The schema's version; 0 of a new file.

    Raises:
        InputError: it is later than this release's, or the file is somebody else's.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path} was written by a later release (schema {version}, here {SCHEMA_VERSION})",
            "update edgecompress, or give another --history",
        )
    if not version and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise InputError(f"{path} is not a history of edgecompress", "give another --history")
    return version


@contextmanager
def _errors(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot {what} the history {path}: {reason}", f"give --history, or set {VARIABLE}"
        ) from error


def read(
    path: Path, model: str | None = None, board: str | None = None, limit: int | None = None
) -> list[Entry]:
    """The runs in the order of time, the last `limit` of them; none where there is no file.

    Args:
        model: only of this job, or with this member.
        board: only on this board.

    Raises:
        InputError: the file cannot be read, is none of ours, or of a later release.
    """
    if not path.exists():
        return []
    with _errors(path, "read"):
        uri = f"{path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=_WAIT_S)
        try:
            if not _version(connection, path):
                return []
            select = f"SELECT {', '.join(_COLUMNS)} FROM runs ORDER BY at, id"
            entries = [_entry(row) for row in connection.execute(select)]
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"the history {path} is damaged: {error}") from error
        finally:
            connection.close()
    found = [
        entry
        for entry in entries
        if model in (None, entry.model, *entry.members) and board in (None, entry.board)
    ]
    return found if limit is None else found[-limit:]


def _entry(row: tuple[object, ...]) -> Entry:
    values = dict(zip(_COLUMNS, row, strict=True))
    told = {
        **values,
        "members": tuple(json.loads(str(values["members"]))),
        "metrics": {key: float(one) for key, one in json.loads(str(values["metrics"])).items()},
        "emulated": bool(values["emulated"]),
        "throttled": bool(values["throttled"]),
    }
    return Entry(**told)


def require_metric(entries: Sequence[Entry], metric: str) -> None:
    """Refuse a metric that no run has.

    Raises:
        UsageError: with the metrics that there are.
    """
    known = list(dict.fromkeys(key for entry in entries for key in entry.metrics))
    if known and metric not in known:
        near = near_names(metric, known)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(f"unknown metric '{metric}'", f"{meant}known: {' '.join(known)}")


def by_series(entries: Sequence[Entry]) -> dict[tuple[str, str, str], list[Entry]]:
    """Runs of the same model, board and precision, in the order of time."""
    found: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.series, []).append(entry)
    return found


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int = 24) -> str:
    """The last `width` values as a line of bars; a gap is a dot."""
    shown = list(values)[-width:]
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)

    def bar(value: float | None) -> str:
        if value is None:
            return "·"
        level = (value - low) / (high - low) if high > low else 0.5
        return _BARS[min(len(_BARS) - 1, int(level * len(_BARS)))]

    return "".join(map(bar, shown))


def remember(path: Path, entry: Entry) -> str:
    """Add a row; returns why it could not be, "" where it was: a job never fails of it."""
    try:
        append(path, entry)
    except EdgeCompressError as error:
        return f"{error.message}; the run is not in the history"
    return ""
