"""The user's own boards: a TOML file of names, addresses and pinned host keys, and no secrets.

The file is the one that `EDGECOMPRESS_INVENTORY` names (`edgecompress --inventory`), else
`boards.toml` in the user's configuration folder, and may be edited by hand. It is read as
untrusted: every value is checked before it comes near a command line or a socket.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from filelock import FileLock
from pydantic import Field

from edgecompress.errors import BoardError, InputError, UsageError, unknown_name
from edgecompress.files import config_dir, write_text

from .board import board_names, load_board, require_supported, virtual_names
from .schema import Strict, parse_toml, read_toml

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$"
FINGERPRINT = r"SHA256:[A-Za-z0-9+/]{43}"
VARIABLE = "EDGECOMPRESS_INVENTORY"
_HOP = (
    r"([A-Za-z0-9_][A-Za-z0-9._-]{0,63}@)?"
    r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_][A-Za-z0-9._-]{0,253})(:[0-9]{1,5})?"
)


@dataclass(frozen=True)
class BoardEntry:
    """One board that can be reached.

    Attributes:
        name: the user's name for it.
        board: what it is, a name of `board_names()`.
        host: host name, address, or alias of ~/.ssh/config.
        port: of its SSH server; None takes that of ~/.ssh/config, or 22.
        user: to log in as; "" takes that of ~/.ssh/config, or the present user.
        identity_file: private key's path; "" takes those of ~/.ssh/config, the agent and
            the usual files.
        host_key: the SSH host key's fingerprint (`SHA256:...`, as `ssh-keygen -l` prints it); ""
            trusts what ~/.ssh/known_hosts knows.
        workdir: the folder on the board that is ours; a relative one is below the login's home.
        python: version of the board's Python ("3.13"), where it is not the one of `board`.
        jump: hosts on the way, `user@host:port` each, with commas between them, the one that is
            reached first in front; "" takes `ProxyJump` or `ProxyCommand` of ~/.ssh/config.
        jump_host_key: their host keys' fingerprints, as many and in the same order; "" trusts what
            known_hosts knows.
    """

    name: str
    board: str
    host: str
    port: int | None = None
    user: str = ""
    identity_file: str = ""
    host_key: str = ""
    workdir: str = "edgecompress"
    python: str = ""
    jump: str = ""
    jump_host_key: str = ""


class _Entry(Strict):
    board: Annotated[str, Field(pattern=NAME)]
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9_\[][A-Za-z0-9.:_%\]-]{0,253}$")]
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    user: Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9._@-]{0,63})?$")] = ""
    identity_file: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{0,1024}$")] = ""
    host_key: Annotated[str, Field(pattern=f"^({FINGERPRINT})?$")] = ""
    workdir: Annotated[str, Field(pattern=r"^[A-Za-z0-9/._][A-Za-z0-9/._ -]{0,255}$")] = (
        "edgecompress"
    )
    python: Annotated[str, Field(pattern=r"^(3\.[0-9]{1,2})?$")] = ""
    jump: Annotated[str, Field(pattern=f"^({_HOP}(,{_HOP}){{0,7}})?$")] = ""
    jump_host_key: Annotated[str, Field(pattern=f"^({FINGERPRINT}(,{FINGERPRINT}){{0,7}})?$")] = ""


class _Inventory(Strict):
    boards: dict[Annotated[str, Field(pattern=NAME)], _Entry] = {}  # noqa: RUF012 pydantic copies it


def inventory_path() -> Path:
    """Where the inventory lies.

    Raises:
        UsageError: it is named, and that is no place.
    """
    named = os.environ.get(VARIABLE)
    return named_inventory(Path(named)) if named else config_dir() / "boards.toml"


def named_inventory(path: Path) -> Path:
    """A file that somebody named as the inventory, from the root on.

    Raises:
        UsageError: it is in the home of nobody, or behind links that lead round in circles.
    """
    try:
        return path.expanduser().resolve()
    except RuntimeError as error:
        raise UsageError(
            f"there can be no inventory at {path}: {error}",
            "give its path from the root on: --inventory /PATH/TO/boards.toml",
        ) from None


def entries() -> tuple[BoardEntry, ...]:
    """All boards of the inventory, sorted by name.

    Raises:
        UsageError: it is named, and that is no place.
        InputError: the file is damaged (the message names the key), or is named and not there.
    """
    path = inventory_path()
    if os.environ.get(VARIABLE) and not path.exists():
        raise InputError(f"no such inventory: {path}", "edgecompress boards add makes it")
    return _entries(path)


def _entries(path: Path) -> tuple[BoardEntry, ...]:
    if not path.exists():
        return ()
    read = read_toml(path, _Inventory, "inventory")
    return tuple(
        BoardEntry(name=name, **entry.model_dump()) for name, entry in sorted(read.boards.items())
    )


def find(name: str) -> BoardEntry:
    """The board of that name.

    Raises:
        BoardError: there is none; the hint offers the near names.
        InputError: the file is damaged.
    """
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        names = sorted({*known, "host", *virtual_names()})
        raise unknown_name("board", name, names, BoardError, "edgecompress boards list")
    return known[name]


def add(entry: BoardEntry) -> None:
    """Add a board, or replace the one of that name.

    Raises:
        UsageError: the name is one of `board_names()`, which name sorts of boards.
        BoardError: `entry.board` names no board, or one for which nothing can be compiled.
        InputError: a value is not allowed; the message names it.
    """
    require_free(entry.name)
    require_supported(load_board(entry.board))
    with _locked():
        kept = [one for one in _entries(inventory_path()) if one.name != entry.name]
        _write([*kept, entry])


def require_free(name: str) -> None:
    """Refuse a name that a board of the user's cannot have.

    Raises:
        UsageError: it is one of `board_names()`.
    """
    if name in board_names():
        raise UsageError(
            f"'{name}' names a sort of board and cannot name one of yours",
            f"choose another name, such as my-{name}",
        )


def remove(name: str) -> None:
    """Remove a board.

    Raises:
        BoardError: there is none of that name.
    """
    with _locked():
        find(name)
        _write([one for one in entries() if one.name != name])


def _locked() -> FileLock:
    path = inventory_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


def _write(kept: list[BoardEntry]) -> None:
    sections = [_section(entry) for entry in sorted(kept, key=lambda one: one.name)]
    text = "# The boards that EdgeCompress reaches: `edgecompress boards add|remove|list`.\n"
    text += "".join(f"\n{section}" for section in sections)
    parse_toml(text, _Inventory, "the new entry")
    write_text(inventory_path(), text)


def _section(entry: BoardEntry) -> str:
    """One table. A JSON string with its control characters escaped is a TOML string."""
    values = {key: value for key, value in asdict(entry).items() if value and key != "name"}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join([f"[boards.{json.dumps(entry.name)}]", *lines]) + "\n"
