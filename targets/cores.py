"""Arm's cores: the numbers by which /proc/cpuinfo knows them."""

from __future__ import annotations

from dataclasses import dataclass

# Part numbers (MIDR_EL1 bits 15..4, implementer 0x41) and LLVM's names for them.
ARM_PARTS = {
    "0xd03": "cortex-a53",
    "0xd04": "cortex-a35",
    "0xd05": "cortex-a55",
    "0xd07": "cortex-a57",
    "0xd08": "cortex-a72",
    "0xd09": "cortex-a73",
    "0xd0a": "cortex-a75",
    "0xd0b": "cortex-a76",
    "0xd0c": "neoverse-n1",
    "0xd0d": "cortex-a77",
    "0xd40": "neoverse-v1",
    "0xd41": "cortex-a78",
    "0xd46": "cortex-a510",
    "0xd47": "cortex-a710",
    "0xd49": "neoverse-n2",
    "0xd4f": "neoverse-v2",
}


@dataclass(frozen=True)
class Typical:
    """What most systems with a core have, where the kernel does not tell.

    Attributes:
        l1d_kib: first-level data cache.
        l2_kib: second-level cache that one core can use.
        fma_per_cycle: 128-bit multiply-adds of float32 that it starts in a cycle.
    """

    l1d_kib: int
    l2_kib: int
    fma_per_cycle: float


# Arm's technical reference manuals and software optimisation guides; caches as usually built.
TYPICAL = {
    "cortex-a53": Typical(32, 512, 1.0),
    "cortex-a35": Typical(32, 256, 0.5),
    "cortex-a55": Typical(32, 128, 1.0),
    "cortex-a57": Typical(32, 1024, 1.0),
    "cortex-a72": Typical(32, 1024, 1.0),
    "cortex-a73": Typical(32, 1024, 1.0),
    "cortex-a75": Typical(64, 256, 2.0),
    "cortex-a76": Typical(64, 512, 2.0),
    "neoverse-n1": Typical(64, 1024, 2.0),
    "cortex-a77": Typical(64, 512, 2.0),
    "cortex-a78": Typical(64, 512, 2.0),
}
LLVM_CORES = frozenset(ARM_PARTS.values())
_PARTS = {core: part for part, core in ARM_PARTS.items()}


def part_of(core: str) -> str:
    """The part number of a core ("0xd08"), or "" where it is none of Arm's that are known."""
    return _PARTS.get(core, "")
