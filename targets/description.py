"""What a board's description says, as types."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from .cores import LLVM_CORES, part_of

Kind = Literal["host", "virtual", "ssh"]
ClusterName = Literal["fast", "efficient", "all"]
Arch = Literal["aarch64", "x86_64", "armv7l", "armv6l"]


@dataclass(frozen=True)
class Cluster:
    """Cores of one sort.

    Attributes:
        core: the core's name as Arm or LLVM gives it ("cortex-a72").
        cores: how many of them.
        mhz: highest clock of the stock firmware, MHz.
        l1d_kib: first-level data cache of one core, KiB.
        l2_kib: second-level cache that one core can use (shared or its own), KiB.
        vector_bits: width of a vector register, bits; 32 where there are no vectors.
        vector_registers: how many vector registers a kernel may use.
        fma_per_cycle: fused multiply-adds of full vectors that a core can start in one cycle.
    """

    core: str
    cores: int
    mhz: int
    l1d_kib: int
    l2_kib: int
    vector_bits: int
    vector_registers: int
    fma_per_cycle: float

    @property
    def part(self) -> str:
        """Its number in /proc/cpuinfo ("0xd08"); "" where it is none of Arm's that are known."""
        return part_of(self.core)

    @property
    def peak_gflops(self) -> float:
        """Peak of ONE core in float32, a multiply-add counted as two operations."""
        return 2 * self.fma_per_cycle * (self.vector_bits / 32) * self.mhz / 1000


@dataclass(frozen=True)
class Telemetry:
    """Where a board tells how it feels; empty where it does not.

    Attributes:
        temperature: file with the SoC's temperature in thousandths of a degree Celsius.
        throttled: command that prints throttling flags (`throttled=0x0`), as an argument list.
    """

    temperature: str = ""
    throttled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Emulation:
    """What a virtual board's CPU is, and how it describes itself.

    Attributes:
        cpu: QEMU's name of it ("cortex-a72").
        model: the board's own name in its device tree.
        revision: of the core, as Arm writes it ("r0p3").
        flags: `Features` of /proc/cpuinfo.
    """

    cpu: str
    model: str
    revision: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Board:
    """One sort of board.

    Attributes:
        name: how commands name it ("rpi4b").
        title: how people name it ("Raspberry Pi 4 Model B").
        soc: system on chip ("BCM2711").
        kind: `host` (this machine), `virtual` (arm64 userland under QEMU here), `ssh`.
        arch: as `uname -m` prints it under the supported operating system.
        triple: LLVM target triple.
        mcpu: LLVM cpu name; of the slowest cluster where two instruction sets differ.
        mattr: LLVM features beyond what is asked for by `mcpu`, each with its sign.
        features: flags that /proc/cpuinfo must show for the compiled code to run.
        glibc: oldest C library that a compiled file may ask for.
        python: version of the board's Python, for which its runtime is chosen.
        clusters: fastest first.
        memory_mib: of the smallest model sold, MiB.
        supported: whether bundles can be made for it.
        reason: why not, where not.
        emulation: of a virtual board; None of others.
    """

    name: str
    title: str
    soc: str
    kind: Kind
    arch: Arch
    triple: str
    mcpu: str
    mattr: tuple[str, ...]
    features: tuple[str, ...]
    glibc: str
    python: str
    clusters: tuple[Cluster, ...]
    memory_mib: int
    telemetry: Telemetry = Telemetry()
    supported: bool = True
    reason: str = ""
    emulation: Emulation | None = None

    @property
    def cores(self) -> int:
        """Cores of all clusters."""
        return sum(cluster.cores for cluster in self.clusters)

    @property
    def fast(self) -> Cluster:
        """The cluster whose single core is fastest."""
        return max(self.clusters, key=lambda cluster: cluster.peak_gflops)

    @property
    def efficient(self) -> Cluster:
        """The cluster whose single core is slowest."""
        return min(self.clusters, key=lambda cluster: cluster.peak_gflops)

    def on(self, cluster: ClusterName) -> Board:
        """The board as a network sees it that runs on one cluster, or on all cores.

        Everything that is made for `fast` (kernels, their target, their tuning) is made for the
        cluster then. "all" has the numbers of the fast core and the number of all cores. A board
        with one cluster is the same each time.
        """
        if cluster == "fast" or len(self.clusters) == 1:
            return self
        if cluster == "all":
            return replace(self, clusters=(replace(self.fast, cores=self.cores),))
        mcpu = self.efficient.core if self.efficient.core in LLVM_CORES else self.mcpu
        return replace(self, clusters=(self.efficient,), mcpu=mcpu)

    def tvm_target(self) -> dict[str, Any]:
        """The description that `tvm.target.Target` takes. `num-cores` are those of `fast`."""
        target: dict[str, Any] = {
            "kind": "llvm",
            "mtriple": self.triple,
            "mcpu": self.mcpu,
            "num-cores": self.fast.cores,
        }
        if self.mattr:
            target["mattr"] = list(self.mattr)
        return target
