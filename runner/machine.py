"""This machine, and whether a bundle fits it."""

from __future__ import annotations

import dataclasses
import platform
import re
import struct
import sys
from pathlib import Path

from .errors import RunnerError
from .manifest import Manifest

TVM = "0.27.0.post1"
TVM_FFI = "0.1.14.post1"
"""The runtime whose calls `engine.py` makes; another one may crash where it should refuse."""

CPUINFO = Path("/proc/cpuinfo")


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a bundle's target is compared with.

    Attributes:
        arch: as `uname -m` prints it; that of the userland where a 32-bit one runs on a 64-bit
            kernel.
        python: "3.11".
        glibc: "2.36", or "" where the C library is another one.
        features: CPU flags that all cores have; None where /proc/cpuinfo lists none.
    """

    arch: str
    python: str
    glibc: str
    features: "frozenset[str] | None"


def this_machine(cpuinfo: Path = CPUINFO) -> Machine:
    """What this process runs on."""
    arch = platform.machine()
    if struct.calcsize("P") == 4:
        arch = {"aarch64": "armv7l", "x86_64": "i686"}.get(arch, arch)
    name, version = platform.libc_ver()
    return Machine(
        arch=arch,
        python=f"{sys.version_info[0]}.{sys.version_info[1]}",
        glibc=version if name == "glibc" else "",
        features=cpu_features(cpuinfo),
    )


def cpu_features(cpuinfo: Path = CPUINFO) -> "frozenset[str] | None":
    """The flags that every core has (x86: `flags`, ARM: `Features`); None if none are listed."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return None
    cores = [
        frozenset(line.split(":", 1)[1].split())
        for line in text.splitlines()
        if re.match(r"(flags|Features)\s*:", line)
    ]
    return frozenset.intersection(*cores) if cores else None


def check_fit(manifest: Manifest, machine: Machine) -> None:
    """Refuse a bundle that this machine cannot run.

    Raises:
        RunnerError: (`architecture`, `features` or `runtime`) with what does not fit.
    """
    target = manifest.target
    again = (
        f"build the bundle for this machine: edgecompress compile --board NAME (not {target.board})"
    )
    if machine.arch != target.arch:
        raise RunnerError(
            "architecture",
            f"the bundle is for {target.arch} ({target.board}), this machine is {machine.arch}",
            again,
        )
    for name, need in (("tvm", TVM), ("tvm_ffi", TVM_FFI)):
        got = manifest.versions.get(name)
        if got != need:
            raise RunnerError(
                "runtime",
                f"the bundle's {name} is {got or 'not stated'}, this runner works with {need}",
                "build the bundle with this version of edgecompress: edgecompress compile",
            )
    if machine.python != target.python:
        raise RunnerError(
            "runtime",
            f"the bundle's runtime is for Python {target.python}, this is {machine.python}",
            f'set python = "{machine.python}" in the board\'s description, then build it again',
        )
    if machine.glibc and _numbers(machine.glibc) < _numbers(target.glibc):
        raise RunnerError(
            "runtime",
            f"the bundle needs a C library of {target.glibc}, this machine has {machine.glibc}",
            "update the board's operating system",
        )
    missing = sorted(set(target.features) - (machine.features or frozenset()))
    if missing and machine.features is not None:  # None: the kernel does not tell
        raise RunnerError(
            "features",
            f"the bundle needs CPU features that this machine lacks: {', '.join(missing)}",
            again,
        )


def _numbers(version: str) -> "tuple[int, ...]":
    return tuple(int(part) for part in re.findall(r"\d+", version))
