"""How the board feels: temperature, clock, throttling, power, and who else uses its cores.

What cannot be read is None, with the reason beside it: never a guess, never a zero.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from .measure import PROC, read_number, read_text

SYS = Path("/sys")

INTERVAL_S = 1.0
PROGRAM_S = 5.0
"""Between two calls of a program: it costs more than all that the kernel tells in files."""
MOST_SAMPLES = 600

_PROGRAM_TIMEOUT_S = 5.0
_FEWEST_TICKS = 50  # of all cores used: in less time the kernel's 10 ms are too coarse

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
# The same bits without a program, where the kernel has the firmware's driver.
_FIRMWARE = "devices/platform/soc/soc:firmware/get_throttled"
_COOLED = re.compile("cpufreq|Processor")
_RAIL = re.compile(r"(\w+)_([AV]) (?:current|volt)\(\d+\)=(\d+(?:\.\d+)?)[AV]")


@dataclasses.dataclass(frozen=True)
class Usage:
    """How long some CPUs have worked, in the kernel's ticks since the board was started.

    Attributes:
        passed: of all of them together.
        busy: of these, spent on anything but waiting.
        own: spent on this process and the programs that it has called.
    """

    passed: int
    busy: int
    own: int


@dataclasses.dataclass(frozen=True)
class Sample:
    """The board at one moment of a run.

    Attributes:
        t: seconds since the sampling began.
        temperature_c: of the CPU.
        mhz: of each core that the run uses.
        throttled: flags in words; those "now" are of this moment.
        watts: of all rails together, where a power chip tells.
        load: the kernel's load average over a minute.
        others: share of the cores used that other processes have had since the last sample.
    """

    t: float
    temperature_c: Optional[float]
    mhz: "Optional[tuple[int, ...]]"
    throttled: "Optional[tuple[str, ...]]"
    watts: Optional[float]
    load: Optional[float]
    others: Optional[float]


class Sampler:
    """Samples once a second, in a thread of its own, as long as the `with` block lasts.

    Above `MOST_SAMPLES` every other one is dropped and the next come at twice the interval, so
    that a run of hours needs no more room than one of minutes.
    """

    def __init__(
        self,
        cpus: Sequence[int],
        *,
        interval_s: float = INTERVAL_S,
        program_s: float = PROGRAM_S,
        sys_root: Path = SYS,
        proc_root: Path = PROC,
    ) -> None:
        """Nothing is read before the block begins.

        Args:
            cpus: that the run uses.
        """
        self.samples: list[Sample] = []
        self._cpus, self._sys, self._proc = tuple(cpus), sys_root, proc_root
        self._fastest = self._interval = interval_s
        self._program_s = program_s
        self._power = shutil.which("vcgencmd")
        self._asked = -math.inf
        self._slow: tuple[Optional[list[str]], Optional[float]] = (None, None)
        self._usage: Optional[Usage] = None
        self._spent = 0.0
        self._taken = 0
        self._zero = time.monotonic()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="telemetry", daemon=True)

    def __enter__(self) -> "Sampler":
        self._zero = time.monotonic()
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(3 * _PROGRAM_TIMEOUT_S)

    def now(self) -> float:
        """Seconds since the sampling began; no clock that somebody sets moves it."""
        return time.monotonic() - self._zero

    def usage(self) -> Optional[Usage]:
        """What the run's cores have done so far."""
        return read_usage(self._cpus, self._proc)

    def temperature(self) -> Optional[float]:
        """Degrees Celsius now."""
        return temperature(self._sys)

    def quicken(self) -> None:
        """Sample at the first interval again: what follows is short, and matters."""
        self._interval = self._fastest

    def sample(self) -> Sample:
        """Take a sample now, in which everything is fresh."""
        return self._take(fresh=True)

    def to_json(self) -> "dict[str, Any]":
        """All samples, what they have cost, and why what they lack cannot be read."""
        samples = list(self.samples)
        return {
            "interval_s": self._interval,
            "sample_ms": round(self._spent / max(1, self._taken) * 1e3, 3),
            "samples": [dataclasses.asdict(one) for one in samples],
            "reasons": _unread(samples),
        }

    def _work(self) -> None:
        while not self._stop.wait(self._interval):
            self._take(fresh=False)

    def _take(self, fresh: bool) -> Sample:
        with self._lock:
            # Of this thread: how long others made it wait is no cost of the sample.
            start = time.thread_time()
            if fresh or self.now() - self._asked >= self._program_s:
                self._asked = self.now()
                self._slow = (throttled(self._sys)[0], self._watts())
            before, self._usage = self._usage, self.usage()
            flags, watts = self._slow
            clocks = frequencies(self._sys, self._cpus)
            sample = Sample(
                t=round(self.now(), 3),
                temperature_c=self.temperature(),
                mhz=None if clocks is None else tuple(clocks),
                throttled=None if flags is None else tuple(flags),
                watts=watts,
                load=_load(self._proc),
                others=others(before, self._usage),
            )
            self.samples.append(sample)
            if len(self.samples) > MOST_SAMPLES:
                self.samples = self.samples[::2]
                self._interval *= 2
            self._spent += time.thread_time() - start
            self._taken += 1
            return sample

    def _watts(self) -> Optional[float]:
        """Power now; a board that has failed to tell is not asked again."""
        found = None if self._power is None else power(self._power)
        if found is None:
            self._power = None
        return found


