"""What `doctor` makes of a board's answer."""

from __future__ import annotations

import dataclasses

import pytest

from edgecompress.cli.checks import board_checks
from edgecompress.rpc.probe import Facts
from edgecompress.targets import load_board

PI4 = Facts(
    arch="aarch64",
    kernel="6.6",
    system="Debian GNU/Linux 12 (bookworm)",
    model="Raspberry Pi 4 Model B Rev 1.2",
    glibc="2.36",
    python="3.11.2",
    features=("fp", "asimd", "crc32"),
    parts=("0xd08",) * 4,
    cores=4,
    disk_free=10**10,
    memory_mib=4000,
    available_mib=3000,
    governor="performance",
    mhz=1800,
    max_mhz=1800,
    temperature_c=40.0,
    throttled="0x0",
    numpy="1.24.2",
    pillow="9.4.0",
)


def test_a_good_board_is_all_right() -> None:
    checks = board_checks(load_board("rpi4b"), PI4)
    assert {check.level for check in checks} == {"ok"}
    assert next(check.found for check in checks if check.what == "cores") == "4 cortex-a72"


@pytest.mark.parametrize(
    ("board", "parts", "level", "found"),
    [
        ("rpi4b", ("0xd0b",) * 4, "warning", "4 cortex-a76, not cortex-a72"),
        ("rpi4b", ("0xfff",) * 4, "warning", "4 0xfff, not cortex-a72"),
        ("rpi4b", (), "ok", "4, not named"),
        ("rk3399", ("0xd03",) * 4 + ("0xd08",) * 2, "ok", "4 cortex-a53 + 2 cortex-a72"),
        ("rk3399", ("0xd03",) * 4, "warning", "4 cortex-a53, not cortex-a72 + cortex-a53"),
    ],
)
def test_cores_are_held_against_the_description(
    board: str, parts: tuple[str, ...], level: str, found: str
) -> None:
    facts = dataclasses.replace(PI4, parts=parts)
    cores = next(c for c in board_checks(load_board(board), facts) if c.what == "cores")
    assert (cores.level, cores.found) == (level, found)
    assert bool(cores.hint) == (level == "warning")
