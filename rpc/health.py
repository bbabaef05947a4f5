"""Whether a board throttles: a time that is taken then says nothing about it on another day."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass

from edgecompress.errors import BoardError

from .session import Session

ASK_S = 20.0
# Bits of `vcgencmd get_throttled`: what is so now; the same again, 16 higher: since the start.
_FLAGS = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
_SINCE_START = 16


@dataclass(frozen=True)
class Vitals:
    """How a board does right now.

    Attributes:
        temperature_c: of the SoC, degrees Celsius; None where it does not tell.
        flags: as `vcgencmd get_throttled` gives them; None where it does not tell.
    """

    temperature_c: float | None
    flags: int | None

    @property
    def throttles(self) -> tuple[str, ...]:
        """What slows it down now."""
        return flags_now(self.flags)

    @property
    def has_throttled(self) -> int:
        """The bits of what has slowed it down since it started."""
        return (self.flags or 0) >> _SINCE_START


SILENT = Vitals(None, None)


def flags_now(flags: int | None) -> tuple[str, ...]:
    """What flags say of the present moment, in words."""
    return tuple(name for bit, name in _FLAGS.items() if (flags or 0) >> bit & 1)


def read_flags(text: str) -> int | None:
    """The number in "throttled=0x50005"."""
    found = re.fullmatch(r"(?:throttled=)?0x([0-9a-f]{1,8})", text.strip(), re.IGNORECASE)
    return int(found.group(1), 16) if found else None


def read_temperature(text: str) -> float | None:
    """Degrees Celsius of the kernel's thousandths."""
    found = re.fullmatch(r"-?[0-9]{1,6}", text.strip())
    return int(found.group(0)) / 1000 if found else None


def vitals_script(session: Session) -> str:
    """A line of shell that prints what `read_vitals` reads, two lines; "" where nothing tells."""
    told = session.board.telemetry
    if not (told.temperature or told.throttled):
        return ""
    temperature = f"cat -- {shlex.quote(told.temperature)}" if told.temperature else "echo"
    throttled = shlex.join(told.throttled) if told.throttled else "echo"
    return f'echo "$({temperature} 2>/dev/null)"; echo "$({throttled} 2>/dev/null)"'


def read_vitals(lines: str) -> Vitals:
    """What `vitals_script` printed, read as untrusted."""
    temperature, throttled, *_ = [*lines.splitlines(), "", ""]
    return Vitals(read_temperature(temperature), read_flags(throttled))


def vitals(session: Session) -> Vitals:
    """Ask a board how it does; costs nothing where nothing tells.

    Raises:
        BoardError: it does not answer.
    """
    script = vitals_script(session)
    if not script:
        return SILENT
    return read_vitals(session.run(["sh", "-c", script], timeout=ASK_S).stdout)


def calm(session: Session) -> Callable[[], None]:
    """What raises `BoardError` where the board throttles, or has throttled since the last call."""
    seen = vitals(session).has_throttled

    def require() -> None:
        nonlocal seen
        now = vitals(session)
        names = now.throttles
        new, seen = now.has_throttled & ~seen, now.has_throttled
        if names or new:
            said = ", ".join(names or flags_now(new))
            heat = f" at {now.temperature_c:.0f} °C" if now.temperature_c is not None else ""
            raise BoardError(
                f"it throttles ({said}{heat})",
                "give it a fan, a better power supply, or a pause between candidates",
            )

    return require
