"""Whose bundles a board takes: its file of trusted keys, which the runner there reads."""

from __future__ import annotations

import posixpath
from dataclasses import replace

from edgecompress.errors import BoardError, UsageError

from ..rpc.session import Session
from ..runner.errors import RunnerError
from ..runner.signature import EVERYONES, MAX_TRUSTED, OWN, Trust, parse_trust, trust_text

_ASK_S = 60.0


def board_trust(session: Session) -> Trust:
    """Whom a board trusts.

    Raises:
        BoardError: its file cannot be read or is damaged, or the connection is lost.
    """
    for path in (EVERYONES, _own(session)):
        if session.run(["test", "-e", path], timeout=_ASK_S).returncode == 0:
            return _read(session, path)
    return Trust()


def trust(session: Session, key: bytes, name: str, *, off: bool = False) -> Trust:
    """Let a board take bundles that a key signed, or no longer; what it trusts then.

    Raises:
        UsageError: the board does not trust it, or would then require what nobody can give.
        BoardError: only root can change whom the board trusts; and as `board_trust`.
    """
    known = _changeable(session)
    keys = {one: called for one, called in known.keys.items() if one != key}
    if off and len(keys) == len(known.keys):
        raise UsageError(f"'{session.name}' does not trust the key '{name}'", _listing(session))
    return _write(session, Trust(keys if off else {**keys, key: name}, known.required))


def require(session: Session, *, off: bool = False) -> Trust:
    """Let a board take signed bundles only, or any again. Raises as `trust`."""
    return _write(session, replace(_changeable(session), required=not off))


def _changeable(session: Session) -> Trust:
    if session.run(["test", "-e", EVERYONES], timeout=_ASK_S).returncode == 0:
        raise BoardError(
            f"{EVERYONES} says whom '{session.name}' trusts",
            "change it there, as root; it stands above every user's own file",
        )
    return board_trust(session)


def _write(session: Session, wanted: Trust) -> Trust:
    if wanted.required and not wanted.keys:
        raise UsageError(
            f"'{session.name}' would trust nobody and require a signature: it could run nothing",
            f"edgecompress keys trust NAME --board {session.name}, or keys require --off",
        )
    path = _own(session)
    session.run(["mkdir", "-p", posixpath.dirname(path)], timeout=_ASK_S).check(
        f"cannot make the folder of {path} on '{session.name}'"
    )
    session.write(path, trust_text(wanted).encode())
    session.run(["chmod", "644", path], timeout=_ASK_S).check(f"cannot protect {path}")
    return wanted


def _read(session: Session, path: str) -> Trust:
    # Cut there: whatever lies there, no more than this comes here.
    done = session.run(["head", "-c", str(MAX_TRUSTED + 1), path], timeout=_ASK_S)
    where = f"{path} on '{session.name}'"
    try:
        return parse_trust(done.check(f"cannot read {where}").stdout.encode(), where)
    except RunnerError as error:
        raise BoardError(error.message, f"mend or remove {path} there") from error


def _own(session: Session) -> str:
    done = session.run(["sh", "-c", 'printf %s "$HOME"'], timeout=_ASK_S)
    home = done.check(f"'{session.name}' does not say where its home is").stdout
    if not home.startswith("/") or any(ord(sign) < 32 for sign in home):
        raise BoardError(f"'{session.name}' gave an answer that makes no sense")
    return posixpath.join(home, OWN)


def _listing(session: Session) -> str:
    return f"edgecompress keys list --board {session.name}"
