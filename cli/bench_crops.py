"""`edgecompress bench crops`: predicted crops against true object boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgecompress.files import write_json

from . import show
from .verb import Data, Json, example, verb, writable

Named = Annotated[str, typer.Argument(help="A cascade folder that has a foreground predictor.")]
Photos = Annotated[
    str,
    typer.Option(
        "--photos", help="imagenet-val below --data, or a folder whose labels.csv has boxes_xyxy."
    ),
]
Page = Annotated[
    Path | None, typer.Option("--page", help="Write the numbers and some photos as a page.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write the JSON document there.")]


def add(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "crops",
        epilog=example(
            "edgecompress bench crops out/imagenette/cascade --data DIR",
            "edgecompress bench crops out/imagenette/cascade --page crops.html",
        ),
    )(_crops)


@verb
def _crops(
    cascade: Named,
    *,
    photos: Photos = "imagenet-val",
    data: Data = None,
    page: Page = None,
    out: Out = None,
    as_json: Json = False,
) -> Any:
    """Hold a cascade's crops against true object boxes, the centre crop and the whole photo.

    IoU with the tight box round all objects of the photo's class and with the best single one, the
    share of the objects' area that the crop holds, and the share of the photo that it keeps: means
    over photos, ± their standard errors.
    """
    for path in (out, page):
        if path is not None:
            writable(path)
    from ..bench import crops, crops_page
    from ..compress.data.true_boxes import find_boxed

    opened, predict = crops.open_predictor(cascade)
    boxed = find_boxed(photos, data)
    looked = crops.look(opened, predict, boxed)
    told = crops.document(looked, boxed)
    if out is not None:
        write_json(out, told)
    if page is not None:
        crops_page.write_crops(told, crops_page.choose(looked, boxed), page)
    if not as_json:
        title = f"{opened.name}'s crops against the true boxes of {boxed.photos.name}"
        show.table(title, list(crops.HEAD), [list(row) for row in crops.rows_of(told)])
        for line in crops.sentences(told):
            show.say(line)
        if page is not None:
            show.say(f"page: {page}")
    return told
