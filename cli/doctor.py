"""`edgecompress doctor`: is everything there, and what to do where it is not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer
from rich.markup import escape

from edgecompress.errors import BoardError, InputError, plain

from . import show
from .checks import Check, board_checks, host_checks
from .verb import BoardName, Json, example, verb

MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "doctor",
        epilog=example("edgecompress doctor", "edgecompress doctor --board virtual-pi4"),
    )(_doctor)


@verb
def _doctor(*, board: BoardName = None, as_json: Json = False) -> Any:
    """Check this machine and, with --board, a board; says what to type where something is amiss."""
    here = host_checks()
    there = _board(board) if board else []
    document = {
        "host": [asdict(check) for check in here],
        "board": [asdict(check) for check in there],
    }
    if as_json:
        show.document(document)
    else:
        _print("This machine", here)
        if board:
            _print(f"Board {board}", there)
    wrong = [check for check in (*here, *there) if check.level == "error"]
    if wrong and not as_json:
        kind = InputError if wrong[0] in here else BoardError
        raise kind(f"{wrong[0].what}: {wrong[0].found}", wrong[0].hint)
    if wrong:
        raise typer.Exit(InputError.exit_code if wrong[0] in here else BoardError.exit_code)
    return None


def _board(name: str) -> list[Check]:
    from ..rpc import connect
    from ..rpc.probe import probe

    with connect(name) as session:
        return board_checks(session.board, probe(session))


def _print(title: str, checks: list[Check]) -> None:
    show.out.print(f"[bold]{escape(title)}[/]")
    for check in checks:
        show.out.print(f"  {MARKS[check.level]} {check.what}: {escape(plain(check.found))}")
        if check.hint:
            show.out.print(f"      [dim]{escape(plain(check.hint))}[/]")
