"""Records of photos in files: read when they are asked for, and gathered as boards give them.

What is in memory is where each record begins, not the record: a run may have any number of photos.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from edgecompress.errors import InputError
from edgecompress.files import read_json, write_json, writing

from ..runner.errors import RunnerError
from ..runner.records import Record, drop_torn_line, record_from_json

JOURNAL = "answers.jsonl"
KEY = "answers.json"

_BOARD = "by"


class RecordFile(Mapping[str, Record]):
    """The records of a file by photo, in the file's order.

    A last line without its end, which a killed process leaves, is left out. Of several records of
    one photo the first counts.

    Raises:
        InputError: another line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, int] = {}
        self._by: dict[str, int] = {}
        for place, record, board in _placed(path):
            if record.photo not in self._places:
                self._places[record.photo] = place
                self._by[board] = self._by.get(board, 0) + 1

    def __getitem__(self, photo: str) -> Record:
        with self._path.open("rb") as stream:
            stream.seek(self._places[photo])
            return _record(self._path, stream.readline())[0]

    def __contains__(self, photo: object) -> bool:
        return photo in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Journal(RecordFile):
    """What is known of a run that is under way, in the order in which it came.

    It lies on the host's disk before it is told of, and outlives the process. Each record has the
    board that it is from beside it.

    Args:
        folder: of the run's results.
        key: what the records are of; those of another key are removed.

    Attributes:
        path: the file.
        failed: how many photos could not be classified.

    Raises:
        InputError: the folder cannot be written, or what is there is damaged.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path, self._claim = folder / JOURNAL, folder / KEY
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self._claim.exists() or read_json(self._claim).get("key") != key:
                self.path.unlink(missing_ok=True)
                write_json(self._claim, {"key": key})
            drop_torn_line(self.path)
            self.path.touch()
        except OSError as error:
            raise _unwritable(folder, error) from error
        super().__init__(self.path)
        self.failed = sum(record.outcome is None for record in self.values())

    @property
    def answered(self) -> dict[str, int]:
        """How many records are from each board; those that no board has made from ""."""
        return dict(self._by)

    def add(self, records: Iterable[Record], board: str = "") -> int:
        """Write down the records of photos that have none yet; returns how many these are."""
        before = len(self)
        try:
            with self.path.open("ab") as stream:
                for record in records:
                    if record.photo not in self._places:
                        line = json.dumps({_BOARD: board, **record.to_json()}, allow_nan=False)
                        self._places[record.photo] = stream.tell()
                        self._by[board] = self._by.get(board, 0) + 1
                        self.failed += record.outcome is None
                        stream.write(f"{line}\n".encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return len(self) - before

    def write(self, photos: Iterable[str], path: Path) -> None:
        """Write the records of photos, in this order."""
        with (
            self.path.open("rb") as source,
            writing(path) as temporary,
            temporary.open("w", encoding="utf-8") as stream,
        ):
            for photo in photos:
                source.seek(self._places[photo])
                stream.write(_record(self.path, source.readline())[0].to_line())

    def remove(self) -> None:
        """Forget the run: its results are elsewhere now."""
        self._claim.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def whole_records(path: Path) -> Iterator[Record]:
    """The records of a file up to the first that is torn or damaged."""
    try:
        for _, record, _ in _placed(path):
            yield record
    except InputError:
        return


def _placed(path: Path) -> Iterator[tuple[int, Record, str]]:
    """Where each record begins, itself, and the board that it is from where that is told."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        place = 0
        for line in stream:
            if not line.endswith(b"\n"):
                return
            yield (place, *_record(path, line))
            place += len(line)


def _record(path: Path, line: bytes) -> tuple[Record, str]:
    try:
        value = json.loads(line)
        board = value.pop(_BOARD, "")
        return record_from_json(value), str(board)
    except (ValueError, AttributeError, TypeError, RunnerError, RecursionError) as error:
        raise InputError(
            f"{path} has a damaged record: {error}", f"delete {path} and run again"
        ) from error


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write {path}: {error.strerror}", "free some space, or give another --out"
    )
