"""`edgecompress boards release`: who measures on which board."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from . import show
from .verb import Json, example, verb

Name = Annotated[str, typer.Argument(help="A board; `edgecompress boards` lists them.")]


def add(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("release", epilog=example("edgecompress boards release kitchen"))(_release)


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
