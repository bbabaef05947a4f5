"""What a board says about itself, asked in one round trip and read as untrusted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from edgecompress.errors import BoardError

from ..targets.describe import Cpu, Evidence
from .packages import environment
from .scripts import python
from .session import Session

T = TypeVar("T")

PROBE_S = 60.0
PYTHON_HINT = "install Python on the board: sudo apt install python3 python3-numpy python3-pil"
_PART = r"^CPU part\s*: (0x[0-9a-f]{3})$"

# Runs on the board's own Python, 3.6 or newer, and must not fail where something is missing there.
_SCRIPT = r"""
import json, os, platform, shutil, subprocess, sys
def read(path):
    try:
        with open(path, errors="replace") as stream:
            return stream.read(100000).strip("\0\n ")
    except OSError:
        return ""
def version(name):
    try:
        return __import__(name).__version__
    except Exception:
        return ""
def said(argv):
    try:
        return subprocess.check_output(argv, stderr=subprocess.DEVNULL, timeout=10).decode().strip()
    except Exception:
        return ""
ask = json.loads(sys.argv[1])
policies = "/sys/devices/system/cpu/cpufreq"
names = sorted(os.listdir(policies)) if os.path.isdir(policies) else []
clocks = [[read(os.path.join(policies, name, key)) for key in
           ("scaling_governor", "scaling_cur_freq", "cpuinfo_max_freq")] for name in names]
def cache(cpu, level):
    base = "/sys/devices/system/cpu/cpu%d/cache" % cpu
    for index in sorted(os.listdir(base)) if os.path.isdir(base) else []:
        at = os.path.join(base, index)
        if read(at + "/level") == str(level) and read(at + "/type") != "Instruction":
            return read(at + "/size")
    return ""
cpus = [[read("/sys/devices/system/cpu/cpu%d/cpufreq/cpuinfo_max_freq" % cpu),
         cache(cpu, 1), cache(cpu, 2)] for cpu in sorted(os.sched_getaffinity(0))]
