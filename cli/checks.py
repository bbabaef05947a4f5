"""What `edgecompress doctor` looks at on this machine and on a board."""

from __future__ import annotations

import platform
import shutil
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from edgecompress.files import cache_dir

from ..targets import Board
from ..targets.cores import ARM_PARTS
from ..targets.runtime import versions

if TYPE_CHECKING:
    from ..rpc.probe import Facts

Level = Literal["ok", "warning", "error"]
GB = 1e9
CACHE_GB = 3
BUNDLE_GB = 0.2
MEMORY_MIB = 256


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: what it is ("TVM", "disk").
        level: `error` means that jobs fail, `warning` that something is lost.
        found: what is there.
        hint: what to type; empty where all is well.
    """

    what: str
    level: Level
    found: str
    hint: str = ""


def host_checks() -> list[Check]:
    """This machine: Python, the pins, the linker, the cache's disk, the virtual board's needs."""
    return [_python(), *_pins(), _linker(), _cache(), _virtual()]


def _python() -> Check:
    return Check("Python", "ok", platform.python_version())


def _pins() -> list[Check]:
    wanted = {"apache-tvm": versions()["tvm"], "apache-tvm-ffi": versions()["tvm_ffi"]}
    return [_pin(name, version) for name, version in wanted.items()]


def _pin(name: str, wanted: str) -> Check:
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = "not installed"
    if found == wanted:
        return Check(name, "ok", found)
    return Check(name, "error", f"{found}, not {wanted}", f"pip install {name}=={wanted}")


def _linker() -> Check:
    try:
        return Check("cross-linker", "ok", f"ziglang {metadata.version('ziglang')}")
    except metadata.PackageNotFoundError:
        other = shutil.which("aarch64-linux-gnu-g++")
        if other:
            return Check("cross-linker", "ok", other)
        return Check("cross-linker", "error", "none", "pip install ziglang")


def _cache() -> Check:
    folder = cache_dir()
    free = shutil.disk_usage(folder).free / GB
    found = f"{free:.1f} GB free below {folder}"
    if free >= CACHE_GB:
        return Check("cache", "ok", found)
    hint = "free some space, or move the cache: export EDGECOMPRESS_CACHE=DIR"
    return Check("cache", "warning", found, hint)


def _virtual() -> Check:
    from ..rpc.virtual import APT_PACKAGES, missing

    lacking = missing()
    if not lacking:
        return Check("virtual board", "ok", "can run here")
    hint = f"apt-get install {' '.join(APT_PACKAGES)}; until then use --board host"
    return Check("virtual board", "warning", lacking, hint)


def board_checks(board: Board, facts: Facts) -> list[Check]:
    """A board that answers, held against its description."""
    return [
        _architecture(board, facts),
        _features(board, facts),
        _cores(board, facts),
        _glibc(board, facts),
        _board_python(board, facts),
        _package("numpy", facts.numpy),
        _package("pillow", facts.pillow),
        _disk(facts),
        _memory(facts),
        _governor(facts),
    ]


def _architecture(board: Board, facts: Facts) -> Check:
    if facts.arch == board.arch:
        return Check("architecture", "ok", facts.arch)
    hint = "32-bit system on a 64-bit board? install its 64-bit image; else correct `boards add`"
    return Check("architecture", "error", f"{facts.arch}, not {board.arch}", hint)


def _features(board: Board, facts: Facts) -> Check:
    lacking = sorted(set(board.features) - set(facts.features))
    if not lacking:
        return Check("CPU features", "ok", " ".join(board.features) or "none asked for")
    hint = "this is another board: edgecompress boards list"
    return Check("CPU features", "error", f"lacks {' '.join(lacking)}", hint)


def _cores(board: Board, facts: Facts) -> Check:
    """The cores that its kernel names; a description of others costs speed, not answers."""
    if not facts.parts:
        return Check("cores", "ok", f"{facts.cores}, not named")
    counts = Counter(ARM_PARTS.get(part, part) for part in facts.parts)
    found = " + ".join(f"{count} {core}" for core, count in counts.items())
    described = dict.fromkeys(cluster.core for cluster in board.clusters)
    if counts.keys() == described.keys():
        return Check("cores", "ok", found)
    hint = "kernels are made for other cores; a better description: edgecompress boards list"
    return Check("cores", "warning", f"{found}, not {' + '.join(described)}", hint)


def _glibc(board: Board, facts: Facts) -> Check:
    if facts.glibc and _numbers(facts.glibc) >= _numbers(board.glibc):
        return Check("C library", "ok", f"glibc {facts.glibc}")
    found = f"glibc {facts.glibc or 'unknown'}, older than {board.glibc}"
    return Check("C library", "error", found, "update the board's system")


def _board_python(board: Board, facts: Facts) -> Check:
    found = ".".join(facts.python.split(".")[:2])
    if found == board.python:
        return Check("Python", "ok", facts.python)
    hint = f"edgecompress boards add NAME --python {found} ..., then compile again"
    return Check("Python", "error", f"{facts.python}, bundles are made for {board.python}", hint)


def _package(name: str, found: str) -> Check:
    if found:
        return Check(name, "ok", found)
    return Check(name, "error", "not installed", "edgecompress boards setup NAME")


def _disk(facts: Facts) -> Check:
    free = facts.disk_free / GB
    level: Level = "ok" if free >= BUNDLE_GB else "error"
    hint = "" if level == "ok" else "free some space on the board"
    return Check("disk", level, f"{free:.1f} GB free", hint)


def _memory(facts: Facts) -> Check:
    free = facts.available_mib
    level: Level = "ok" if free >= MEMORY_MIB else "warning"
    hint = "" if level == "ok" else "end other programs on the board before measuring"
    return Check("memory", level, f"{free} MiB free", hint)


def _governor(facts: Facts) -> Check:
    if facts.governor in ("performance", ""):
        return Check("governor", "ok", facts.governor or "not readable")
    files = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    hint = f"on the board: echo performance | sudo tee {files}"
    return Check("governor", "warning", f"{facts.governor}: times will vary", hint)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
