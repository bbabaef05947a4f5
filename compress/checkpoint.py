"""A training's state on disk: whole or not there, and only of the training that it was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgecompress import events
from edgecompress.files import writing


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
