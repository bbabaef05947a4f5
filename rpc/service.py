"""A systemd user unit that keeps a board ready: on request, without root.

It is no RPC server. Servers are started when tuning needs one, with a key of their own, and end
with it; one that always ran would be a door to the board for all its users, and would hold memory
that a measurement wants. What a board needs at its start is in `service_ready.py`: tidying up.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path

from edgecompress.errors import BoardError, UsageError

from .session import Session

UNIT = "edgecompress-ready.service"
FOLDER = "service"
_SCRIPT = Path(__file__).with_name("service_ready.py")
_ASK_S = 60.0

_TEXT = """\
[Unit]
Description=EdgeCompress: tidy up after a crash, and see that the board is ready

[Service]
Type=oneshot
ExecStart={python} -I {script}
TimeoutStartSec=300
Nice=10
MemoryMax=256M
TasksMax=16
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


@dataclass(frozen=True)
class Service:
    """What became of the unit.

    Attributes:
        path: of the unit's file on the board.
        enabled: whether systemd has taken it up, and will start it again.
        next: what to type on the board; "" where nothing is left to do.
    """

    path: str
    enabled: bool
    next: str


def unit_text(python: str, script: str) -> str:
    """The unit's file.

    Args:
        python: absolute path of the board's Python.
        script: absolute path of `service_ready.py` there.
    """
    return _TEXT.format(python=_quoted(python), script=_quoted(script))


def install(session: Session) -> Service:
    """Write the unit and its script, and let the user's systemd take it up where there is one.

    Raises:
        UsageError: the board is this machine, whose servers have no connection behind them.
        BoardError: the board has no Python, the files cannot be written, or systemd refuses them.
    """
    if session.board.kind == "host":
        raise UsageError("the unit is for boards, not for this machine", "name a board of yours")
    home, python = _told(session, 'printf %s "$HOME"'), _told(session, "command -v python3")
    script = f"{session.workdir}/{FOLDER}/ready.py"
    path = _path(home)
    session.write(script, _SCRIPT.read_bytes())
    folder = session.run(["mkdir", "-p", posixpath.dirname(path)], timeout=_ASK_S)
    folder.check(f"cannot make the folder of {path} on '{session.name}'")
    session.write(path, unit_text(python, script).encode())
    enable = f"systemctl --user enable --now {UNIT}"
    if not _managed(session):
        return Service(path, False, f"{enable}; loginctl enable-linger")
    _systemctl(session, "daemon-reload")
    # Not `--now`: it would wait for it, and fail where the board is not ready yet.
    _systemctl(session, "enable", UNIT)
    _systemctl(session, "start", "--no-block", UNIT)
    return Service(path, True, "" if _lingers(session) else "loginctl enable-linger")


def remove(session: Session) -> str:
    """Take the unit and its script away; the path that it had.

    Raises:
        BoardError: the connection is lost.
    """
    path = _path(_told(session, 'printf %s "$HOME"'))
    if session.board.kind == "host":
        return path
    if _managed(session):
        session.run(["systemctl", "--user", "disable", "--now", UNIT], timeout=_ASK_S)
    wanted = posixpath.join(posixpath.dirname(path), "default.target.wants", UNIT)
    session.run(["rm", "-f", "--", path, wanted], timeout=_ASK_S).check(f"cannot remove {path}")
    if _managed(session):
        _systemctl(session, "daemon-reload")
    own = [f"{FOLDER}/{name}" for name in ("ready.py", "ready.json", ".ready.json.new")]
    session.run(["rm", "-f", "--", *own], timeout=_ASK_S).check(f"cannot remove {own[0]}")
    session.run(["rmdir", FOLDER], timeout=_ASK_S)  # which it refuses where something else is in it
    return path


def _path(home: str) -> str:
    return posixpath.join(home, ".config/systemd/user", UNIT)


def _managed(session: Session) -> bool:
    """Whether a systemd runs for the user."""
    show = ["systemctl", "--user", "show", "--property=Version"]
    return session.run(show, timeout=_ASK_S).returncode == 0


def _lingers(session: Session) -> bool:
    """Whether the user's systemd starts with the board, and not with the first login."""
    done = session.run(["loginctl", "show-user", "--property=Linger"], timeout=_ASK_S)
    return done.stdout.strip() == "Linger=yes"


def _systemctl(session: Session, *words: str) -> None:
    done = session.run(["systemctl", "--user", *words], timeout=_ASK_S)
    done.check(
        f"systemd on '{session.name}' refuses", f"look there: systemctl --user status {UNIT}"
    )


def _told(session: Session, script: str) -> str:
    """An absolute path that the board's shell says."""
    done = session.run(["sh", "-c", script], timeout=_ASK_S)
    path = done.stdout.strip()
    if done.returncode != 0 or not path.startswith("/") or not path.isprintable():
        raise BoardError(
            f"'{session.name}' has no Python 3, or gave an answer that makes no sense",
            "install it there: sudo apt install python3",
        )
    return path


def _quoted(path: str) -> str:
    """A word of a unit's command line: quoted, with nothing in it that systemd expands."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$").replace("%", "%%")
    return f'"{escaped}"'
