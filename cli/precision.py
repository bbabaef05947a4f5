"""What a job's precision asks of its board, of the compiler, and of its photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress.errors import UsageError

from ..targets import Board
from .job import Job, compress_config

if TYPE_CHECKING:
    from ..compress.data.photos import PhotoSet

# Cores of Armv7 and Armv8.0, which have no arithmetic in half precision; LLVM's names.
_WITHOUT_FLOAT16 = frozenset(
    f"cortex-a{number}" for number in (5, 7, 8, 9, 12, 15, 17, 32, 35, 53, 57, 72, 73)
)


def require_float16(board: Board) -> None:
    """Refuse a board that cannot compute in half precision.

    Raises:
        UsageError: one of its cores lacks it.
    """
    lacking = [one.core for one in board.clusters if one.core.lower() in _WITHOUT_FLOAT16]
    if "+fullfp16" not in board.mattr or lacking:
        core = lacking[0] if lacking else board.mcpu
        raise UsageError(
            f"{board.title} ({core}) has no float16 arithmetic", "give --precision int8 or float32"
        )


def compiler_precision(job: Job) -> dict[str, Any]:
    """What the compiler is told beyond its usual arguments; of int8 the file itself tells."""
    return {"precision": "float16"} if job.quantize.precision == "float16" else {}


def calibration_photos(job: Job, data: Path | None, quick: bool) -> tuple[PhotoSet, PhotoSet]:
    """The photos for int8 ranges, and those for the gate.

    A job that trains has its gate on the photos that no training saw, where it names no others.

    Raises:
        InputError: they are not there.
    """
    from ..compress.data.photos import find_photos
    from ..compress.int8.views import split

    table = job.quantize
    if table.photos is None and job.compress is not None:
        settings = compress_config(job).resolved(quick)
        train = find_photos(job.data.train or "", data)
        fit, held = train.hold_out(settings.held_out, settings.seed)
        return fit.limit(table.calibration), held.limit(table.gate)
    photos = find_photos(table.photos or job.data.train or "foolbox", data)
    return split(photos, table.calibration, table.gate)