_REASONS = {
    "temperature_c": "no thermal zone of the CPU can be read",
    "mhz": "the kernel shows no cpufreq",
    "throttled": "neither the firmware nor the kernel tells of throttling",
    "watts": "no power chip tells (a Raspberry Pi 5 has one)",
    "load": "/proc/loadavg cannot be read",
    "others": "/proc/stat and /proc/self/stat do not tell who used the cores",
}


def _unread(samples: Sequence[Sample]) -> "dict[str, str]":
    return {
        name: why
        for name, why in _REASONS.items()
        if all(getattr(sample, name) is None for sample in samples)
    }


def state(sys_root: Path = SYS) -> "dict[str, Any]":
    """How the board feels now.

    Returns:
        `temperature_c`, `frequency_mhz` (of each core), `governor` (of each core), `throttled`
        (flags in words), each None where it cannot be read, and `reasons` for those.
    """
    cpus = _cpus(sys_root)
    flags, why = throttled(sys_root)
    told = {
        "temperature_c": temperature(sys_root),
        "frequency_mhz": frequencies(sys_root, cpus),
        "governor": governors(sys_root, cpus),
        "throttled": flags,
    }
    known = {
        "temperature_c": _REASONS["temperature_c"],
        "frequency_mhz": _REASONS["mhz"],
        "governor": _REASONS["mhz"],
        "throttled": why,
    }
    return {**told, "reasons": {name: known[name] for name in told if told[name] is None}}


def _cpus(sys_root: Path) -> "list[int]":
    folders = (sys_root / "devices/system/cpu").glob("cpu[0-9]*/cpufreq")
    return sorted(int(folder.parent.name[3:]) for folder in folders)


def frequencies(sys_root: Path, cpus: Sequence[int]) -> "Optional[list[int]]":
    """The clock of each of some cores, MHz; None unless all tell."""
    found = [read_number(_cpufreq(sys_root, cpu, "scaling_cur_freq")) for cpu in cpus]
    known = [round(one / 1e3) for one in found if one is not None]
    return known if known and len(known) == len(cpus) else None


def governors(sys_root: Path, cpus: Sequence[int]) -> "Optional[list[str]]":
    """What sets the clock of each of some cores; None unless all tell."""
    found = [read_text(_cpufreq(sys_root, cpu, "scaling_governor")) for cpu in cpus]
    known = [one for one in found if one is not None]
    return known if known and len(known) == len(cpus) else None


def _cpufreq(sys_root: Path, cpu: int, name: str) -> Path:
    return sys_root / f"devices/system/cpu/cpu{cpu}/cpufreq/{name}"


