"""The board `host`: this machine, described from /proc/cpuinfo and sysfs.

The cpu name is taken from the flags, not from the model: a virtual machine may hide instructions
that its model has (AMX, AVX512-FP16), and LLVM's name for the model would bring them back.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from edgecompress.errors import BoardError

from .cores import ARM_PARTS
from .description import Arch, Board, Cluster, Telemetry

CPU_FOLDER = Path("/sys/devices/system/cpu")
MIB = 1 << 20

# The x86-64 psABI's micro-architecture levels: what a level's flags are called in /proc/cpuinfo.
X86_LEVELS = (
    ("x86-64-v4", ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "fma", "avx2")),
    ("x86-64-v3", ("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm")),
    ("x86-64-v2", ("sse4_2", "ssse3", "popcnt", "cx16")),
)

# Cores that start one 128-bit fused multiply-add a cycle; the newer ones start two.
ARM_SINGLE_ISSUE = (
    "cortex-a35",
    "cortex-a53",
    "cortex-a55",
    "cortex-a57",
    "cortex-a72",
    "cortex-a73",
    "cortex-a510",
    "generic",
)


def host_board(title: str) -> Board:
    """Describe this machine.

    Raises:
        BoardError: it is neither x86-64 nor 64-bit Arm, or not Linux.
    """
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in ("x86_64", "aarch64"):
        raise BoardError(
            f"the board 'host' needs 64-bit Linux, not {platform.system()} on {machine}",
            "`edgecompress boards list` shows the other boards",
        )
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    describe = _x86 if machine == "x86_64" else _arm
    arch, mcpu, mattr, features, cluster, soc = describe(info)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    temperature = Path("/sys/class/thermal/thermal_zone0/temp")
    return Board(
        name="host",
        title=title,
        soc=soc,
        kind="host",
        arch=arch,
        triple=f"{machine}-linux-gnu",
        mcpu=mcpu,
        mattr=mattr,
        features=features,
        glibc=platform.libc_ver()[1] or "2.28",
        python=".".join(platform.python_version_tuple()[:2]),
        clusters=(cluster,),
        memory_mib=memory // MIB,
        telemetry=Telemetry(str(temperature) if temperature.exists() else ""),
    )


_Described = tuple[Arch, str, tuple[str, ...], tuple[str, ...], Cluster, str]


def _x86(info: str) -> _Described:
    flags = set(_field(info, "flags").split())
    mcpu, features = "x86-64", ("sse2",)
    for level, needed in X86_LEVELS:
        if flags.issuperset(needed):
            mcpu, features = level, needed
            break
    bits = {"x86-64-v4": 512, "x86-64-v3": 256}.get(mcpu, 128)
    # Two ports multiply and add; before version 3 of the levels there is no fused instruction, and
    # one multiplication and one addition a cycle make the same peak.
    cluster = _cluster(mcpu, bits, 32 if bits == 512 else 16, 2.0 if bits > 128 else 1.0)
    return "x86_64", mcpu, (), features, cluster, _field(info, "model name") or "x86-64"


def _arm(info: str) -> _Described:
    flags = set(_field(info, "Features").split())
    part = _field(info, "CPU part")
    arm = _field(info, "CPU implementer") == "0x41"
    mcpu = ARM_PARTS.get(part, "generic") if arm else "generic"
    extras = {"asimddp": "+dotprod", "asimdhp": "+fullfp16"}
    mattr = ("+neon", *(name for flag, name in extras.items() if flag in flags))
    features = ("asimd", *(flag for flag in extras if flag in flags))
    cluster = _cluster(mcpu, 128, 32, 1.0 if mcpu in ARM_SINGLE_ISSUE else 2.0)
    return "aarch64", mcpu, mattr, features, cluster, f"{mcpu} ({part or 'unknown part'})"


def _cluster(core: str, bits: int, registers: int, fma: float) -> Cluster:
    return Cluster(
        core=core,
        cores=len(os.sched_getaffinity(0)),
        mhz=_mhz(),
        l1d_kib=_cache_kib(1) or 32,
        l2_kib=_cache_kib(2) or 256,
        vector_bits=bits,
        vector_registers=registers,
        fma_per_cycle=fma,
    )


def _field(info: str, key: str) -> str:
    """The first value of a key of /proc/cpuinfo, or ""."""
    found = re.search(rf"^{re.escape(key)}\s*:[ \t]*(.*)$", info, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _mhz() -> int:
    """The highest clock; where the machine hides it, the present one, else a plain 2000."""
    try:
        khz = (CPU_FOLDER / "cpu0/cpufreq/cpuinfo_max_freq").read_text()
        return max(1, int(khz) // 1000)
    except (OSError, ValueError):
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        return round(float(_field(info, "cpu MHz") or 2000))


def _cache_kib(level: int) -> int:
    """Size of cpu0's data (or unified) cache of a level, KiB; 0 where sysfs does not tell."""
    for index in sorted((CPU_FOLDER / "cpu0/cache").glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            if int((index / "level").read_text()) == level and kind != "Instruction":
                return int((index / "size").read_text().strip().removesuffix("K"))
        except (OSError, ValueError):
            continue
    return 0