memory = dict(line.split(":")[:2] for line in read("/proc/meminfo").splitlines() if ":" in line)
print(json.dumps({
    "arch": platform.machine(),
    "kernel": platform.release(),
    "system": read("/etc/os-release"),
    "model": read("/sys/firmware/devicetree/base/model") or read("/proc/device-tree/model"),
    "glibc": platform.libc_ver()[1],
    "python": platform.python_version(),
    "cpuinfo": read("/proc/cpuinfo"),
    "cores": len(os.sched_getaffinity(0)),
    "disk_free": shutil.disk_usage(ask["workdir"]).free,
    "memory_kib": memory.get("MemTotal", "0").split()[0],
    "available_kib": memory.get("MemAvailable", "0").split()[0],
    "clocks": clocks,
    "cpus": cpus,
    "compatible": read("/sys/firmware/devicetree/base/compatible"),
    "thermal": os.path.exists("/sys/class/thermal/thermal_zone0/temp"),
    "vcgencmd": bool(shutil.which("vcgencmd")),
    "temperature": read(ask["temperature"]) if ask["temperature"] else "",
    "throttled": said(ask["throttled"]) if ask["throttled"] else "",
    "numpy": version("numpy"),
    "pillow": version("PIL"),
}))
"""


@dataclass(frozen=True)
class Facts:
    """What a board is and how it does right now. None and "" stand for what it does not tell.

    Attributes:
        arch: as `uname -m` prints it.
        kernel: release of the kernel.
        system: the operating system's own name ("Debian GNU/Linux 12 (bookworm)").
        model: the board's own name, from its device tree.
        glibc: version of the C library ("2.36").
        python: version of `python3` ("3.11.2").
        features: flags of /proc/cpuinfo.
        parts: Arm's part numbers there, one for each CPU ("0xd08"); none on other processors.
        cores: cores that a process may use.
        disk_free: bytes free below the session's `workdir`.
        memory_mib: memory in all, MiB.
        available_mib: memory that a new process can have, MiB.
        governor: the frequency governor; several, joined by "/", where clusters differ.
        mhz: current clock of the fastest cluster, MHz.
        max_mhz: highest clock of the fastest cluster, MHz.
        temperature_c: of the SoC, degrees Celsius.
        throttled: flags as the firmware states them ("0x0": never throttled since it started).
        numpy: version of numpy; "" where it is not installed.
        pillow: version of Pillow; "" where it is not installed.
    """

    arch: str
    kernel: str
    system: str
    model: str
    glibc: str
    python: str
    features: tuple[str, ...]
    parts: tuple[str, ...]
    cores: int
    disk_free: int
    memory_mib: int
    available_mib: int
    governor: str
    mhz: int | None
    max_mhz: int | None
    temperature_c: float | None
    throttled: str
    numpy: str
    pillow: str


def probe(session: Session) -> Facts:
    """Ask the board.

    Raises:
        BoardError: it has no Python 3, or its answer makes no sense.
    """
    return _read(session, _facts)


def _read(session: Session, make: Callable[[dict[str, Any]], T]) -> T:
    telemetry = session.board.telemetry
    asked = {
        "workdir": session.workdir,
        "temperature": telemetry.temperature,
        "throttled": list(telemetry.throttled),
    }
    argv = python(_SCRIPT, json.dumps(asked))
    env = environment(session)
    done = session.run(argv, timeout=PROBE_S, cwd=session.workdir, env=env)
    done.check(
        f"'{session.name}' cannot tell about itself",
        PYTHON_HINT,
    )
    try:
        return make(json.loads(done.stdout.strip().splitlines()[-1]))
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise BoardError(f"'{session.name}' gave an answer that makes no sense: {error}") from error


def _facts(told: dict[str, Any]) -> Facts:
    clocks = [tuple(map(str, clock)) for clock in told["clocks"]]
    fastest = max(clocks, key=lambda clock: _number(clock[2]) or 0, default=("", "", ""))
    governors = dict.fromkeys(clock[0] for clock in clocks if clock[0])
    millidegrees = _number(told["temperature"])
    return Facts(
        arch=_text(told["arch"]),
        kernel=_text(told["kernel"]),
        system=_text(_assigned(str(told["system"]), "PRETTY_NAME")),
        model=_text(told["model"]),
        glibc=_text(told["glibc"]),
        python=_text(told["python"]),
        features=_features(str(told["cpuinfo"])),
        parts=tuple(re.findall(_PART, str(told["cpuinfo"]), re.MULTILINE)),
        cores=int(told["cores"]),
        disk_free=int(told["disk_free"]),
        memory_mib=int(told["memory_kib"]) // 1024,
        available_mib=int(told["available_kib"]) // 1024,
        governor=_text("/".join(governors)),
        mhz=_megahertz(fastest[1]),
        max_mhz=_megahertz(fastest[2]),
        temperature_c=None if millidegrees is None else millidegrees / 1000,
        throttled=_text(str(told["throttled"]).removeprefix("throttled=")),
        numpy=_text(told["numpy"]),
        pillow=_text(told["pillow"]),
    )


def evidence(session: Session) -> Evidence:
    """Ask the board for what its description needs.

    Raises:
        BoardError: it has no Python 3, or its answer makes no sense.
    """
    return _read(session, lambda told: _evidence(told, _facts(told)))


def _evidence(told: dict[str, Any], facts: Facts) -> Evidence:
    parts = facts.parts or ("",) * len(told["cpus"])
    cpus = [
        Cpu(part, _megahertz(str(khz)), _kib(l1d), _kib(l2))
        for part, (khz, l1d, l2) in zip(parts, told["cpus"], strict=False)
    ]
    names = [_text(name) for name in str(told["compatible"]).split("\0") if name]
    return Evidence(
        arch=facts.arch,
        model=facts.model,
        compatible=tuple(names[:8]),
        features=facts.features,
        cpus=tuple(cpus),
        memory_mib=facts.memory_mib,
        glibc=facts.glibc,
        python=facts.python,
        temperature="/sys/class/thermal/thermal_zone0/temp" if told["thermal"] else "",
        throttled=bool(told["vcgencmd"]),
    )


def _kib(size: object) -> int | None:
    """A cache's size as sysfs prints it: "32K", "1024K", "2M"."""
    found = re.fullmatch(r"([0-9]{1,7})([KM])", str(size))
    return int(found.group(1)) * (1024 if found.group(2) == "M" else 1) if found else None


def _text(value: object) -> str:
    """A short printable text: what a board says ends up in terminals and reports."""
    return "".join(char for char in str(value)[:200] if char.isprintable())


def _number(text: object) -> int | None:
    return int(str(text)) if re.fullmatch(r"-?[0-9]{1,12}", str(text)) else None


def _megahertz(khz: str) -> int | None:
    number = _number(khz)
    return None if number is None else number // 1000


def _features(cpuinfo: str) -> tuple[str, ...]:
    found = re.search(r"^(?:Features|flags)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return tuple(_text(flag) for flag in found.group(1).split()) if found else ()


def _assigned(text: str, name: str) -> str:
    """A value of an os-release file."""
    found = re.search(rf'^{name}="?([^"\n]*)"?$', text, re.MULTILINE)
    return found.group(1) if found else ""
