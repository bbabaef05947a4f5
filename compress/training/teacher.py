"""A trained network as a teacher, whose answers are kept: students that see the same views of the
same photos (networks of one seed and one batch size do, whatever their own side is) ask it once.

Answers are kept in half precision beside the work of a job, in files that are only ever added to:
what a killed run has written is read again, and processes that train side by side do not meet.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

KEY_BYTES = 16
MOST_BYTES = 64 * 2**20
"""Kept at most of one teacher, for all students' views together."""


@dataclass(frozen=True)
class Teacher:
    """A trained network that sees what the student sees, at its own resolution.

    Attributes:
        logits: normalised `[n, 3, r, r]` to logits `[n, classes]`.
        resolution: r.
        memory: of its answers; None: it is asked every time.
    """

    logits: Callable[[Tensor], Tensor]
    resolution: int
    memory: Memory | None = None

    def answers(self, keys: Sequence[bytes] | None, seen: Callable[[], Tensor]) -> Tensor:
        """Its logits for some views, float32 `[n, classes]`.

        Args:
            keys: `view_key` of each; None: they are not kept (mixtures of photos).
            seen: gives the views, normalised `[n, 3, r, r]`; only called where they are not known.
        """
        known = None if self.memory is None or keys is None else self.memory.recall(keys)
        if known is not None:
            return known
        with torch.no_grad():
            told = self.logits(seen()).float()
        return told if self.memory is None or keys is None else self.memory.keep(keys, told)


def view_key(index: int, drawn: Sequence[float], side: int) -> bytes:
    """Tells a view, cut to `side` pixels, from all others of the same photos.

    Args:
        drawn: its region, and its look where that is not the photo's own.
    """
    packed = struct.pack(f"<qq{len(drawn)}d", index, side, *drawn)
    return hashlib.blake2b(packed, digest_size=KEY_BYTES).digest()


@dataclass
class Memory:
    """Logits of views by their keys.

    Attributes:
        folder: with files of keys and float16 logits.
        name: the teacher's, a step's: without @.
        identity: of its weights, the photos and the precision, hexadecimal; answers of the same
            name and another identity are deleted.
        classes: logits a view.
    """

    folder: Path
    name: str
    identity: str
    classes: int
    _own: BinaryIO | None = field(default=None, repr=False)

    def recall(self, keys: Sequence[bytes]) -> Tensor | None:
        """Logits of views, float32 `[n, classes]`; None where one of them is not known."""
        found = [self._known.get(key) for key in keys]
        rows = [row for row in found if row is not None]
        if len(rows) < len(found):
            return None
        return torch.from_numpy(np.frombuffer(b"".join(rows), "<f2").astype(np.float32)).reshape(
            len(rows), self.classes
        )

    def keep(self, keys: Sequence[bytes], logits: Tensor) -> Tensor:
        """Keep answers, while there is room; gives them back as they will be recalled."""
        halves = logits.cpu().numpy().astype("<f2")
        added = [key + half.tobytes() for key, half in zip(keys, halves, strict=True)]
        if (len(self._known) + len(added)) * self._record <= MOST_BYTES:
            if self._own is None:
                self._own = (self.folder / f"{self._prefix}{uuid4().hex}").open("ab", buffering=0)
            self._own.write(b"".join(added))
            self._known.update((one[:KEY_BYTES], one[KEY_BYTES:]) for one in added)
        return torch.from_numpy(halves.astype(np.float32)).to(logits.device)

    @property
    def _prefix(self) -> str:
        return f"{self._named}{self.identity[:16]}-"

    @property
    def _named(self) -> str:
        return f"taught-{self.name}@"

    @property
    def _record(self) -> int:
        return KEY_BYTES + 2 * self.classes

    @cached_property
    def _known(self) -> dict[bytes, bytes]:
        known: dict[bytes, bytes] = {}
        for path in sorted(self.folder.glob(f"{self._named}*")):
            if not path.name.startswith(self._prefix):
                path.unlink(missing_ok=True)
                continue
            content = path.read_bytes()
            # A killed run may have left part of a record at the end.
            for start in range(0, len(content) - self._record + 1, self._record):
                record = content[start : start + self._record]
                known[record[:KEY_BYTES]] = record[KEY_BYTES:]
        return known
