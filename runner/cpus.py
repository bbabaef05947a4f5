"""Which CPUs a run uses: those of one of the board's clusters, or all that it may use.

Standard library alone and no relative imports: tuning runs this file on the board as it is.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Optional

CHOICES = ("fast", "efficient", "all")
CPUINFO = Path("/proc/cpuinfo")
CPU_FOLDER = Path("/sys/devices/system/cpu")
_ARM = "0x41"  # the implementer whose part numbers a description holds


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Cores of one sort, as a bundle's manifest describes them.

    Attributes:
        core: Arm's name of them.
        part: their number in /proc/cpuinfo ("0xd0b"); "" where it is not known.
        cores: how many.
    """

    core: str
    part: str
    cores: int


@dataclasses.dataclass(frozen=True)
class Placement:
    """The CPUs of a run.

    Attributes:
        cluster: what was asked for, one of `CHOICES`.
        cpus: their numbers, ascending.
        core: what they are; "" where they are of several sorts, or nobody knows.
        found_by: `part` (numbers of /proc/cpuinfo), `clock` (highest clocks), or `all`: nothing
            had to be chosen, or nothing tells the clusters apart.
        available: how many there were to choose from.
    """

    cluster: str
    cpus: tuple[int, ...]
    core: str
    found_by: str
    available: int


def place(
    clusters: Sequence[Cluster],
    cluster: str,
    cpuinfo: Optional[Path] = None,
    cpu_folder: Path = CPU_FOLDER,
    available: Optional[Collection[int]] = None,
) -> Placement:
    """The CPUs of a cluster of this machine.

    Args:
        clusters: what the board has, fastest first.
        cluster: one of `CHOICES`.
        available: numbers of the CPUs that may be used; by default those of this process.
    """
    usable = sorted(os.sched_getaffinity(0) if available is None else available)
    try:
        parts = cpu_parts((cpuinfo or CPUINFO).read_text(errors="replace"))
    except OSError:
        parts = {}
    return choose(clusters, cluster, usable, parts, highest_clocks(cpu_folder, usable))


def choose(
    clusters: Sequence[Cluster],
    cluster: str,
    available: Sequence[int],
    parts: Mapping[int, str],
    clocks: Mapping[int, int],
) -> Placement:
    """The CPUs of a cluster, from what is known of each CPU.

    Args:
        parts: CPU number to Arm's part number.
        clocks: CPU number to its highest clock, kHz.
    """
    everything = tuple(sorted(available))
    if cluster == "all" or len(clusters) < 2:
        core = clusters[0].core if len(clusters) == 1 else ""
        return Placement(cluster, everything, core, "all", len(everything))
    wanted = clusters[0] if cluster == "fast" else clusters[-1]
    for found_by, cpus in (
        ("part", _by_part(clusters, wanted, everything, parts)),
        ("clock", _by_clock(clusters, wanted, everything, clocks)),
    ):
        if cpus:
            return Placement(cluster, cpus, wanted.core, found_by, len(everything))
    return Placement(cluster, everything, "", "all", len(everything))


def _by_part(
    clusters: Sequence[Cluster], wanted: Cluster, available: Sequence[int], parts: Mapping[int, str]
) -> tuple[int, ...]:
    # Two clusters of one sort differ in their clocks only.
    if not wanted.part or [one.part for one in clusters].count(wanted.part) > 1:
        return ()
    return tuple(cpu for cpu in available if parts.get(cpu) == wanted.part)


def _by_clock(
    clusters: Sequence[Cluster],
    wanted: Cluster,
    available: Sequence[int],
    clocks: Mapping[int, int],
) -> tuple[int, ...]:
    """The first or the last so many by clock, where that is a border between two clocks."""
    if len(available) != sum(one.cores for one in clusters) or set(available) - clocks.keys():
        return ()
    ordered = sorted(available, key=lambda cpu: (-clocks[cpu], cpu))
    border = wanted.cores if wanted is clusters[0] else len(ordered) - wanted.cores
    if clocks[ordered[border - 1]] == clocks[ordered[border]]:
        return ()
    return tuple(sorted(ordered[:border] if wanted is clusters[0] else ordered[border:]))


def cpu_parts(cpuinfo: str) -> dict[int, str]:
    """Arm's part number of each CPU that /proc/cpuinfo gives one to; others are left out."""
    parts: dict[int, str] = {}
    number, implementer = -1, ""
    for line in cpuinfo.splitlines():
        key, _, value = (text.strip() for text in line.partition(":"))
        if key == "processor" and value.isdigit():
            number, implementer = int(value), ""
        elif key == "CPU implementer":
            implementer = value.lower()
        elif key == "CPU part" and number >= 0 and implementer == _ARM:
            parts[number] = value.lower()
    return parts


def highest_clocks(cpu_folder: Path, cpus: Sequence[int]) -> dict[int, int]:
    """The highest clock of each CPU, kHz; those that cpufreq does not know are left out."""
    clocks = {}
    for cpu in cpus:
        try:
            text = (cpu_folder / f"cpu{cpu}/cpufreq/cpuinfo_max_freq").read_text()
            clocks[cpu] = int(text)
        except (OSError, ValueError):
            continue
    return clocks


def pin(placement: Placement) -> None:
    """Keep this process, and every thread that it starts from now on, on those CPUs.

    Raises:
        OSError: the system does not allow it.
    """
    if len(placement.cpus) < placement.available:
        os.sched_setaffinity(0, placement.cpus)


if __name__ == "__main__":  # clusters as JSON, cluster
    told = [Cluster(**one) for one in json.loads(sys.argv[1])]
    sys.stdout.write(json.dumps(dataclasses.asdict(place(told, sys.argv[2]))) + "\n")
