"""A report's times as pytest-benchmark writes its own, so that its tools read them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress.errors import InputError

from .charts import latency_rows
from .compare import precision_of, throttled
from .schema import Report

FORMAT = "5.3.1"
"""The release of pytest-benchmark whose files these are like."""

_GIT_S = 20.0


def benchmark_document(report: Report, commit: dict[str, Any]) -> dict[str, Any]:
    """The whole file: one benchmark for each part of a photo's way, in seconds.

    Args:
        commit: as `commit_info` gives it.

    Raises:
        InputError: its times must not be compared, or it does not list them.
    """
    if report.emulated or throttled(report):
        why = "emulated" if report.emulated else "those of a throttled board"
        raise InputError(
            f"the report's times are {why}: not comparable with any other",
            "export a run on a board of its own, in good state",
        )
    if report.photos is None:
        raise InputError(
            "the report has percentiles only, no time of each photo",
            "make it again with this release: edgecompress report",
        )
    parts = [part for part, _ in latency_rows(report)]
    times = {part: [ms for one in report.photos for ms in one.ms.get(part, [])] for part in parts}
    return {
        "machine_info": _machine(report),
        "commit_info": commit,
        "benchmarks": [_benchmark(report, part, ms) for part, ms in times.items() if ms],
        "datetime": datetime.now(UTC).isoformat(),
        "version": FORMAT,
    }


def _machine(report: Report) -> dict[str, Any]:
    board, python = report.board, report.versions.get("python", "")
    return {
        "node": board.name,
        "processor": board.soc,
        "machine": board.arch,
        "python_compiler": "",
        "python_implementation": "CPython",
        "python_implementation_version": python,
        "python_version": python,
        "python_build": ["", ""],
        "release": board.kernel or "",
        "system": "Linux",
        "cpu": {"brand_raw": board.model or board.soc, "count": board.cores, "arch": board.arch},
    }


def _benchmark(report: Report, part: str, ms: Sequence[float]) -> dict[str, Any]:
    name = f"{report.name}[{part}]"
    return {
        "group": part,
        "name": name,
        "fullname": f"edgecompress::{name}",
        "params": {"part": part},
        "param": part,
        "extra_info": {
            "board": report.board.title,
            "precision": precision_of(report),
            "threads": report.run.threads,
            "photos": report.accuracy.photos,
            "top1": report.accuracy.top1,
            "bundle": report.bundle.sha256,
        },
        "options": {
            "disable_gc": False,
            "timer": "perf_counter",
            "min_rounds": 1,
            "max_time": 0.0,
            "min_time": 0.0,
            "warmup": report.run.warmup > 0,
        },
        "stats": statistics(np.array(ms) / 1e3),
    }


def statistics(seconds: np.ndarray) -> dict[str, Any]:
    """What pytest-benchmark tells of some times; quartiles interpolate linearly here."""
    q1, median, q3 = (float(q) for q in np.quantile(seconds, [0.25, 0.5, 0.75]))
    mean, total = float(seconds.mean()), float(seconds.sum())
    spread = float(seconds.std(ddof=1)) if len(seconds) > 1 else 0.0
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    far = int((np.abs(seconds - mean) > spread).sum())
    outside = int(((seconds < low) | (seconds > high)).sum())
    inside = seconds[(seconds >= low) & (seconds <= high)]
    return {
        "min": float(seconds.min()),
        "max": float(seconds.max()),
        "mean": mean,
        "stddev": spread,
        "rounds": len(seconds),
        "median": median,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": outside,
        "stddev_outliers": far,
        "outliers": f"{far};{outside}",
        "ld15iqr": float(inside.min()),
        "hd15iqr": float(inside.max()),
        "ops": len(seconds) / total if total else 0.0,
        "total": total,
        "data": seconds.tolist(),
        "iterations": 1,
    }


def commit_info(folder: Path) -> dict[str, Any]:
    """What git says of a folder; "unversioned" where it says nothing."""
    head = _git(folder, "log", "-1", "--format=%H%n%cI%n%aI")
    told: dict[str, Any] = {"id": "unversioned", "time": None, "author_time": None}
    if head is not None:
        told = dict(zip(told, head.splitlines(), strict=False)) or told
    branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "(unknown)"
    return {
        **told,
        "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
        "project": folder.resolve().name,
        "branch": "(detached head)" if branch == "HEAD" else branch,
    }


def _git(folder: Path, *argv: str) -> str | None:
    """What a git command prints; None where it fails, or there is no git."""
    command = ["git", "-C", str(folder), *argv]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
