"""Numbers of a run: percentiles, what the board is, how it feels, how much memory was used.

What cannot be read is None, with the reason beside it: never a guess, never a zero.
"""

from __future__ import annotations

import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np

SYS = Path("/sys")
PROC = Path("/proc")

# Bits of `vcgencmd get_throttled`, from the Raspberry Pi documentation.
_THROTTLED = {
    0: "under-voltage now",
    1: "frequency capped now",
    2: "throttled now",
    3: "soft temperature limit now",
    16: "under-voltage has occurred",
    17: "frequency capping has occurred",
    18: "throttling has occurred",
    19: "soft temperature limit has occurred",
}


def summary(values: Iterable[float]) -> "dict[str, float | int | None]":
    """p50, p90, p99, mean and n of some values; None, not NaN, where there are none.

    Percentiles interpolate linearly between the two nearest values.
    """
    numbers = np.asarray(list(values), np.float64)
    if numbers.size == 0:
        return {"p50": None, "p90": None, "p99": None, "mean": None, "n": 0}
    p50, p90, p99 = (round(float(p), 4) for p in np.percentile(numbers, [50, 90, 99]))
    mean = round(float(numbers.mean()), 4)
    return {"p50": p50, "p90": p90, "p99": p99, "mean": mean, "n": int(numbers.size)}


def latency(timings: Iterable[Mapping[str, float]]) -> "dict[str, dict[str, float | int | None]]":
    """A `summary` of each part of many timings, milliseconds; n is how often the part ran."""
    parts: dict[str, list[float]] = {}
    for one in timings:
        for part, value in one.items():
            parts.setdefault(part, []).append(value)
    return {part: summary(values) for part, values in parts.items()}


def peak_rss_mib(root: Path = PROC) -> float:
    """The most memory that this process has held so far, MiB.

    From the kernel's high-water mark: `getrusage` counts what the parent held when it started us.
    """
    match = re.search(r"VmHWM:\s*(\d+) kB", _text(root / "self/status") or "")
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
        "model": _text(root / "device-tree/model"),
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


def telemetry(sys_root: Path = SYS) -> dict[str, Any]:
    """How the board feels now.

    Returns:
        `temperature_c`, `frequency_mhz` (of each core), `governor` (of each core), `throttled`
        (flags in words), each None where it cannot be read, and `reasons` for those.
    """
    reasons: dict[str, str] = {}
    throttled, why = _throttled()
    if throttled is None:
        reasons["throttled"] = why
    temperature = _temperature(sys_root)
    if temperature is None:
        reasons["temperature_c"] = "no thermal zone of the CPU can be read"
    frequencies = [_number(path) for path in _cpufreq(sys_root, "scaling_cur_freq")]
    governors = [_text(path) for path in _cpufreq(sys_root, "scaling_governor")]
    for name, values in (("frequency_mhz", frequencies), ("governor", governors)):
        if not values or None in values:
            reasons[name] = "the kernel shows no cpufreq"
    return {
        "temperature_c": temperature,
        "frequency_mhz": None
        if "frequency_mhz" in reasons
        else [round(value / 1e3) for value in frequencies if value is not None],
        "governor": None if "governor" in reasons else governors,
        "throttled": throttled,
        "reasons": reasons,
    }


def _cpufreq(sys_root: Path, name: str) -> "list[Path]":
    return sorted((sys_root / "devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{name}"))


def _temperature(sys_root: Path) -> Optional[float]:
    """Degrees Celsius of the first thermal zone named after the CPU or SoC, else of zone 0."""
    zones = sorted((sys_root / "class/thermal").glob("thermal_zone*"))
    named = [z for z in zones if re.search("cpu|soc|x86_pkg", _text(z / "type") or "", re.I)]
    for zone in named or zones[:1]:
        value = _number(zone / "temp")
        if value is not None:
            return round(value / 1e3, 1)
    return None


def _throttled() -> "tuple[list[str] | None, str]":
    command = shutil.which("vcgencmd")
    if command is None:
        return None, "no vcgencmd here: the board is no Raspberry Pi, or lacks its tools"
    try:
        output = subprocess.run(
            [command, "get_throttled"], capture_output=True, text=True, timeout=5, check=True
        ).stdout
        bits = int(output.strip().rsplit("=", 1)[1], 16)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        return None, f"vcgencmd get_throttled failed: {type(error).__name__}"
    return [text for bit, text in _THROTTLED.items() if bits >> bit & 1], ""


def _memory_mib(meminfo: Path) -> Optional[int]:
    match = re.search(r"MemTotal:\s*(\d+) kB", _text(meminfo) or "")
    return int(match.group(1)) // 1024 if match else None


def _os_name() -> Optional[str]:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', _text(Path("/etc/os-release")) or "", re.M)
    return match.group(1) if match else sys.platform


def _text(path: Path) -> Optional[str]:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def _number(path: Path) -> Optional[float]:
    try:
        return float(_text(path) or "")
    except ValueError:
        return None
