"""What a compression has done so far: one small JSON file a step, so that a killed job goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompress.files import read_json, sha256_json, write_json


@dataclass(frozen=True)
class Done:
    """A finished step.

    Attributes:
        fingerprint: of everything that the step depends on; later steps include it in theirs.
        result: what it found, JSON-able.
    """

    fingerprint: str
    result: dict[str, Any]


@dataclass(frozen=True)
class Workbook:
    """The work folder. Artefacts of a step lie beside its JSON file."""

    folder: Path

    def path(self, name: str) -> Path:
        """An artefact's path."""
        return self.folder / name

    def step(
        self,
        name: str,
        inputs: Any,
        work: Callable[[str], dict[str, Any]],
        artefacts: tuple[str, ...] = (),
        scratch: tuple[str, ...] = (),
    ) -> Done:
        """Do a step, or take its result from last time.

        Args:
            inputs: JSON-able; whatever decides the result.
            work: gets the fingerprint; writes the artefacts; returns the result.
            artefacts: file names; if one is gone the step is done again.
            scratch: file names that are of no use once the step is recorded.
        """
        done = self.kept(name, inputs, artefacts)
        if done is not None:
            return done
        fingerprint = sha256_json([name, inputs])
        result = work(fingerprint)
        write_json(self.folder / f"{name}.json", {"fingerprint": fingerprint, "result": result})
        for one in scratch:
            self.path(one).unlink(missing_ok=True)
        return Done(fingerprint, result)

    def kept(self, name: str, inputs: Any, artefacts: tuple[str, ...] = ()) -> Done | None:
        """A result from last time, where it is of these inputs and all artefacts are there."""
        fingerprint = sha256_json([name, inputs])
        record = self.folder / f"{name}.json"
        if record.exists() and all(self.path(one).exists() for one in artefacts):
            found = read_json(record, "step record")
            if found.get("fingerprint") == fingerprint:
                return Done(fingerprint, found["result"])
        return None
