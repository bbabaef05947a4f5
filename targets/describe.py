"""From what a board says about itself to its description, with how sure each part of it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from edgecompress.errors import BoardError
from edgecompress.files import config_dir, write_text

from .board import forget, parse_board
from .cores import ARM_PARTS, TYPICAL, Typical

MEASURED, KNOWN, GUESSED = "read on the board", "known of this core", "guessed"

# Flags of /proc/cpuinfo and what LLVM calls the same: what our kernels can use.
_FEATURES = {"asimd": "+neon", "asimddp": "+dotprod", "asimdhp": "+fullfp16"}
_UNKNOWN = Typical(l1d_kib=32, l2_kib=256, fma_per_cycle=1.0)
_CLOCK_MHZ = 1000
_CACHES = (("l1d_kib", "L1 data cache", 1024), ("l2_kib", "L2 cache", 1 << 20))


@dataclass(frozen=True)
class Cpu:
    """One CPU as the kernel lists it. None stands for what it does not tell.

    Attributes:
        part: Arm's part number ("0xd08"), "" on other processors.
        max_mhz: its highest clock.
        l1d_kib: first-level data cache.
        l2_kib: second-level cache that it can use.
    """

    part: str
    max_mhz: int | None = None
    l1d_kib: int | None = None
    l2_kib: int | None = None


@dataclass(frozen=True)
class Evidence:
    """What a board said.

    Attributes:
        arch: as `uname -m` prints it.
        model: the board's own name; "" where there is no device tree.
        compatible: the device tree's names, the board's first and the system on chip's last.
        features: flags of /proc/cpuinfo.
        cpus: in the kernel's order.
        memory_mib, glibc, python: as `rpc.probe.Facts` has them.
        temperature: a file with the temperature, "" if there is none.
        throttled: whether it has a Raspberry Pi's `vcgencmd`.
    """

    arch: str
    model: str
    compatible: tuple[str, ...]
    features: tuple[str, ...]
    cpus: tuple[Cpu, ...]
    memory_mib: int
    glibc: str
    python: str
    temperature: str
    throttled: bool


@dataclass(frozen=True)
class Finding:
    """One line of a description: what, its value, and where it is from."""

    what: str
    value: str
    source: str


@dataclass(frozen=True)
class Description:
    """A board's file and how sure it is.

    Attributes:
        toml: the file's text.
        findings: for people, one for each thing that was found out.
    """

    toml: str
    findings: tuple[Finding, ...]

    @property
    def guesses(self) -> tuple[Finding, ...]:
        """What nobody told."""
        return tuple(one for one in self.findings if one.source == GUESSED)


def describe(evidence: Evidence) -> Description:
    """Describe a board from what it said.

    Raises:
        BoardError: it is no 64-bit ARM system, or names no CPU.
    """
    if evidence.arch != "aarch64":
        raise BoardError(
            f"the system is {evidence.arch or 'of an unknown architecture'}, not aarch64",
            "install the board's 64-bit system; 32-bit ones are not supported",
        )
    if not evidence.cpus:
        raise BoardError("the board names no CPU in /proc/cpuinfo")
    findings: list[Finding] = []
    title = _printable(evidence.model) or "64-bit ARM board"
    soc = _printable(evidence.compatible[-1]) if evidence.compatible else "unknown"
    findings.append(Finding("board", title, MEASURED if evidence.model else GUESSED))
    findings.append(Finding("system on chip", soc, MEASURED if evidence.compatible else GUESSED))
    flags = [flag for flag in _FEATURES if flag in evidence.features]
    findings.append(Finding("instructions", " ".join(flags) or "none named", MEASURED))
    clusters = _clusters(evidence.cpus, findings)
    findings.append(Finding("memory", f"{evidence.memory_mib} MiB", MEASURED))
    findings.append(Finding("C library", f"glibc {evidence.glibc}", MEASURED))
    lines = {
        "title": title,
        "soc": soc,
        "kind": "ssh",
        "arch": "aarch64",
        "triple": "aarch64-linux-gnu",
        "mcpu": _least(evidence.cpus),
        "mattr": [_FEATURES[flag] for flag in flags],
        "features": flags,
        "glibc": ".".join(evidence.glibc.split(".")[:2]) or "2.28",
        "python": ".".join(evidence.python.split(".")[:2]),
        "memory_mib": min(max(evidence.memory_mib, 64), 1 << 24),
    }
    toml = "# Written by `edgecompress boards probe`.\n"
    toml += "".join(f"# Guessed: {one.what} ({one.value}).\n" for one in findings if _guess(one))
    toml += "".join(f"{key} = {_value(value)}\n" for key, value in lines.items())
    for cluster in clusters:
        toml += "\n[[clusters]]\n" + "".join(f"{k} = {_value(v)}\n" for k, v in cluster.items())
    toml += _telemetry(evidence)
    return Description(toml, tuple(findings))


def write_description(name: str, description: Description) -> Path:
    """Write a board's file into the user's configuration; `load_board(name)` reads it.

    Raises:
        InputError: the description is not what a board's file may hold.
    """
    path = config_dir() / "boards" / f"{name}.toml"
    parse_board(description.toml, f"the description of '{name}'")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, description.toml)
    forget()
    return path


def _guess(finding: Finding) -> bool:
    return finding.source == GUESSED


def _clusters(cpus: Sequence[Cpu], findings: list[Finding]) -> list[dict[str, object]]:
    """CPUs of one sort, the fastest first."""

    def sort(cpu: Cpu) -> tuple[str, int]:
        return cpu.part, cpu.max_mhz or 0

    found = []
    for (part, mhz), group in groupby(sorted(cpus, key=sort), key=sort):
        members = list(group)
        core = ARM_PARTS.get(part, "generic")
        typical = TYPICAL.get(core, _UNKNOWN)
        label = f"{len(members)} x {core}"
        findings.append(Finding("cores", label, MEASURED if part in ARM_PARTS else GUESSED))
        clock = min(max(mhz or _CLOCK_MHZ, 100), 10_000)
        findings.append(Finding(f"{core} clock", f"{clock} MHz", MEASURED if mhz else GUESSED))
        caches = {}
        for key, text, most in _CACHES:
            told = max((getattr(cpu, key) or 0 for cpu in members), default=0)
            caches[key] = min(told, most) or getattr(typical, key)
            source = MEASURED if told else (KNOWN if core in TYPICAL else GUESSED)
            findings.append(Finding(f"{core} {text}", f"{caches[key]} KiB", source))
        rate = f"{typical.fma_per_cycle:g} a cycle"
        source = KNOWN if core in TYPICAL else GUESSED
        findings.append(Finding(f"{core} multiply-adds", rate, source))
        cluster: dict[str, object] = {
            "core": core,
            "cores": len(members),
            "mhz": clock,
            **caches,
            "vector_bits": 128,
            "vector_registers": 32,
            "fma_per_cycle": typical.fma_per_cycle,
        }
        found.append((clock * typical.fma_per_cycle, cluster))
    return [cluster for _, cluster in sorted(found, key=lambda pair: -pair[0])]


def _least(cpus: Sequence[Cpu]) -> str:
    """The name that LLVM compiles for: of the fastest core, whose order of instructions suits;
    what may be used at all is in `mattr`, and all cores have that.
    """
    names = [ARM_PARTS[cpu.part] for cpu in cpus if cpu.part in ARM_PARTS]
    known = [name for name in names if name in TYPICAL]
    return max(known, key=lambda name: TYPICAL[name].fma_per_cycle, default="generic")


def _telemetry(evidence: Evidence) -> str:
    lines = []
    if evidence.temperature:
        lines.append(f"temperature = {_value(evidence.temperature)}\n")
    if evidence.throttled:
        lines.append('throttled = ["vcgencmd", "get_throttled"]\n')
    return "\n[telemetry]\n" + "".join(lines) if lines else ""


def _printable(text: str) -> str:
    return "".join(char for char in text[:200] if char.isprintable()).strip()


def _value(value: object) -> str:
    """TOML; a JSON string, number or list of strings is one."""
    return json.dumps(value, ensure_ascii=False)
