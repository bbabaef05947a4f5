"""A Raspberry Pi made of files, and of a program on PATH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgecompress.runner.telemetry import Sampler


class Pi:
    """A Raspberry Pi as its files and its program tell of it; what is set is told from then on."""

    def __init__(self, root: Path, cores: int = 4) -> None:
        self.sys, self.proc, self.bin, self._cores = (
            root / "sys",
            root / "proc",
            root / "bin",
            cores,
        )
        for folder in (self.sys / "class/thermal/thermal_zone0", self.proc / "self", self.bin):
            folder.mkdir(parents=True)
        (self.sys / "class/thermal/thermal_zone0/type").write_text("cpu-thermal\n")
        (self.proc / "loadavg").write_text("1.50 1.00 0.50 2/300 4000\n")
        self.heat(48.3)
        self.clock(2400, "performance")
        self.work(0, 0, 0)
        self.flags(0)

    def heat(self, celsius: float) -> None:
        (self.sys / "class/thermal/thermal_zone0/temp").write_text(f"{celsius * 1e3:.0f}\n")

    def clock(self, mhz: int, governor: str = "performance") -> None:
        for core in range(self._cores):
            folder = self.sys / f"devices/system/cpu/cpu{core}/cpufreq"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "scaling_cur_freq").write_text(f"{mhz * 1000}\n")
            (folder / "scaling_governor").write_text(f"{governor}\n")

    def work(self, idle: int, own: int, other: int) -> None:
        """Ticks of each core since it was started: `own` and `other` of all cores together."""
        busy = (own + other) // self._cores
        line = f"{busy} 0 0 {idle} 0 0 0 0 0 0"
        lines = [f"cpu{core} {line}" for core in range(self._cores)]
        (self.proc / "stat").write_text("\n".join([f"cpu  {line}", *lines, "intr 1"]) + "\n")
        name = "1 (a (strange) name) R " + "0 " * 10
        (self.proc / "self/stat").write_text(f"{name}{own} 0 0 0 20 0\n")

    def flags(self, bits: int) -> None:
        self.program(f"throttled=0x{bits:x}")

    def program(self, flags: str, rails: str = "", status: int = 0) -> None:
        """What `vcgencmd` prints, and how it ends."""
        script = f'#!/bin/sh\n[ "$1" = get_throttled ] && echo "{flags}"\n'
        script += f'[ "$1" = pmic_read_adc ] && printf "{rails}"\nexit {status}\n'
        fresh = self.bin / "new"
        fresh.write_text(script)
        fresh.chmod(0o755)
        fresh.replace(self.bin / "vcgencmd")

    def sampler(self, interval_s: float = 0.02) -> Sampler:
        return Sampler(
            range(self._cores),
            interval_s=interval_s,
            program_s=interval_s,
            sys_root=self.sys,
            proc_root=self.proc,
        )


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pi:
    made = Pi(tmp_path / "pi")
    monkeypatch.setenv("PATH", str(made.bin), prepend=os.pathsep)
    return made
