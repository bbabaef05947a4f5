"""numpy and Pillow for boards that have neither them nor the internet, nor anyone who is root.

The host fetches the wheels; the board gets their files in a folder of ours, which only our own
commands look into.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgecompress import events
from edgecompress.errors import BoardError
from edgecompress.files import cache_dir, sha256_json, write_text, writing

from .scripts import python
from .server import KEYS
from .service_ready import LEFT, hashed
from .session import Session
from .trees import NUMPY, archive, send, unpack_wheels

FOLDER = "packages"
_MARK = "packages.json"
_ASK_S = 120.0
_REMOVE_S = 600.0
# What we put into the working folder. A user may have chosen one with other things in it, such as
# a home with a `photos` of its own: so ours is what has a name of ours, made of hashes, or what
# something lies beside or in that only we write.
_ONLY_WITH = {
    f"{FOLDER}/{_MARK}": FOLDER,
    f"{FOLDER}.new/PIL": f"{FOLDER}.new",
    f".{FOLDER}.tar.gz.sha256": f"{FOLDER}.tar.gz",
    ".photos.incoming.tar.sha256": "photos.incoming.tar",
}
_SERVER = f"rpc-server-{hashed(16)}"
_OURS = (
    *LEFT,
    f"runner/runner-{hashed(16)}.pyz",
    f"runner/.runner-{hashed(16)}.pyz.sha256",
    f"bundles/{hashed(64)}",
    f"bundles/{hashed(16)}.tar",
    f"bundles/.{hashed(16)}.tar.sha256",
    f"photos/{hashed(64)}",
    f"photos.incoming/{hashed(64)}",
    f"runs/{hashed(24)}",
    f"runs/{hashed(24)}-latency",
    "service/ready.py",
    "service/ready.json",
    f"{KEYS}/{hashed(16)}",
    _SERVER,
    f"{_SERVER}.new",
    f"{_SERVER}.tar.gz",
    f".{_SERVER}.tar.gz.sha256",
    f".{FOLDER}.tar.gz.sha256",
    ".photos.incoming.tar.sha256",
)

# The newest releases with wheels for each Python, that a C library of 2018 can load.
_PINS = {
    "3.9": ("numpy==2.0.2", "pillow==11.3.0"),
    **{python: (f"numpy=={numpy}", "pillow==12.0.0") for python, numpy in NUMPY.items()},
}


@dataclass(frozen=True)
class Installed:
    """What a board has now.

    Attributes:
        folder: on the board.
        packages: name to version, as the board's own Python imports them.
        sent: whether they were copied now; False where they were there already.
    """

    folder: str
    packages: dict[str, str]
    sent: bool


def environment(session: Session) -> dict[str, str]:
    """What our commands on a board need, so that Python finds the packages there."""
    return {} if session.board.kind == "host" else {"PYTHONPATH": _folder(session)}


def setup(session: Session, python: str) -> Installed:
    """Give a board numpy and Pillow.

    Args:
        python: version of the board's `python3` ("3.11.2").

    Raises:
        BoardError: there are none for its Python, it has no space, it cannot import them, or a
            folder of somebody else's is where ours would be.
        InputError: a wheel cannot be fetched.
    """
    minor = ".".join(python.split(".")[:2])
    if minor not in _PINS:
        raise BoardError(
            f"'{session.name}' has Python {python}; there are packages for {', '.join(_PINS)}",
            "use another operating system on the board",
        )
    told = session.run(["cat", f"{_folder(session)}/{_MARK}"], timeout=_ASK_S)
    sent = told.returncode != 0 or told.stdout.strip() != _mark(session, minor)
    if sent:
        _require_ours(session)
        send(session, _packed(session, minor), _folder(session), "numpy and Pillow")
    return Installed(_folder(session), _imported(session), sent)


def _require_ours(session: Session) -> None:
    """Refuse to replace a folder that is not of ours: it would be gone."""
    folder = _folder(session)
    theirs = 'test -d "$1" && ! test -e "$1/$2" && test -n "$(ls -A "$1")"'
    if session.run(["sh", "-c", theirs, "ask", folder, _MARK], timeout=_ASK_S).returncode == 0:
        raise BoardError(
            f"{folder} on '{session.name}' is a folder of somebody else's",
            "give the board a working folder of ours alone: edgecompress boards add --workdir",
        )


def remove(session: Session) -> None:
    """Take away everything that we ever put onto a board, and nothing that lies beside it.

    A folder in which something else lies is left, and so is all behind a link in a folder's place.

    Raises:
        BoardError: something cannot be removed, or the connection is lost.
    """
    lines = ["set -e; LC_ALL=C"]
    lines += [f"[ ! -e {mark} ] || rm -rf -- {name}" for mark, name in _ONLY_WITH.items()]
    for folder in sorted({_folder_of(name) for name in _OURS}):
        names = " ".join(name for name in _OURS if _folder_of(name) == folder)
        # Photos are more than one command line holds.
        found = f'for one in {names}; do [ ! -e "$one" ] || printf \'%s\\0\' "$one"; done'
        away = f"{found} | xargs -0 rm -rf --; rmdir {folder} 2>/dev/null || :"
        lines.append(f"[ -L {folder} ] || {{ {away}; }}")
    done = session.run(["sh", "-c", "\n".join(lines)], timeout=_REMOVE_S)
    done.check(f"cannot remove all of {session.workdir} on '{session.name}'")


def _folder_of(name: str) -> str:
    return name.partition("/")[0] if "/" in name else "."


def _folder(session: Session) -> str:
    return f"{session.workdir}/{FOLDER}"


def _mark(session: Session, python: str) -> str:
    return json.dumps([session.board.arch, python, *_PINS[python]])


def _packed(session: Session, python: str) -> Path:
    arch = session.board.arch
    key = sha256_json([arch, python, _PINS[python]])[:16]
    path = cache_dir("packages") / f"{arch}-{python}-{key}.tar.gz"
    if not path.exists():
        with (
            events.task("packing numpy and Pillow (once)"),
            tempfile.TemporaryDirectory(dir=path.parent) as temporary,
            writing(path) as new,
        ):
            folder = Path(temporary)
            unpack_wheels(_PINS[python], arch, python, folder)
            write_text(folder / _MARK, _mark(session, python))
            archive(folder, new)
    return path


def _imported(session: Session) -> dict[str, str]:
    """The packages' versions, imported on the board."""
    script = "import numpy, PIL; print(numpy.__version__, PIL.__version__)"
    done = session.run(python(script), timeout=_ASK_S, env=environment(session))
    done.check(f"'{session.name}' cannot import numpy and Pillow", "edgecompress doctor")
    versions = done.stdout.split()
    if len(versions) != 2:
        raise BoardError(f"'{session.name}' gave an answer that makes no sense")
    return dict(zip(("numpy", "pillow"), versions, strict=True))
