"""A training's state on disk: whole or not there, and only of the training that it was made for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgecompress import events
from edgecompress.files import writing

WRITING_SHARE = 0.05
"""Of the time, spent with checkpoints at most: on a GPU an epoch may take less than writing one."""


def write_checkpoint(path: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Replace the checkpoint. A process that is killed meanwhile leaves the old one."""
    with writing(path) as temporary:
        torch.save({"fingerprint": fingerprint, **state}, temporary)


def read_checkpoint(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The state, or None where there is none of this fingerprint."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:  # a damaged archive raises nearly anything; training anew is always right
        events.warn(f"{path.name} is damaged: training starts anew")
        return None
    return state if state.get("fingerprint") == fingerprint else None


@dataclass
class Keeper:
    """Writes a training's checkpoints, and knows how long that takes."""

    path: Path
    fingerprint: str
    clock: Callable[[], float] = time.monotonic
    _took: float = 0.0
    _ended: float = 0.0

    @property
    def pays(self) -> bool:
        """Whether so much has been done since the last one that another may be written."""
        return self._took <= WRITING_SHARE * (self.clock() - self._ended)

    def keep(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        start = self.clock()
        write_checkpoint(self.path, self.fingerprint, state)
        self._ended = self.clock()
        self._took = self._ended - start
