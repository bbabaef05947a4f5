"""`edgecompress boards watch` and `release`: who measures on which board, and how they all do."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.table import Table

from edgecompress.errors import UsageError

from . import show
from .verb import Json, duration, example, verb

if TYPE_CHECKING:
    from ..rpc.watch import Sight

Name = Annotated[str, typer.Argument(help="A board; `edgecompress boards` lists them.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(help="Boards; absent: all of yours, and the virtual ones that run."),
]
Once = Annotated[bool, typer.Option("--once", help="Print one table and end.")]
Every = Annotated[str, typer.Option("--every", help="How often each is asked: 5s, 1m.")]

# The longest that the first table waits: one that cannot be reached says so in this time.
FIRST_S = 45.0
_REFRESH_S = 0.5
COLUMNS = [
    "board", "state", ">ping", "in use by", "doing", ">since",
    ">temperature", ">clock", "governor", "throttled", ">load", ">memory free", ">disk free",
]  # fmt: skip


def add(app: typer.Typer) -> None:
    """Add the verbs."""
    lines = ("edgecompress boards watch", "edgecompress boards watch kitchen cellar --once --json")
    app.command("watch", epilog=example(*lines))(verb(_watch, quiet=True))
    app.command("release", epilog=example("edgecompress boards release kitchen"))(_release)


def _watch(
    names: Names = None, *, once: Once = False, every: Every = "5s", as_json: Json = False
) -> None:
    """Show how boards do, live: who measures on them, heat, clocks, load, space. Ctrl-C ends it.

    With --json, one line for each round.
    """
    from ..rpc.watch import Watch, watched
    from .run import find_board

    seconds = duration(every, "--every")
    for name in names or ():
        find_board(name)
    chosen = names or watched()
    if not chosen:
        raise UsageError(
            "no board to watch",
            "add yours: edgecompress boards add --help, or: edgecompress boards start virtual-pi4",
        )
    try:
        with Watch(list(dict.fromkeys(chosen)), seconds) as watch:
            if once:
                _print(watch.all(FIRST_S), as_json)
            elif as_json:
                _lines(watch, seconds)
            else:
                _live(watch)
    except KeyboardInterrupt:  # the way to end it
        return


def _lines(watch: Any, every_s: float) -> None:
    sights = watch.all(FIRST_S)
    while True:
        _print(sights, as_json=True)
        time.sleep(every_s)
        sights = watch.all()


def _live(watch: Any) -> None:
    with Live(_table(watch.all()), console=show.out, auto_refresh=False) as live:
        while True:
            live.update(_table(watch.all()), refresh=True)
            time.sleep(_REFRESH_S)


def _print(sights: list[Sight], as_json: bool) -> None:
    if not as_json:
        show.out.print(_table(sights))
        return
    boards = [{**asdict(sight), "doing": sight.doing} for sight in sights]
    at = datetime.now(UTC).isoformat(timespec="seconds")
    sys.stdout.write(json.dumps({"at": at, "boards": boards}) + "\n")
    sys.stdout.flush()


def _table(sights: list[Sight]) -> Table:
    """One row a board; columns of which no board tells anything are left out."""
    rows = [_row(sight) for sight in sights]
    kept = [i for i in range(len(COLUMNS)) if i < 2 or any(row[i] for row in rows)]
    columns = [COLUMNS[i] for i in kept]
    return show.made_table("Boards", columns, [[row[i] for i in kept] for row in rows])


def _row(sight: Sight) -> list[str]:
    if sight.trouble:
        return [sight.name, sight.trouble, *[""] * (len(COLUMNS) - 2)]
    holder, vitals = sight.holder, sight.vitals
    return [
        sight.name,
        "answers",
        _of(sight.ping_ms, "{:.0f} ms"),
        holder.owner if holder else "",
        sight.doing,
        f"{holder.since_s / 60:.0f} min" if holder else "",
        _of(vitals.temperature_c, "{:.0f} °C"),
        "/".join(map(str, sight.mhz)) + (" MHz" if sight.mhz else ""),
        "/".join(sight.governors),
        ", ".join(vitals.throttles) or ("no" if vitals.flags is not None else ""),
        _of(sight.load, "{:.2f}"),
        _of(sight.memory_mib, "{} MiB"),
        _of(sight.disk_mib, "{} MiB"),
    ]


def _of(value: float | None, pattern: str) -> str:
    return "" if value is None else pattern.format(value)


@verb
def _release(name: Name, as_json: Json = False) -> Any:
    """Take a board away from whoever measures on it, such as one whose run has hung."""
    from ..rpc import connect
    from ..rpc.lease import release

    with connect(name) as session:
        holder = release(session)
    if not as_json:
        show.say(f"{name} was in use by {holder}" if holder else f"nobody measures on {name}")
    return {"name": name, "released": None if holder is None else asdict(holder)}
