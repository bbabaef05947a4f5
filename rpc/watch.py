"""How boards do right now, asked again and again: each in a thread, so that none stops another."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgecompress.errors import BoardError, EdgeCompressError

from ..targets import virtual_names
from ..targets.inventory import entries
from .connect import connect
from .health import SILENT, Vitals, read_vitals, vitals_script
from .lease import Holder, lease_path, standing
from .session import Session

ANSWER_S = 20.0
# One that somebody measures on is asked less often: each question takes a little of its time.
HELD_S = 15.0
_PLACE = r"[^\w@./ :+-]"

# One line for each question, whatever the answer. Arguments: our folder, the lease.
_SCRIPT = r"""
say() { head -c 4096 "$1" 2>/dev/null | tr -d '\n'; echo; }
say /proc/sys/kernel/random/boot_id
say /proc/uptime
say /proc/loadavg
echo $(grep MemAvailable /proc/meminfo 2>/dev/null)
echo $(df -Pk -- "$1" 2>/dev/null | tail -n 1)
for policy in /sys/devices/system/cpu/cpufreq/policy*; do
    [ -r "$policy/scaling_cur_freq" ] || continue
    printf '%s %s ' "$(head -c 20 "$policy/scaling_cur_freq")" \
        "$(head -c 20 "$policy/scaling_governor" 2>/dev/null)"
done; echo
[ -f "$2" ] && [ ! -L "$2" ] && say "$2" || echo
"""
_LINES = 7


@dataclass(frozen=True)
class Sight:
    """How a board does. None and "" stand for what it does not tell.

    Attributes:
        trouble: why nothing is known; "" where it answers.
        age_s: seconds since it last answered.
        ping_ms: of a message there and back, over the connection that stands.
        holder: who measures on it.
        load: processes that ran or wanted to in the last minute.
        memory_mib: that a new process can have, MiB.
        disk_mib: free where our folder is, MiB.
        mhz: clocks of its clusters now, MHz.
        governors: of its clusters.
        vitals: temperature and throttling.
    """

    name: str
    trouble: str = ""
    age_s: float | None = None
    ping_ms: float | None = None
    holder: Holder | None = None
    load: float | None = None
    memory_mib: int | None = None
    disk_mib: int | None = None
    mhz: tuple[int, ...] = ()
    governors: tuple[str, ...] = ()
    vitals: Vitals = SILENT

    @property
    def doing(self) -> str:
        """What the board is at, in a word or two."""
        if self.trouble:
            return ""
        if self.holder is not None:
            return self.holder.purpose
        return "idle" if (self.load or 0) < 0.5 else "something else"


def watched() -> list[str]:
    """The boards of the inventory, and the virtual ones that run."""
    from . import virtual

    return [one.name for one in entries()] + [
        name for name in virtual_names() if virtual.status(name).running
    ]


def look(session: Session) -> Sight:
    """Ask a board once.

    Raises:
        BoardError: it does not answer.
    """
    script = _SCRIPT + vitals_script(session)
    argv = ["sh", "-c", script, "sh", session.workdir, lease_path(session)]
    ping = session.ping()
    said = session.run(argv, timeout=ANSWER_S).stdout
    return read_sight(session.name, said, ping)


def read_sight(name: str, said: str, ping_s: float) -> Sight:
    """What the script printed, read as untrusted."""
    lines = [*said.split("\n"), *[""] * _LINES]
    boot, uptime, load, memory, disk, clocks, lease = lines[:_LINES]
    pairs = clocks.split()
    since = _number(uptime.partition(" ")[0])
    blocks = disk.split()[-3:-2]
    kib = _number("".join(memory.split()[1:2]))
    free = _number("".join(blocks))
    return Sight(
        name,
        age_s=0.0,
        ping_ms=1e3 * ping_s,
        holder=None if since is None else standing(lease, boot.strip(), since),
        load=_number(load.partition(" ")[0]),
        memory_mib=None if kib is None else int(kib) // 1024,
        disk_mib=None if free is None else int(free) // 1024,
        mhz=tuple(int(khz) // 1000 for one in pairs[::2] if (khz := _number(one)) is not None)[:8],
        governors=tuple(dict.fromkeys(_text(one) for one in pairs[1::2]))[:8],
        vitals=read_vitals("\n".join(lines[_LINES:])),
    )


class Watch:
    """Several boards that are asked until it is closed. A context manager.

    Args:
        every_s: pause between two questions to a board.
        opening: how a board is reached.
    """

    def __init__(
        self,
        names: Sequence[str],
        every_s: float,
        opening: Callable[[str], Session] | None = None,
    ) -> None:
        self._names = tuple(names)
        self._every_s = every_s
        self._opening = opening or _reach
        self._closed = threading.Event()
        self._answered = threading.Condition()
        self._seen: dict[str, tuple[float, Sight]] = {}
        for name in self._names:
            threading.Thread(
                target=self._ask, args=(name,), name=f"watch {name}", daemon=True
            ).start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def all(self, wait_s: float = 0.0) -> list[Sight]:
        """How all boards were seen last; waits at most so long for each to be seen once."""
        with self._answered:
            self._answered.wait_for(lambda: len(self._seen) == len(self._names), wait_s)
            seen = dict(self._seen)
        return [self._shown(name, seen.get(name)) for name in self._names]

    def _shown(self, name: str, seen: tuple[float, Sight] | None) -> Sight:
        if seen is None:
            return Sight(name, "no answer yet")
        when, sight = seen
        age = time.monotonic() - when
        if not sight.trouble and age > self._pause(sight) + ANSWER_S:
            return Sight(name, f"no answer for {age:.0f} s", age)
        return sight if sight.trouble else replace(sight, age_s=age)

    def _pause(self, sight: Sight) -> float:
        return max(self._every_s, HELD_S) if sight.holder else self._every_s

    def _ask(self, name: str) -> None:
        session: Session | None = None
        while True:
            try:
                session = session or self._opening(name)
                sight = look(session)
            except EdgeCompressError as error:
                sight = Sight(name, error.message)
                if session is not None:
                    session.close()
                session = None
            with self._answered:
                self._seen[name] = (time.monotonic(), sight)
                self._answered.notify_all()
            if self._closed.wait(self._pause(sight)):
                break
        if session is not None:
            session.close()


def _reach(name: str) -> Session:
    """A session, but a virtual board that does not run is left as it is."""
    if name in virtual_names():
        from . import virtual

        if not virtual.status(name).running:
            raise BoardError("does not run", f"edgecompress boards start {name}")
    return connect(name)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,6})?", text) else None


def _text(value: str) -> str:
    return re.sub(_PLACE, "", value)[:20]
