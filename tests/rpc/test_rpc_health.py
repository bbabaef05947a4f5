from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgecompress.errors import BoardError
from edgecompress.rpc.health import calm, read_vitals, vitals
from edgecompress.rpc.local import LocalSession
from edgecompress.targets import load_board


class Telling:
    """A session with a board that has a thermometer and `vcgencmd`."""

    def __init__(self, folder: Path) -> None:
        self.temperature, self.flags = folder / "temp", folder / "flags"
        self.tell(45_000, 0)
        host = load_board("host")
        told = dataclasses.replace(
            host.telemetry, temperature=str(self.temperature), throttled=("cat", str(self.flags))
        )
        self.session = LocalSession(dataclasses.replace(host, telemetry=told), folder / "work")

    def tell(self, millidegrees: int, flags: int) -> None:
        self.temperature.write_text(f"{millidegrees}\n")
        self.flags.write_text(f"throttled=0x{flags:x}\n")


def test_a_board_that_throttles_or_has_throttled_meanwhile(tmp_path: Path) -> None:
    board = Telling(tmp_path)
    board.tell(45_000, 0x50000)  # yesterday's
    with board.session as session:
        require = calm(session)
        require()
        board.tell(81_500, 0xF0008)
        with pytest.raises(BoardError, match=r"soft temperature limit at 82 °C"):
            require()
        board.tell(60_000, 0xF0000)
        require()
        # It had throttled, and was calm again before it was asked.
        board.tell(60_000, 0x50000)
        require()
        board.tell(60_000, 0x70000)
        with pytest.raises(BoardError, match=r"it throttles \(frequency capped at 60 °C\)"):
            require()
        require()


def test_boards_that_tell_nothing_are_not_asked(tmp_path: Path) -> None:
    host = load_board("host")
    told = dataclasses.replace(host.telemetry, temperature="", throttled=())
    with LocalSession(dataclasses.replace(host, telemetry=told), tmp_path) as session:
        assert vitals(session) == read_vitals("")
        calm(session)()


@pytest.mark.parametrize("lines", ["", "\n", "hot\nthrottled=?\n", "99999999\n0x\n", "\x00\n-1"])
def test_what_makes_no_sense_is_nothing(lines: str) -> None:
    assert read_vitals(lines).temperature_c is None
    assert read_vitals(lines).throttles == ()


def test_what_a_pi_says() -> None:
    said = read_vitals("48312\nthrottled=0x50005\n")
    assert said.temperature_c == 48.312
    assert said.throttles == ("under-voltage", "throttled")
    assert said.has_throttled == 0b101
