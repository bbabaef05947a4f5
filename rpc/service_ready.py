"""Runs on a board when it starts, by its own systemd: `service.py` puts it there.

Takes away what a crash left (half-sent files, half-unpacked bundles, RPC servers without a
connection), sees whether Python finds numpy and Pillow, and writes `ready.json` beside itself.
Standard library, Python 3.9 or newer; imports nothing of ours. Nothing that a process has open is
touched, nor anything outside the working folder that this file lies in, nor what is not called as
we call ours: that folder may be a user's home.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

# What the command line of an RPC server has in it: `server_launcher.py` is given on it whole.
SERVER = "from tvm.rpc.server import _listen_loop"


def hashed(digits: int) -> str:
    """A pattern for a name of so many hexadecimal digits."""
    return "[0-9a-f]" * digits


def parts(name: str) -> tuple[str, str]:
    """Patterns for what `SshSession.upload` leaves of a file when it is killed."""
    return f".{name}.{hashed(8)}.part", f"..{name}.sha256.{hashed(8)}.part"


# Patterns, below the working folder, for what only a crash leaves there.
LEFT = (
    *parts("packages.tar.gz"),
    *parts("photos.incoming.tar"),
    *parts(f"rpc-server-{hashed(16)}.tar.gz"),
    *(f"{folder}/.*.{hashed(8)}.part" for folder in ("runner", "bundles", "keys", "service")),
    f"runs/{hashed(24)}*/**/.*.{hashed(8)}.part",
    f"bundles/.unpacking.{'?' * 8}",
    "service/.ready.json.new",
)


def main() -> int:
    """Tidy up and report; the exit status is 1 where the board cannot run a bundle."""
    workdir = Path(__file__).resolve().parent.parent
    report = {
        "boot": _read("/proc/sys/kernel/random/boot_id").strip(),
        "removed": sorted(_remove_left(workdir, _open_files())),
        "ended": sorted(_end_orphans()),
        "free_mb": shutil.disk_usage(workdir).free // 10**6,
        "missing": [name for name in ("numpy", "PIL") if not _imports(name, workdir)],
    }
    path = workdir / "service" / "ready.json"
    beside = path.with_name(".ready.json.new")
    beside.write_text(json.dumps(report) + "\n")
    beside.replace(path)
    sys.stdout.write(json.dumps(report) + "\n")
    return 1 if report["missing"] else 0


def _remove_left(workdir: Path, opened: set[str]) -> list[str]:
    removed = []
    for path in [one for pattern in LEFT for one in workdir.glob(pattern)]:
        # A link in the place of a folder of ours leads to what is somebody else's.
        inside = path.parent.resolve() == path.parent
        if inside and not any(one == str(path) or one.startswith(f"{path}/") for one in opened):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()
            removed.append(str(path.relative_to(workdir)))
    return removed


def _end_orphans() -> list[int]:
    """RPC servers of this user that no SSH connection stands behind any more."""
    ended = []
    for pid in _own_processes():
        if SERVER in _read(f"/proc/{pid}/cmdline") and not _connected(pid):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                ended.append(pid)
    return ended


def _connected(pid: int) -> bool:
    """Whether an SSH server is among a process's ancestors."""
    while pid > 1:
        if _read(f"/proc/{pid}/comm").startswith(("sshd", "dropbear")):
            return True
        # The name, in brackets, may hold anything; the parent is the second word behind it.
        words = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        pid = int(words[1]) if len(words) > 1 else 0
    return False


def _own_processes() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if path.stat().st_uid == os.getuid():
                found.append(int(path.name))
    return [pid for pid in found if pid != os.getpid()]


def _open_files() -> set[str]:
    """What this user's processes have open, or work in."""
    found = set()
    for pid in _own_processes():
        with suppress(OSError):
            for link in [Path(f"/proc/{pid}/cwd"), *Path(f"/proc/{pid}/fd").iterdir()]:
                with suppress(OSError):
                    found.add(str(link.readlink()))
    return found


def _imports(name: str, workdir: Path) -> bool:
    packages = str(workdir / "packages")
    if packages not in sys.path:
        sys.path.insert(0, packages)
    try:
        importlib.import_module(name)
    except Exception:  # whatever a damaged package raises
        return False
    return True


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
