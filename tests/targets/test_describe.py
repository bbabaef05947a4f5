"""A board's description out of what it says, and how sure each part is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.errors import BoardError
from edgecompress.targets import load_board
from edgecompress.targets.board import parse_board
from edgecompress.targets.describe import (
    GUESSED,
    KNOWN,
    MEASURED,
    Cpu,
    Evidence,
    describe,
    write_description,
)

RK3588 = Evidence(
    arch="aarch64",
    model="Radxa ROCK 5B",
    compatible=("radxa,rock-5b", "rockchip,rk3588"),
    features=("fp", "asimd", "crc32", "asimdhp", "asimddp"),
    cpus=(*[Cpu("0xd05", 1800, 32, 128)] * 4, *[Cpu("0xd0b", 2400, 64, 512)] * 4),
    memory_mib=7934,
    glibc="2.36",
    python="3.11.2",
    temperature="/sys/class/thermal/thermal_zone0/temp",
    throttled=False,
)
MUTE = Evidence("aarch64", "", (), ("asimd",), (Cpu(""), Cpu("")), 489, "", "3.9.2", "", False)


@pytest.fixture(autouse=True)
def _own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path))


def test_a_described_board_is_the_one_that_is_known() -> None:
    """What an RK3588 says of itself leads to the numbers of its file in the project."""
    write_description("mine", describe(RK3588))
    mine, known = load_board("mine"), load_board("rk3588")
    for field in ("clusters", "mcpu", "mattr", "features", "arch", "triple", "kind"):
        assert getattr(mine, field) == getattr(known, field), field
    assert mine.title == "Radxa ROCK 5B"
    assert mine.soc == "rockchip,rk3588"
    assert mine.python == "3.11"
    assert mine.telemetry.temperature.endswith("temp")


def test_what_nobody_told_is_marked_as_guessed() -> None:
    description = describe(MUTE)
    assert {"board", "cores", "generic clock"} <= {one.what for one in description.guesses}
    assert "# Guessed: generic clock (1000 MHz)." in description.toml
    write_description("mute", description)
    board = load_board("mute")
    assert (board.mcpu, board.cores, board.glibc) == ("generic", 2, "2.28")


def test_a_known_core_tells_what_its_kernel_does_not() -> None:
    bare = dataclasses.replace(RK3588, cpus=(Cpu("0xd08", 1500),) * 4)
    sources = {one.what: one.source for one in describe(bare).findings}
    assert sources["cortex-a72 L2 cache"] == KNOWN
    assert sources["cortex-a72 clock"] == MEASURED
    assert GUESSED not in sources.values()


def test_the_file_is_read_again_when_it_changes() -> None:
    write_description("mine", describe(RK3588))
    assert load_board("mine").cores == 8
    write_description("mine", describe(MUTE))
    assert load_board("mine").cores == 2


@pytest.mark.parametrize("arch", ["armv7l", "riscv64", ""])
def test_other_architectures_are_refused(arch: str) -> None:
    with pytest.raises(BoardError, match="not aarch64"):
        describe(dataclasses.replace(RK3588, arch=arch))


def test_a_board_without_a_cpu_is_refused() -> None:
    with pytest.raises(BoardError, match="no CPU"):
        describe(dataclasses.replace(RK3588, cpus=()))


@given(
    model=st.text(max_size=40),
    part=st.sampled_from(["0xd03", "0xd0b", "0xfff", ""]),
    mhz=st.none() | st.integers(0, 10**7),
    size=st.none() | st.integers(0, 10**7),
    memory=st.integers(0, 1 << 24),
)
def test_whatever_a_board_says_its_file_is_valid_or_refused(
    model: str, part: str, mhz: int | None, size: int | None, memory: int
) -> None:
    cpus = (Cpu(part, mhz, size, size),) * 3
    odd = dataclasses.replace(RK3588, model=model, cpus=cpus, memory_mib=memory)
    parse_board(describe(odd).toml, "the description")
