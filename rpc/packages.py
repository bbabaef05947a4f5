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

from .server import KEYS
from .session import Session
from .trees import NUMPY, archive, send, unpack_wheels

FOLDER = "packages"
_MARK = "packages.json"
_ASK_S = 120.0
# What we put into the working folder; a user may have chosen one with other things in it.
_OURS = (FOLDER, "runner", "bundles", "photos", "runs", "service", KEYS)
_OURS_BEGIN = (f"{FOLDER}.", "rpc-server-")

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
        BoardError: there are none for its Python, it has no space, or it cannot import them.
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
        send(session, _packed(session, minor), _folder(session), "numpy and Pillow")
    return Installed(_folder(session), _imported(session), sent)


def remove(session: Session) -> None:
    """Take away everything that we ever put onto a board, and nothing that lies beside it.

    Raises:
        BoardError: the connection is lost.
    """
    listed = session.run(["ls", "-A", session.workdir], timeout=_ASK_S)
    for name in listed.stdout.splitlines():
        if name in _OURS or name.startswith(_OURS_BEGIN):
            session.remove(f"{session.workdir}/{name}")


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
    done = session.run(["python3", "-c", script], timeout=_ASK_S, env=environment(session))
    done.check(f"'{session.name}' cannot import numpy and Pillow", "edgecompress doctor")
    versions = done.stdout.split()
    if len(versions) != 2:
        raise BoardError(f"'{session.name}' gave an answer that makes no sense")
    return dict(zip(("numpy", "pillow"), versions, strict=True))
