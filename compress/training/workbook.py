"""What a compression has done so far: one small JSON file a step, so that a killed job goes on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgecompress.errors import UsageError
from edgecompress.files import read_json, sha256_json, write_json, writing

from ..machine import ddp

WEIGHTS = ".pt"
"""How the names of files with weights end."""


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """A work folder, made if missing, that nobody else works in; the first of torchrun's processes
    locks it for all.

    Args:
        what: works there, for the message ("job").

    Raises:
        UsageError: another one does already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)

    def take() -> None:
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"another {what} is working in {folder}", "wait for it, or give another folder"
            ) from None

    ddp.decided(take)
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Done:
    """A finished step.

    Attributes:
        fingerprint: of everything that the step depends on; later steps include it in theirs.
        result: what it found, JSON-able.
    """

    fingerprint: str
    result: dict[str, Any]


class NotDoneError(Exception):
    """A step that was only to be read has not been done; the text is its name."""


@dataclass(frozen=True)
class Workbook:
    """The work folder. Artefacts of a step lie beside its JSON file.

    Attributes:
        reading: no step is done that is not there, and none is missed for its weights alone: they
            are large, and tables need records and answers only.
    """

    folder: Path
    reading: bool = False

    def path(self, name: str) -> Path:
        """An artefact's path."""
        return self.folder / name

    @contextmanager
    def writing(self, name: str, step: str = "") -> Iterator[Path]:
        """An artefact's temporary path (`files.writing`); only the first of torchrun's processes
        keeps what is written there.

        Args:
            step: whose artefact it is; by default the name without its suffix.
        """
        if ddp.ranks().first:
            with writing(self.path(name)) as temporary:
                yield temporary
                # A record of other inputs vouches for what is replaced now, until the step's own
                # is there: who is killed between them would find it and take this for that.
                self.path(f"{step or Path(name).stem}.json").unlink(missing_ok=True)
        else:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder) / name

    def step(
        self,
        name: str,
        inputs: Any,
        work: Callable[[str], dict[str, Any]],
        artefacts: tuple[str, ...] = (),
        scratch: tuple[str, ...] = (),
        *,
        alone: bool = False,
    ) -> Done:
        """Do a step, or take its result from last time.

        Args:
            inputs: JSON-able; whatever decides the result.
            work: gets the fingerprint; writes the artefacts; returns the result.
            artefacts: file names; if one is gone the step is done again.
            scratch: file names that are of no use once the step is recorded.
            alone: of torchrun's processes only the first one works, and the others wait. Else all
                of them do, and what they write goes through `writing`.

        Raises:
            NotDoneError: it is not there, and the book is only read.
        """
        done = self.kept(name, inputs, artefacts)
        if done is not None:
            if not self.reading:  # a process may have been killed right after its record
                self._tidy(scratch)
            return done
        if self.reading:
            raise NotDoneError(name)
        fingerprint = sha256_json([name, inputs])
        result = ddp.decided(lambda: work(fingerprint)) if alone else work(fingerprint)

        def record() -> Done:
            content = {"fingerprint": fingerprint, "result": result}
            write_json(self.folder / f"{name}.json", content)
            self._tidy(scratch)
            return Done(fingerprint, result)

        return ddp.decided(record)

    def _tidy(self, scratch: tuple[str, ...]) -> None:
        for one in scratch:
            self.path(one).unlink(missing_ok=True)

    def kept(self, name: str, inputs: Any, artefacts: tuple[str, ...] = ()) -> Done | None:
        """A result from last time, where it is of these inputs and all artefacts are there."""
        return ddp.decided(lambda: self._kept(name, inputs, artefacts))

    def _kept(self, name: str, inputs: Any, artefacts: tuple[str, ...]) -> Done | None:
        fingerprint = sha256_json([name, inputs])
        record = self.folder / f"{name}.json"
        needed = [one for one in artefacts if not (self.reading and one.endswith(WEIGHTS))]
        if record.exists() and all(self.path(one).exists() for one in needed):
            found = read_json(record, "step record")
            if found.get("fingerprint") == fingerprint:
                return Done(fingerprint, found["result"])
        return None
