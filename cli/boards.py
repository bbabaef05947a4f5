"""`edgecompress boards`: what is known, what is mine, and the virtual ones."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from edgecompress.errors import UsageError

from ..targets import Board, load_boards
from . import boards_watch, show
from .verb import HandsOn, Json, example, verb

app = typer.Typer(cls=HandsOn, no_args_is_help=False, invoke_without_command=True)
boards_watch.add(app)

VIRTUAL = "virtual-pi4"
GENERIC = "generic-arm64"
Name = Annotated[str, typer.Argument(help="What you call the board.")]
Virtual = Annotated[str, typer.Argument(help="A virtual board, such as virtual-pi5.")]
As = Annotated[str, typer.Option("--as", help="The name of a further board of that sort.")]


@app.callback(epilog=example("edgecompress boards", "edgecompress boards start virtual-pi4"))
def _boards(context: typer.Context, as_json: Json = False) -> None:
    """List boards, add your own, start and stop the virtual ones."""
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@app.command("list", epilog=example("edgecompress boards list --json"))
@verb
def _list(as_json: Json = False) -> Any:
    """List the boards that are described, and your own."""
    from ..targets.inventory import entries

    known, broken = load_boards()
    mine = entries()
    if not as_json:
        rows = [[b.name, b.title, b.soc, _cores(b)] for b in known if b.supported]
        show.table("Boards", ["name", "board", "SoC", "cores"], rows)
        rows = [[b.name, b.title, b.reason] for b in known if not b.supported]
        show.table("Known, and not supported", ["name", "board", "because"], rows)
        if broken:
            show.table(
                "Files of yours that are damaged", ["name", "because"], [*map(list, broken.items())]
            )
        if mine:
            rows = [[e.name, e.board, e.user, e.host, str(e.port or 22)] for e in mine]
            show.table("Yours", ["name", "board", "user", "host", ">port"], rows)
        else:
            show.say("Add your own: edgecompress boards add NAME --board rpi4b --host ADDRESS")
    return {
        "boards": [asdict(b) for b in known],
        "yours": [asdict(e) for e in mine],
        "broken": [{"name": name, "reason": reason} for name, reason in broken.items()],
    }


def _cores(board: Board) -> str:
    return " + ".join(f"{c.cores} {c.core} at {c.mhz} MHz" for c in board.clusters)


@app.command(
    "add",
    epilog=example("edgecompress boards add kitchen --board rpi4b --host 192.168.1.20 --user pi"),
)
@verb
def _add(
    name: Name,
    *,
    host: Annotated[str, typer.Option(help="Host name, address, or alias of ~/.ssh/config.")],
    board: Annotated[
        str,
        typer.Option(help="What it is (`edgecompress boards`); absent: `boards probe` finds out."),
    ] = GENERIC,
    port: Annotated[int | None, typer.Option(help="Of its SSH server.")] = None,
    user: Annotated[str, typer.Option(help="Whom to log in as.")] = "",
    identity: Annotated[str, typer.Option(help="Private key; absent: those that ssh takes.")] = "",
    trust: Annotated[
        str,
        typer.Option(help="The host key's fingerprint, SHA256:...; absent: known_hosts decides."),
    ] = "",
    workdir: Annotated[str, typer.Option(help="The folder on it that is ours.")] = "edgecompress",
    python: Annotated[str, typer.Option(help="Its Python, such as 3.13, if not the usual.")] = "",
    jump: Annotated[
        str, typer.Option(help="Reached through user@bastion:port; more with commas between them.")
    ] = "",
    jump_host_key: Annotated[
        str,
        typer.Option(help="The jump host's key's fingerprint; absent: known_hosts decides."),
    ] = "",
    as_json: Json = False,
) -> Any:
    """Write a board of yours into the inventory. Nothing is sent to it."""
    from ..targets.inventory import BoardEntry, add, inventory_path

    entry = BoardEntry(
        name, board, host, port, user, identity, trust, workdir, python, jump, jump_host_key
    )
    add(entry)
    if not as_json:
        then = f"boards probe {name}" if board == GENERIC else f"doctor -b {name}"
        show.say(f"{name} is in {inventory_path()}; next: edgecompress {then}")
    return asdict(entry)


@app.command("probe", epilog=example("edgecompress boards probe kitchen"))
@verb
def _probe(
    name: Name,
    *,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only show; write nothing.")] = False,
    as_json: Json = False,
) -> Any:
    """Log in, find out what a board of yours is, and describe it in a file of its own.

    Kernels, caches and threads are then made for what it has, not for the sort it was added as.
    """
    from ..rpc import connect
    from ..rpc.probe import evidence
    from ..targets.describe import describe, write_description
    from ..targets.inventory import add, find

    entry = find(name)
    with connect(name) as session:
        description = describe(evidence(session))
    described = f"{name}-board"
    if not as_json:
        rows = [[one.what, one.value, one.source] for one in description.findings]
        show.table(f"{name} ({entry.host})", ["what", "found", "how sure"], rows)
    if dry:
        return {"name": name, "toml": description.toml, **asdict(description)}
    path = write_description(described, description)
    add(replace(entry, board=described, python=""))
    if not as_json:
        count = len(description.guesses)
        guessed = f"; {count} of it guessed, marked there" if count else ""
        show.say(f"{name} is now a '{described}': {path}{guessed}")
        show.say(f"Check it: edgecompress doctor -b {name}")
    return {"name": name, "board": described, "file": str(path), **asdict(description)}


@app.command("setup", epilog=example("edgecompress boards setup kitchen"))
@verb
def _setup(
    name: Name,
    *,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take away all that we put onto the board.")
    ] = False,
    unit: Annotated[
        bool,
        typer.Option(
            "--service",
            help="A systemd user unit that tidies up when the board starts; with --remove, only"
            " take that away.",
        ),
    ] = False,
    as_json: Json = False,
) -> Any:
    """Give a board numpy and Pillow, fetched here; nobody has to be root, nor online, there."""
    from ..rpc import connect, packages, probe, service

    with connect(name) as session:
        if remove:
            path = service.remove(session)
            if not unit:
                packages.remove(session)
            if not as_json:
                show.say(f"{path} is away" if unit else f"{session.workdir} on {name} is empty")
            return {"removed": path if unit else session.workdir}
        installed = packages.setup(session, probe(session).python)
        unit_state = service.install(session) if unit else None
    if not as_json:
        found = ", ".join(f"{key} {value}" for key, value in installed.packages.items())
        how = "sent" if installed.sent else "there already"
        show.say(f"{name}: {found} in {installed.folder} ({how})")
        if unit_state:
            show.say(f"{unit_state.path} is {'enabled' if unit_state.enabled else 'written'}")
            if unit_state.next:
                show.say(f"Type on the board: {unit_state.next}")
        show.say(f"Check it: edgecompress doctor -b {name}")
    return {**asdict(installed), "service": unit_state and asdict(unit_state)}


@app.command("remove", epilog=example("edgecompress boards remove kitchen"))
@verb
def _remove(name: Name, as_json: Json = False) -> Any:
    """Take a board of yours out of the inventory."""
    from ..targets.inventory import remove

    remove(name)
    if not as_json:
        show.say(f"{name} is removed")
    return {"removed": name}


@app.command(
    "start",
    epilog=example(
        "edgecompress boards start virtual-pi4",
        "edgecompress boards start virtual-pi4 --as shelf-a",
    ),
)
@verb
def _start(name: Virtual = VIRTUAL, copy: As = "", as_json: Json = False) -> Any:
    """Start a virtual board; builds it first where that was not done yet.

    With --as, a further board of that sort, with a disk of its own; it becomes one of yours.
    """
    from ..rpc import virtual
    from ..targets.inventory import add, require_free

    if copy:
        require_free(copy)
        _require_copy(name, copy)
    entry = virtual.start(name, copy)
    if copy:
        add(entry)
    return _state(name, copy, as_json)


def _require_copy(name: str, copy: str) -> None:
    """Refuse to replace a board of the user's that is no such virtual board.

    Raises:
        UsageError: the inventory has one of that name.
    """
    from ..rpc import virtual
    from ..targets.inventory import entries, inventory_path

    mine = entries() if inventory_path().exists() else ()
    for entry in mine:
        if entry.name == copy and not virtual.is_copy(entry, name):
            raise UsageError(
                f"'{copy}' is another board of yours, at {entry.host}",
                f"choose another name for --as, or first: edgecompress boards remove {copy}",
            )


@app.command("stop", epilog=example("edgecompress boards stop virtual-pi4"))
@verb
def _stop(name: Virtual = VIRTUAL, copy: As = "", as_json: Json = False) -> Any:
    """End a virtual board and everything that runs on it; its disk is kept."""
    from ..rpc import virtual

    virtual.stop(name, copy)
    return _state(name, copy, as_json)


@app.command("status", epilog=example("edgecompress boards status virtual-pi4"))
@verb
def _status(name: Virtual = VIRTUAL, copy: As = "", as_json: Json = False) -> Any:
    """Say whether a virtual board runs, and where it is reached."""
    return _state(name, copy, as_json)


@app.command("reset", epilog=example("edgecompress boards reset virtual-pi4"))
@verb
def _reset(name: Virtual = VIRTUAL, copy: As = "", as_json: Json = False) -> Any:
    """End a virtual board and give it a fresh disk and fresh keys at its next start."""
    from ..rpc import virtual

    virtual.reset(name, copy)
    return _state(name, copy, as_json)


def _state(name: str, copy: str, as_json: bool) -> Any:
    from ..rpc import virtual

    state = virtual.status(name, copy)
    if not as_json:
        where = f"runs ({state.mode}), SSH on 127.0.0.1 port {state.port}"
        show.say(f"{copy or name} {where if state.running else 'does not run'}")
    return {"name": copy or name, **asdict(state)}
