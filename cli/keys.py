"""`edgecompress keys`: who signs bundles, and whose signatures a board wants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecompress.errors import UsageError

from . import show
from .verb import BoardName, Json, example, verb

if TYPE_CHECKING:
    from ..runner.signature import Trust

app = typer.Typer(
    help="Keys that sign bundles, and boards that want signed ones.",
    epilog=example("edgecompress keys new lab", "edgecompress keys trust lab --board kitchen"),
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="What you call the key.")]
Board = Annotated[str, typer.Option("--board", "-b", help="A board that can be reached.")]


@app.command("new", epilog=example("edgecompress keys new lab"))
@verb
def _new(name: Name = "default", *, as_json: Json = False) -> Any:
    """Make a key. The private half stays in a file that only you may read."""
    from ..compile.signing import new_key

    made = new_key(name)
    if not as_json:
        show.say(f"{made.path} is the private key; keep it to yourself")
        show.say(made.line)
        show.say(f"next: edgecompress keys trust {name} --board BOARD")
    return {"name": name, "public": made.line, "path": str(made.path)}


@app.command("list", epilog=example("edgecompress keys list --board kitchen"))
@verb
def _list(*, board: BoardName = None, as_json: Json = False) -> Any:
    """List your keys; with --board, those that a board trusts."""
    from ..compile.signing import key_names, public_key

    if board:
        from ..bench.trust import board_trust
        from ..rpc import connect

        with connect(board) as session:
            return _told(board, board_trust(session), as_json)
    mine = [public_key(name) for name in key_names()]
    if not as_json:
        for one in mine:
            show.say(one.line)
        if not mine:
            show.say("no keys yet; make one: edgecompress keys new NAME")
    return {"keys": [{"name": one.name, "public": one.line} for one in mine]}


@app.command("show", epilog=example("edgecompress keys show lab"))
@verb
def _show(name: Name, *, as_json: Json = False) -> Any:
    """Print the public half of a key, for a colleague's board."""
    from ..compile.signing import public_key

    one = public_key(name)
    if not as_json:
        show.say(one.line)
    return {"name": name, "public": one.line}


@app.command("trust", epilog=example("edgecompress keys trust lab --board kitchen"))
@verb
def _trust(
    key: Annotated[
        str, typer.Argument(help="A key of yours, or a file with a colleague's public line.")
    ],
    *,
    board: Board,
    off: Annotated[bool, typer.Option("--off", help="Trust it no longer.")] = False,
    as_json: Json = False,
) -> Any:
    """Let a board trust a key."""
    from ..bench.trust import trust
    from ..rpc import connect

    public, name = _public(key)
    with connect(board) as session:
        return _told(board, trust(session, public, name, off=off), as_json)


@app.command("require", epilog=example("edgecompress keys require --board kitchen"))
@verb
def _require(
    *,
    board: Board,
    off: Annotated[bool, typer.Option("--off", help="Take unsigned bundles again.")] = False,
    as_json: Json = False,
) -> Any:
    """Let a board take only bundles that a trusted key signed."""
    from ..bench.trust import require
    from ..rpc import connect

    with connect(board) as session:
        return _told(board, require(session, off=off), as_json)


def _public(key: str) -> tuple[bytes, str]:
    from ..compile.signing import key_names, public_key
    from ..runner.signature import MAX_TRUSTED, parse_public

    path = Path(key)
    if key in key_names() or not path.is_file():
        one = public_key(key)
        return one.key, one.name
    with path.open("rb") as stream:
        found = parse_public(stream.read(MAX_TRUSTED).decode("utf-8", "replace"))
    if found is None:
        raise UsageError(
            f"{path} holds no public key", "ask for the line that `edgecompress keys show` prints"
        )
    return found


def _told(board: str, known: Trust, as_json: bool) -> Any:
    from ..runner.signature import public_line

    lines = [public_line(key, name) for key, name in known.keys.items()]
    if not as_json:
        wants = "takes signed bundles only" if known.required else "takes unsigned bundles too"
        show.say(f"{board} {wants}; it trusts {len(lines)} keys" if lines else f"{board} {wants}")
        for line in lines:
            show.say(line)
    return {"board": board, "required": known.required, "trusted": lines}
