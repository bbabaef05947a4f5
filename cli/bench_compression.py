"""`edgecompress bench compression`: the method beside its baselines, over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecompress.errors import UsageError
from edgecompress.files import write_text

from . import show
from .job import Job, comparison_table, compress_config, load_job
from .jobs import Out, Quick, check_quick
from .state import COMPARISON, open_workspace
from .verb import Data, Json, example, verb, writable

if TYPE_CHECKING:
    from ..compress.comparing.comparison import ComparisonTable
    from ..compress.config import BaseTable, CompressConfig

JobFile = Annotated[
    Path, typer.Argument(help="A job file that compresses, such as examples/imagenette.toml.")
]
Seeds = Annotated[
    list[int] | None,
    typer.Option("--seed", "-s", min=0, help="Only this seed; again for more of them."),
]
Budgets = Annotated[
    list[float] | None,
    typer.Option("--budget", help="Only this share of the base's MACs (0.5); again for more."),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        help="Only this one: resolution, width, hrank, depgraph, member, member-crop (cascades"
        " are made of the members); again for more.",
    ),
]
Ship = Annotated[
    Path | None,
    typer.Option(
        "--ship",
        help="Write the choice at the headline's budget there, in half precision, with a model"
        " card; a job deploys it with \\[pretrained] cascade.",
    ),
]
SoFar = Annotated[
    bool, typer.Option("--so-far", help="Train nothing: table and page of what is there.")
]

Add = Annotated[
    list[Path] | None,
    typer.Option(
        "--add",
        help="Seeds that were trained elsewhere: the comparison.json of the same job; again for"
        " more.",
    ),
]


def add(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "compression",
        epilog=example(
            "edgecompress bench compression examples/imagenette.toml --data DIR",
            "edgecompress bench compression examples/imagenette.toml --seed 0 --method hrank",
            "edgecompress bench compression examples/imagenette.toml --so-far",
            "edgecompress bench compression examples/imagenette.toml --seed 2 --add other.json",
            "edgecompress bench compression examples/imagenette.toml --ship out/shipped/mine",
        ),
    )(_compression)


@verb
def _compression(
    job: JobFile,
    *,
    out: Out = None,
    data: Data = None,
    seed: Seeds = None,
    budget: Budgets = None,
    method: Methods = None,
    ship: Ship = None,
    so_far: SoFar = False,
    add: Add = None,
    quick: Quick = False,
    as_json: Json = False,
) -> Any:
    """Train the method and its baselines alike: a table and a plot over budgets and seeds.

    Every training is kept in the job's folder: the same command goes on where it was stopped, and
    more seeds or budgets add to what is there.
    """
    from ..bench import compression, compression_page, model_card
    from ..compress.cascading.shipped import CARD
    from ..compress.comparing.comparison import compare, opened
    from ..compress.comparing.shipping import chosen
    from ..compress.comparing.shipping import ship as write_light
    from ..compress.data.photos import find_photos
    from ..compress.machine.ddp import lead

    wanted = load_job(job)
    if wanted.compress is None:
        raise UsageError(
            f"job {wanted.name} compresses nothing", "examples/imagenette.toml is a job that does"
        )
    if quick:
        check_quick(wanted)
    config = compress_config(wanted).resolved(quick)
    changes: dict[str, Any] = {"seeds": seed, "budgets": budget, "methods": method}
    asked = wanted.comparison | {k: v for k, v in changes.items() if v is not None}
    table = comparison_table(wanted.model_copy(update={"comparison": asked}))
    if ship is not None:
        writable(ship / CARD)
    photos = tuple(
        find_photos(source, data) for source in (wanted.data.train or "", wanted.data.photos)
    )
    default = Path("out") / (f"{wanted.name}-quick" if quick else wanted.name)
    with open_workspace(out or default) as space:
        work = space.path("comparison")
        about = _about(wanted, config, table)
        others = compression.read_all_rows(add or (), about)
        rows = lead(
            compare, config, table, (photos[0], photos[1]), work, so_far=so_far, others=others
        )
        about["comparison"]["seeds"] = sorted({row.seed for row in rows})
        about |= {"n": rows[0].n, "text": _text(wanted, config, table, rows[0].n)}
        told = compression.document(rows, table.headline, about)
        compression.write_document(told, space.path(COMPARISON))
        write_text(space.path("comparison.md"), compression.markdown(told))
        compression_page.write_compression(told, space.path("comparison.html"))
        if ship is not None:
            choice = chosen(rows, table.headline)
            with opened(config, (photos[0], photos[1]), work, choice.row.seed) as one:
                facts = write_light(
                    one, choice, table, ship, _typed(job, changes | {"ship": [ship]})
                )
            write_text(ship / CARD, model_card.markdown(facts))
    if not as_json:
        columns = ["budget", "method", ">MACs a photo", ">of the base", ">top-1"]
        show.table(about["text"], columns, [list(row) for row in compression.rows_of(told)])
        for said in compression.sentences(told):
            show.say(said)
        show.say(f"page: {space.path('comparison.html')}")
        if ship is not None:
            show.say(f'cascade: {ship} (deploy it: [pretrained] cascade = "{ship}")')
    return told


def _typed(job: Path, options: dict[str, Any]) -> str:
    """The command again, for a model card."""
    given = [
        f"--{name.removesuffix('s')} {value}"
        for name, values in options.items()
        for value in values or ()
    ]
    return " ".join(["edgecompress bench compression", str(job), *given])


def told_base(base: BaseTable, epochs: int, photos: str | None) -> str:
    """What the base is and where its weights are from."""
    if epochs:
        trained = f"trained {_epochs(epochs)} from {base.weights or 'nothing'} on {photos}"
    elif base.weights:
        trained = f"with the weights {base.weights} as they are"
    else:
        trained = "as it is"
    inner = f", inner width {base.inner:g}" if base.inner != 1 else ""
    return f"{base.family}, width {base.width:g}{inner}, {base.resolution} px, {trained}"


def _epochs(count: int) -> str:
    return f"{count} epoch" + "s" * (count != 1)


def _text(wanted: Job, config: Any, table: Any, n: int) -> str:
    return (
        f"{told_base(config.base, config.train.epochs, wanted.data.train)}; each method fine-tuned"
        f" {_epochs(table.epochs)} with the base as teacher{_led(config, table)}; top-1 of"
        f" {n:,} photos of {wanted.data.photos}, on which nothing was chosen"
    )


def _led(config: CompressConfig, table: ComparisonTable) -> str:
    leads = config.members.teacher == "largest" and table.leader is not None
    return " (smaller members: the largest one)" if leads else ""


def _about(wanted: Job, config: Any, table: Any) -> dict[str, Any]:
    return {
        "job": wanted.name,
        "photos": wanted.data.photos,
        "compress": config.model_dump(mode="json"),
        "comparison": table.model_dump(mode="json"),
    }
