"""Tuning records: what was measured on which board, kept as JSON lines that outlive a kill.

One file, one record a line. A batch is appended with one write and synced to the disk before
the next batch is measured; a line that a kill tore off is dropped with a warning. Nothing else is
ever taken out of the file.

MetaSchedule's own `JSONDatabase` does not do: it refuses to open after a torn line, syncs
nothing, and has no room for the board, for failures, or for where a time was measured
(docs/tuning.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress import events

from .records import Record, append_records, read_records, versions

if TYPE_CHECKING:
    from tvm.s_tir.schedule import Trace
    from tvm.target import Target
    from tvm.tirx import PrimFunc

    from ..targets import Board


class Database:
    """The records of one file that hold for one board.

    Args:
        path: the JSON-lines file; `open_database` reads it.
        records: what was read.
        board: decides which kinds of measurement count: emulated times only for a virtual board.
    """

    def __init__(self, path: Path, records: Iterable[Record], board: Board) -> None:
        self.path = path
        self.board = board
        # Best first: a real time beats an estimate, an estimate beats a time under emulation.
        self._kinds = ("real", "cost", "emulated") if board.kind == "virtual" else ("real", "cost")
        self._records: dict[tuple[str, str], list[Record]] = {}
        for record in records:
            self._index(record)

    def _index(self, record: Record) -> None:
        if record.versions == versions() and record.measured in self._kinds:
            self._records.setdefault((record.workload, record.target), []).append(record)

    def __len__(self) -> int:
        return sum(len(records) for records in self._records.values())

    def records(self, func: PrimFunc, target: Target) -> tuple[Record, ...]:
        """All records of one kernel on one target, failures included, oldest first."""
        return tuple(self._records.get((workload_key(func), target_key(target)), ()))

    def best(self, func: PrimFunc, target: Target) -> Record | None:
        """The fastest record of the best kind of measurement there is, or None."""
        timed = [record for record in self.records(func, target) if record.seconds]
        return min(
            timed,
            key=lambda record: (self._kinds.index(record.measured), record.median),
            default=None,
        )

    def lookup(self, func: PrimFunc, target: Target) -> Trace | None:
        """The best record's trace, ready for `trace.apply_to_schedule(sch, remove_postproc=False)`.

        A trace that no longer applies to the kernel is reported as a warning and not used.
        """
        record = self.best(func, target)
        return None if record is None else trace_of(record, func)

    def append(self, batch: Sequence[Record]) -> None:
        """Add records to the file, synced to the disk, and to what is looked up here.

        Raises:
            InputError: the file cannot be written; what it held is as it was.
        """
        append_records(self.path, batch)
        for record in batch:
            self._index(record)


def open_database(path: Path, board: Board, *, create: bool = False) -> Database:
    """Open a file of tuning records for one board.

    Args:
        create: a missing file is an empty database (it is made by the first `append`).

    Raises:
        InputError: the file is missing, damaged, or something else than tuning records. It is
            left as it is.
    """
    missing = create and not path.exists()
    return Database(path, () if missing else read_records(path), board)


def workload_key(func: PrimFunc) -> str:
    """Hash of an unscheduled kernel's structure: names of functions and variables do not count."""
    import tvm_ffi

    plain: Any = func
    for name in ("global_symbol", "op_pattern"):  # differ between equal kernels of two networks
        plain = plain.without_attr(name)
    return f"{tvm_ffi.structural_hash(plain) & (1 << 64) - 1:016x}"


def target_key(target: Target) -> str:
    """What of a target decides the speed of a kernel, in one line."""
    attrs: Any = target.attrs
    parts = [str(target.kind), str(attrs.get("mtriple", "")), str(attrs.get("mcpu", ""))]
    parts += sorted(str(feature) for feature in attrs.get("mattr", ()))
    parts.append(f"cores={attrs.get('num-cores', 1)}")
    return " ".join(part for part in parts if part)


def trace_json(trace: Trace) -> Any:
    """A trace as plain JSON values."""
    # TVM leaves its own float constants in what it calls JSON.
    return json.loads(json.dumps(trace.as_json(), default=lambda constant: constant.value))


def trace_of(record: Record, func: PrimFunc) -> Trace | None:
    """A record's trace, tried on the unscheduled kernel; None with a warning if it fails there."""
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

    schedule = Schedule(func, error_render_level="none")
    try:
        Trace.apply_json_to_schedule(record.trace, schedule)
    except Exception as error:  # TVM's own error classes have no common base of their own
        cause = str(error).strip().splitlines() or [type(error).__name__]
        events.warn(f"a tuning record of {record.name} does not apply and is not used: {cause[-1]}")
        return None
    return schedule.trace