def temperature(sys_root: Path) -> Optional[float]:
    """Degrees Celsius of the first thermal zone named after the CPU or SoC, else of zone 0."""
    zones = sorted((sys_root / "class/thermal").glob("thermal_zone*"))
    named = [z for z in zones if re.search("cpu|soc|x86_pkg", read_text(z / "type") or "", re.I)]
    for zone in named or zones[:1]:
        value = read_number(zone / "temp")
        if value is not None:
            return round(value / 1e3, 1)
    return None


def throttled(sys_root: Path) -> "tuple[Optional[list[str]], str]":
    """What slows the board, in words; None and the reason where nothing tells.

    A Raspberry Pi's firmware is asked first, through its driver or `vcgencmd`; elsewhere the
    kernel's own cooling of the cores.
    """
    firmware = read_text(sys_root / _FIRMWARE)
    command = None if firmware else shutil.which("vcgencmd")
    try:
        if firmware:
            return _flags(int(firmware, 16)), ""
        if command:
            output = _output(command, "get_throttled")
            return _flags(int(output.strip().rsplit("=", 1)[1], 16)), ""
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        return None, f"vcgencmd get_throttled failed: {type(error).__name__}"
    devices = sorted((sys_root / "class/thermal").glob("cooling_device*"))
    cores = [one for one in devices if _COOLED.search(read_text(one / "type") or "")]
    if not cores:
        return None, "no vcgencmd here, and the kernel shows no cooling of the CPU"
    active = any((read_number(one / "cur_state") or 0) > 0 for one in cores)
    return ["frequency capped now"] * active, ""


def _flags(bits: int) -> "list[str]":
    return [text for bit, text in _THROTTLED.items() if bits >> bit & 1]


def power(command: str) -> Optional[float]:
    """Watts of all rails of a Raspberry Pi 5, from `vcgencmd pmic_read_adc`."""
    try:
        found = _RAIL.findall(_output(command, "pmic_read_adc"))
    except (OSError, subprocess.SubprocessError):
        return None
    rails: dict[str, dict[str, float]] = {}
    for rail, kind, value in found:
        rails.setdefault(rail, {})[kind] = float(value)
    watts = [one["A"] * one["V"] for one in rails.values() if len(one) == 2]
    return round(sum(watts), 3) if watts else None


def _output(*command: str) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=_PROGRAM_TIMEOUT_S, check=True
    ).stdout


def read_usage(cpus: Sequence[int], proc_root: Path = PROC) -> Optional[Usage]:
    """What some CPUs and this process have done so far; None where the kernel does not tell."""
    wanted = {f"cpu{cpu}" for cpu in cpus}
    passed = busy = seen = 0
    try:
        for line in (read_text(proc_root / "stat") or "").splitlines():
            name, *rest = line.split()
            if name not in wanted:
                continue
            # user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
            ticks = [int(one) for one in rest[:8]]
            passed += sum(ticks)
            busy += sum(ticks) - ticks[3] - ticks[4]
            seen += 1
        # The program's name may hold blanks and brackets: what follows the last bracket does not.
        fields = (read_text(proc_root / "self/stat") or "").rsplit(")", 1)[1].split()
        own = sum(int(one) for one in fields[11:15])
    except (ValueError, IndexError):
        return None
    return Usage(passed, busy, own) if seen == len(wanted) else None


def others(before: Optional[Usage], after: Optional[Usage]) -> Optional[float]:
    """Share of the cores that others have had in between; None where it cannot be told."""
    if before is None or after is None or after.passed - before.passed < _FEWEST_TICKS:
        return None
    used = (after.busy - before.busy) - (after.own - before.own)
    return round(min(1.0, max(0.0, used / (after.passed - before.passed))), 4)


def _load(proc_root: Path) -> Optional[float]:
    try:
        return float((read_text(proc_root / "loadavg") or "").split()[0])
    except (ValueError, IndexError):
        return None
