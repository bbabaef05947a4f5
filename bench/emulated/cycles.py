"""Estimated cycles of counted blocks: LLVM's machine-code analyser on each, times its runs.

The analyser models one core's pipelines with caches that never miss, and each block as a loop of
its own; so cycles compare programs on one core, and are no prediction of time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from filelock import FileLock

from edgecompress.errors import BoardError
from edgecompress.files import cache_dir, read_json, write_json

from .count import APT_PACKAGES, Counts, instructions

# What we call a core, and the nearest model that LLVM has of it.
MODELS = {
    "cortex-a53": "cortex-a53",
    "cortex-a55": "cortex-a55",
    "cortex-a57": "cortex-a57",
    "cortex-a72": "cortex-a72",
    "cortex-a76": "neoverse-n1",
}
CORES = ("cortex-a55", "cortex-a72", "cortex-a76")
"""The cores that comparisons show, besides the board's own."""

# Blocks that together execute this share of all instructions are analysed; the rest counts alike.
COVERED = 0.999
_FEATURES = "-mattr=+v8.2a,+dotprod,+fullfp16,+crc,+aes,+sha2"
_NOP = "d503201f"
_ITERATIONS = 40
_BATCH = 200  # blocks of one call
_VERSIONS = ("19", "20", "18", "17", "")


@dataclass(frozen=True)
class Cost:
    """What a section costs on one core.

    Attributes:
        instructions: executed.
        cycles: estimated, with caches that never miss.
    """

    instructions: int
    cycles: float


def shown_cores(own: str) -> tuple[str, ...]:
    """The cores that are shown for a board: its own, if there is a model of it, then the others."""
    return tuple(dict.fromkeys(core for core in (own, *CORES) if core in MODELS))


def cost(counts: Counts, core: str) -> Cost:
    """Executed instructions and estimated cycles of a section; arguments and errors as `costs`."""
    return costs([counts], core)[0]


def costs(sections: Sequence[Counts], core: str) -> list[Cost]:
    """What sections cost, in order; their blocks are analysed together.

    Args:
        core: one of `MODELS`.

    Raises:
        BoardError: LLVM's tools are not installed.
    """
    hot = [_hot(counts) for counts in sections]
    cycles = _cycles(list(chain.from_iterable(hot)), core)
    found = []
    for counts, codes in zip(sections, hot, strict=True):
        total = instructions(counts)
        done = instructions({code: counts[code] for code in codes})
        spent = sum(counts[code] * cycles[code] for code in codes)
        found.append(Cost(total, spent * total / done if done else 0.0))
    return found


def _hot(counts: Counts) -> list[str]:
    """The blocks that are analysed: those that execute most, until enough is covered."""
    total, hot, done = instructions(counts), [], 0
    for code, runs in sorted(counts.items(), key=lambda item: -item[1] * len(item[0])):
        if done >= COVERED * total:
            break
        hot.append(code)
        done += runs * len(code) // 8
    return hot


def _cycles(blocks: Sequence[str], core: str) -> dict[str, float]:
    """Cycles of one run of each block; what was analysed before is in the cache."""
    llvm = _tool("llvm-mca")
    path = cache_dir("cycles") / f"{core}-{llvm.rsplit('-', 1)[-1]}.json"
    with FileLock(path.with_suffix(".lock")):
        known: dict[str, float] = read_json(path) if path.exists() else {}
        new = [code for code in dict.fromkeys(blocks) if _key(code) not in known]
        for start in range(0, len(new), _BATCH):
            known.update(_analyse(new[start : start + _BATCH], MODELS[core]))
        if new:
            write_json(path, known)
    return {code: known[_key(code)] for code in blocks}


def _key(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()[:24]


def _analyse(blocks: Sequence[str], cpu: str) -> dict[str, float]:
    lines = iter(_disassembled("".join(blocks)))
    source = []
    for number, code in enumerate(blocks):
        body = [next(lines) for _ in range(len(code) // 8)]
        source += [f"# LLVM-MCA-BEGIN {number}", *body, f"# LLVM-MCA-END {number}"]
    command = [_tool("llvm-mca"), "--mtriple=aarch64", f"-mcpu={cpu}", _FEATURES, "-json"]
    # System calls and the like have no model: they are left out of their block.
    command += [f"-iterations={_ITERATIONS}", "-skip-unsupported-instructions=any"]
    said, _ = _said(command, "\n".join(source) + "\n")
    regions = json.loads(said)["CodeRegions"]
    found = {
        blocks[int(region["Name"])]: region["SummaryView"]["TotalCycles"] / _ITERATIONS
        for region in regions
        if region["Name"]
    }
    # A block of nothing but unmodelled instructions has no region: one cycle an instruction.
    return {_key(code): found.get(code, len(code) / 8) for code in blocks}


def _disassembled(code: str) -> list[str]:
    """One line of assembly for each word of 8 digits; what LLVM does not know is no operation."""
    words = [_bytes(code[i : i + 8]) for i in range(0, len(code), 8)]
    command = [_tool("llvm-mc"), "--disassemble", "-triple=aarch64", _FEATURES]
    said, warned = _said(command, "\n".join(words))
    unknown = {line.strip() for line in warned.splitlines() if line.strip() in words}
    if unknown:
        known = [_bytes(_NOP) if word in unknown else word for word in words]
        said, _ = _said(command, "\n".join(known))
    lines = [line.strip() for line in said.splitlines() if line.startswith("\t")]
    found = [line for line in lines if not line.startswith(".")]
    if len(found) != len(words):
        raise BoardError(f"{len(words) - len(found)} instructions cannot be disassembled")
    return found


def _bytes(word: str) -> str:
    """A word of 8 digits as LLVM's tools read it: bytes in the order of memory."""
    return " ".join(f"0x{byte:02x}" for byte in bytes.fromhex(word)[::-1])


def _said(command: Sequence[str], text: str) -> tuple[str, str]:
    """What a tool says of a text: its result, and its warnings."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise BoardError(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout, done.stderr


def _tool(name: str) -> str:
    names: Iterable[str] = (f"{name}-{version}".rstrip("-") for version in _VERSIONS)
    found = next((path for one in names if (path := shutil.which(one))), None)
    if found is None:
        raise BoardError(
            f"cycles cannot be estimated: {name} is not installed",
            f"sudo apt-get install --no-install-recommends {' '.join(APT_PACKAGES)}",
        )
    return found
