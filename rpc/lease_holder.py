"""Runs on a board for as long as a lease lasts: alone, on the board's own Python 3.9 or newer.

What counts is the kernel's lock on the file: it ends with this process, whatever kills it, and with
a reboot. What stands in the file tells others who we are. Anybody may write it, so that one who
logs in as somebody else can take the board over; so it is never believed further than that.

No clock of the day is read: it may be hours wrong, or be set while we hold.

Arguments: what to do (`take` or `break`), the path, who asks (JSON: `token` and what else others
are to read), seconds to wait, and seconds for which what stands in the file may be believed. On
standard output, one JSON object a line: `waiting` and `busy` with who holds it, `held`, and in the
end `lost` with who took it away; for `break`, `broken` with whose it was, `free` or `busy`.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import sys
import time

LIMIT = 4096
TICK_S = 0.5
# Also how long one who has let go may take to end.
MOMENT_S = 2.0
# How long one who is told to leave may take.
BREAK_S = 6.0


def main() -> None:
    """Do what is asked, and say what becomes of it."""
    do, path, who, wait, lasts = sys.argv[1:6]
    mine = json.loads(who)
    try:
        if do == "break":
            say(**broken(path, mine))
        elif (lock := taken(path, mine, float(wait))) is not None:
            say("lost", by=held(lock, path, mine, float(lasts)))
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")


def taken(path: str, mine: dict, wait: float) -> int | None:
    """The locked file, or None where somebody else has it and goes on having it."""
    start, told = time.monotonic(), False
    while True:
        lock = opened(path)
        there = read(lock)
        # What is left of ourselves, from before a connection was lost, has to go.
        own = there.get("token") == mine["token"]
        while not locked(lock):
            waited = time.monotonic() - start
            if own:
                told_to_go(lock, mine["token"], mine)
            if waited > max(wait, BREAK_S if own else MOMENT_S):
                say("busy", by=there)
                return None
            if waited > MOMENT_S and not (told or own):
                told = True
                say("waiting", by=there)
            time.sleep(0.1)
            there = read(lock) or there
        if same(lock, path):
            return lock
        os.close(lock)  # it was removed before we had it: another file counts now


def held(lock: int, path: str, mine: dict, lasts: float) -> dict:
    """Keep it until somebody takes it away: that one."""
    since = renewed = uptime()
    put(lock, mine, since, lasts)
    say("held")
    while True:
        time.sleep(TICK_S)
        there = read(lock)
        if there.get("token") != mine["token"] or not same(lock, path):
            return there.get("broken", {})
        if uptime() > renewed + lasts / 3:
            renewed = uptime()
            put(lock, mine, since, lasts)


def put(lock: int, mine: dict, since: float, lasts: float) -> None:
    """Write down that we hold it, in the board's uptime."""
    write(lock, {**mine, "since": since, "expires": uptime() + lasts, "boot": boot()})


def broken(path: str, mine: dict) -> dict:
    """Take it away from whoever has it, and let it go."""
    lock = opened(path)
    there = read(lock)
    start, before = time.monotonic(), locked(lock)
    while not before and not locked(lock):
        if time.monotonic() - start > BREAK_S:
            return {"state": "busy", "by": there}
        told_to_go(lock, there.get("token"), mine)
        time.sleep(0.1)
    os.ftruncate(lock, 0)
    return {"state": "free"} if before else {"state": "broken", "by": there}


def told_to_go(lock: int, token: object, mine: dict) -> None:
    """Tell the holder with that token, and no other; again, if it has just renewed its lease."""
    if read(lock).get("token") == token:
        write(lock, {"broken": mine})


def opened(path: str) -> int:
    """The file, made if need be: no link, no pipe, nobody's second name."""
    os.umask(0)
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for _ in range(100):
        try:
            lock = os.open(path, flags)
        except FileNotFoundError:
            try:
                # Exclusive: kernels refuse to "make" another's file in a folder such as /tmp.
                lock = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue
        about = os.fstat(lock)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
            sys.exit(f"{path}: Not a file of its own")
        return lock
    sys.exit(f"{path}: It comes and goes")


def locked(lock: int) -> bool:
    """Whether we have it now."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def same(lock: int, path: str) -> bool:
    """Whether the path still leads to what we have open."""
    try:
        there = os.lstat(path)  # no `pathlib`: it takes long to load on a board
    except OSError:
        return False
    about = os.fstat(lock)
    return (there.st_dev, there.st_ino) == (about.st_dev, about.st_ino)


def read(lock: int) -> dict:
    """What stands in it; nothing where that is no JSON object."""
    try:
        there = json.loads(os.pread(lock, LIMIT, 0))
    except (ValueError, RecursionError):
        return {}
    return there if isinstance(there, dict) else {}


def write(lock: int, value: dict) -> None:
    """Replace what stands in it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(value).encode(), 0)


def uptime() -> float:
    """Seconds since the board started."""
    return round(time.clock_gettime(time.CLOCK_BOOTTIME), 1)


def boot() -> str:
    """Which start of the board this is."""
    with open("/proc/sys/kernel/random/boot_id") as stream:  # noqa: PTH123
        return stream.read().strip()


def say(state: str, **more: object) -> None:
    """One line to whoever started us."""
    sys.stdout.write(json.dumps({**more, "state": state, "now": uptime()}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
