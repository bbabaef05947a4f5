"""`edgecompress data`: photo sets, listed and fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgecompress.errors import InputError, UsageError, unknown_name

from . import show
from .verb import Data, HandsOn, Json, example, verb

app = typer.Typer(cls=HandsOn, no_args_is_help=False, invoke_without_command=True)

SOURCES = {
    "foolbox": "20 labelled ImageNet photos that a package ships",
    "imagenette/train": "10 ImageNet classes, 9,469 photos at 160 px",
    "imagenette/val": "the same classes, 3,925 other photos",
    "imagenet-val": "ILSVRC-2012 validation photos, 1,000 classes",
}


@app.callback(epilog=example("edgecompress data", "edgecompress data get imagenette"))
def _data(context: typer.Context, data: Data = None, as_json: Json = False) -> None:
    """List the photo sets, and what is here of them."""
    if context.invoked_subcommand is None:
        _listing(data=data, as_json=as_json)


@verb
def _listing(*, data: Path | None, as_json: bool) -> Any:
    found = {name: _count(name, data) for name in SOURCES}
    if not as_json:
        rows = [
            [name, "not here" if count is None else f"{count} photos", what]
            for (name, what), count in zip(SOURCES.items(), found.values(), strict=True)
        ]
        show.table("Photo sets (docs/data.md)", ["name", "here", "what"], rows)
    return {"sets": found}


def _count(name: str, data: Path | None) -> int | None:
    from ..compress.data.photos import find_photos

    try:
        return len(find_photos(name, data).paths)
    except InputError:
        return None


@app.command(epilog=example("edgecompress data get imagenette", "edgecompress data get foolbox"))
@verb
def get(
    name: Annotated[str, typer.Argument(help="imagenette or foolbox.")],
    url: Annotated[
        str | None, typer.Option(help="Another place that serves the same archive.")
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> Any:
    """Fetch a photo set, if it is not here; a download that was cut goes on from where it was."""
    if name == "imagenette":
        folder = _imagenette(url, data)
    elif name == "foolbox":
        from ..compress.data.photos import foolbox_photos

        if url:
            raise UsageError("foolbox comes from its package and takes no --url")
        folder = foolbox_photos().paths[0].parent
    else:
        raise unknown_name(
            "photo set", name, ["imagenette", "foolbox"], UsageError, "edgecompress data"
        )
    if not as_json:
        show.say(f"{name} is in {folder}")
    return {"name": name, "folder": str(folder)}


def _imagenette(url: str | None, data: Path | None) -> Path:
    from ..compress.data.download import fetch_imagenette
    from ..compress.data.photos import find_photos

    if url:
        return fetch_imagenette(url)
    try:
        return find_photos("imagenette/val", data).paths[0].parents[2]
    except InputError:
        return fetch_imagenette()
