"""One record a photo: what the board writes, the host's evaluation too, and the report compares.

A photo is known by the SHA-256 of its file: the same on host and board whatever it is called, and
a photo that was replaced is never taken for the old one.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from .cascade import Outcome
from .errors import RunnerError

StrPath = Union[str, "os.PathLike[str]"]

_MAX_PLACES = 1000  # far above any number of members or crop sizes


@dataclasses.dataclass(frozen=True)
class Record:
    """What came of one photo: an outcome or an error, never both.

    Attributes:
        photo: SHA-256 of the file's content, hexadecimal (`photo_id`).
        outcome: see `cascade.Outcome`; its `timings_ms` has `decode` too, and `total` includes it.
        error: the one-line cause why there is no outcome.
        error_kind: the `RunnerError.kind` of it.
    """

    photo: str
    outcome: Optional[Outcome] = None
    error: Optional[str] = None
    error_kind: Optional[str] = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; logits as base64 of little-endian float32."""
        if self.outcome is None:
            return {"photo": self.photo, "error": self.error, "error_kind": self.error_kind}
        fields = {
            field.name: getattr(self.outcome, field.name)
            for field in dataclasses.fields(self.outcome)
        }
        fields["logits"] = base64.b64encode(self.outcome.logits.astype("<f4").tobytes()).decode()
        timings = self.outcome.timings_ms
        fields["timings_ms"] = {part: round(value, 4) for part, value in timings.items()}
        return {"photo": self.photo, **fields}

    def to_line(self) -> str:
        """One line of predictions.jsonl, with its newline."""
        return json.dumps(self.to_json(), separators=(",", ":"), allow_nan=False) + "\n"


def record_from_json(value: Any) -> Record:
    """Read back `Record.to_json`.

    Raises:
        RunnerError: (`input`) it is not such a record.
    """
    try:
        if "error" in value:
            return Record(str(value["photo"]), None, str(value["error"]), str(value["error_kind"]))
        predicted = value["predicted"]
        outcome = Outcome(
            logits=np.frombuffer(base64.b64decode(value["logits"]), "<f4").astype(np.float32),
            top5=tuple((int(index), float(share)) for index, share in value["top5"]),
            box=_four(value["box"]),
            predicted=None if predicted is None else _four(predicted),
            size=None if value["size"] is None else _place(value["size"]),
            stage=_place(value["stage"]),
            confidences=tuple(float(one) for one in value["confidences"]),
            stage_top1=tuple(int(one) for one in value["stage_top1"]),
            timings_ms={str(part): float(one) for part, one in value["timings_ms"].items()},
        )
        return Record(str(value["photo"]), outcome)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RunnerError("input", f"not a prediction record: {error!r}") from error


def _place(value: Any) -> int:
    """The index of a member or of a crop size: arrays are made as long as the largest one."""
    place = int(value)
    if not 0 <= place < _MAX_PLACES:
        raise ValueError(f"{value} is no index")
    return place


def _four(values: Any) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(value) for value in values)
    return left, top, right, bottom


def photo_id(path: StrPath) -> str:
    """The SHA-256 of the file.

    Raises:
        RunnerError: (`input`) it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise RunnerError("input", f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def iter_records(path: StrPath) -> Iterator[Record]:
    """The records of a file in order, one in memory at a time; none where there is no file.

    A last line without its end, which a killed run leaves, is left out.

    Raises:
        RunnerError: (`input`) another line is damaged.
    """
    if not Path(path).exists():
        return
    with Path(path).open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield record_from_json(json.loads(line))
            except (ValueError, RecursionError, RunnerError) as error:
                raise RunnerError(
                    "input", f"{path}, line {number}: {error}", f"delete {path} and run again"
                ) from error


def read_records(path: StrPath) -> dict[str, Record]:
    """All records of a file, by photo. Raises as `iter_records`."""
    return {record.photo: record for record in iter_records(path)}


def drop_torn_line(path: StrPath) -> None:
    """Cut off a last line that has no end, so that the next one can be appended."""
    if not Path(path).exists():
        return
    with Path(path).open("r+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        block = 1 << 16
        while end > 0:
            start = max(0, end - block)
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        stream.truncate(end)


def outcomes(records: Union[Iterable[Record], Mapping[str, Record]]) -> dict[str, Outcome]:
    """Photo to outcome, of the records that have one."""
    values = records.values() if isinstance(records, Mapping) else records
    return {record.photo: record.outcome for record in values if record.outcome is not None}
