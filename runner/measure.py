"""Numbers of a run: percentiles, what the board is, how much memory was used.

What cannot be read is None, with the reason beside it: never a guess, never a zero.
"""

from __future__ import annotations

import math
import platform
import re
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

PROC = Path("/proc")

_PERCENTS = (10, 50, 90, 99)
_FEWEST_RUNS = 3


def summary(values: Iterable[float]) -> "dict[str, float | int | None]":
    """p10, p50, p90, p99, mean and n of some values; None, not NaN, where there are none.

    Percentiles interpolate linearly between the two nearest values.
    """
    numbers = np.asarray(list(values), np.float64)
    if numbers.size == 0:
        return {**{f"p{share}": None for share in _PERCENTS}, "mean": None, "n": 0}
    points = np.percentile(numbers, _PERCENTS)
    told = {f"p{share}": round(float(points[i]), 4) for i, share in enumerate(_PERCENTS)}
    return {**told, "mean": round(float(numbers.mean()), 4), "n": int(numbers.size)}


def latency(timings: Iterable[Mapping[str, float]]) -> "dict[str, dict[str, float | int | None]]":
    """A `summary` of each part of many timings, milliseconds; n is how often the part ran."""
    parts: dict[str, list[float]] = {}
    for one in timings:
        for part, value in one.items():
            parts.setdefault(part, []).append(value)
    return {part: summary(values) for part, values in parts.items()}


def spread(runs: Iterable[Sequence[float]]) -> Optional[float]:
    """How far runs of the same thing lie apart: nine of ten take at most so many times its median.

    Args:
        runs: the times of each thing; those with fewer than three say nothing.

    Returns:
        None where nothing can be said.
    """
    ratios = [
        one / middle
        for times in runs
        if len(times) >= _FEWEST_RUNS
        for middle in [float(np.median(times))]
        if middle > 0
        for one in times
    ]
    return round(float(np.percentile(ratios, 90)), 4) if ratios else None


def peak_rss_mib(root: Path = PROC) -> float:
    """The most memory that this process has held so far, MiB.

    From the kernel's high-water mark: `getrusage` counts what the parent held when it started us.
    """
    match = re.search(r"VmHWM:\s*(\d+) kB", read_text(root / "self/status") or "")
    kib = int(match.group(1)) if match else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kib / 1024, 1)


def identity(cores: int, root: Path = PROC) -> dict[str, Any]:
    """What the board is: model, kernel, operating system, cores, memory, software versions.

    Args:
        cores: that a process may use, as it was before this one was pinned to some of them.
    """
    import PIL
    from PIL import features

    turbo = features.check_feature("libjpeg_turbo")
    return {
        "model": read_text(root / "device-tree/model"),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "os": _os_name(),
        "cores": cores,
        "memory_mib": _memory_mib(root / "meminfo"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "jpeg": "libjpeg-turbo" if turbo else "libjpeg",
    }


def _memory_mib(meminfo: Path) -> Optional[int]:
    match = re.search(r"MemTotal:\s*(\d+) kB", read_text(meminfo) or "")
    return int(match.group(1)) // 1024 if match else None


def _os_name() -> Optional[str]:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', read_text(Path("/etc/os-release")) or "", re.M)
    return match.group(1) if match else sys.platform


def read_text(path: Path) -> Optional[str]:
    """A small file of the kernel without its end; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def read_number(path: Path) -> Optional[float]:
    """The number in such a file; None where there is none."""
    try:
        value = float(read_text(path) or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
