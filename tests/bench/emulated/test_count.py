"""Instructions are counted exactly, and cycles follow what a core can do at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgecompress.bench import emulated
from edgecompress.bench.emulated.count import MARK, read_sections
from edgecompress.errors import BoardError

TURNS = 1000
# Between the marks: one move, a loop of two instructions, and the three that make the second mark.
PROGRAM = f"""
.global _start
_start:
    mov x8, #{MARK}
    mov x0, #0
    svc #0
    mov x1, #{TURNS}
1:  subs x1, x1, #1
    b.ne 1b
    mov x8, #{MARK}
    mov x0, #7
    svc #0
    mov x8, #93
    mov x0, #0
    svc #0
"""
EXPECTED = 1 + 2 * TURNS + 3


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = emulated.why_not()
    if reason:
        pytest.skip(f"{reason}: make counting")
    folder = tmp_path_factory.mktemp("count")
    (folder / "loop.S").write_text(PROGRAM)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-nostdlib"]
    command += ["-static", "-o", str(folder / "loop"), str(folder / "loop.S")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "loop"


@pytest.mark.board
def test_every_instruction_between_two_marks(program: Path, virtual_board: object) -> None:
    sections, _ = emulated.counted([str(program)], {}, timeout=60)
    assert set(sections) == {7}
    assert emulated.instructions(sections[7]) == EXPECTED
    again, _ = emulated.counted([str(program)], {}, timeout=60)
    assert again == sections


@pytest.mark.board
def test_a_program_that_fails_says_so(program: Path, virtual_board: object) -> None:
    with pytest.raises(BoardError, match="failed under emulation"):
        emulated.counted([str(program.with_suffix(".S"))], {}, timeout=60)


def test_sections_of_one_label_add_up() -> None:
    lines = ["section 1", "3 aaaaaaaabbbbbbbb", "section 2", "1 cccccccc"]
    lines += ["section 1", "4 aaaaaaaabbbbbbbb"]
    sections = read_sections(lines)
    assert sections == {1: {"aaaaaaaabbbbbbbb": 7}, 2: {"cccccccc": 1}}
    assert emulated.instructions(sections[1]) == 14


# fmla v0.4s, v1.4s, v2.4s with eight destinations in turn, and with one.
APART = "".join(f"4e22cc2{n}" for n in range(3, 8)) + "".join(f"4e22cc2{n}" for n in "89a")
CHAINED = "4e22cc20" * 8


@pytest.mark.parametrize("core", emulated.CORES)
def test_a_chain_waits_for_its_latency(core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        apart, chained = (emulated.cost({code: 10}, core) for code in (APART, CHAINED))
    except BoardError as error:
        pytest.skip(f"{error.message}: make counting")
    assert apart.instructions == chained.instructions == 80
    assert chained.cycles > 1.5 * apart.cycles
    # Twice the runs are twice the cycles.
    assert emulated.cost({APART: 20}, core).cycles == pytest.approx(2 * apart.cycles)


@pytest.mark.parametrize("core", emulated.CORES)
def test_an_unknown_instruction_is_no_operation(core: str) -> None:
    unknown = "00000001"
    try:
        alone, among = (emulated.cost({code: 10}, core) for code in (APART, APART + unknown))
    except BoardError as error:
        pytest.skip(f"{error.message}: make counting")
    assert among.instructions == alone.instructions + 10
    assert among.cycles == pytest.approx(alone.cycles, rel=0.2)


def test_a_newer_core_needs_fewer_cycles() -> None:
    try:
        cycles = [emulated.cost({APART: 1}, core).cycles for core in ("cortex-a72", "cortex-a76")]
    except BoardError as error:
        pytest.skip(f"{error.message}: make counting")
    assert cycles[1] < cycles[0]
