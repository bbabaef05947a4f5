"""`edgecompress bench tune`: any ONNX files, tuned without a job."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecompress import events
from edgecompress.errors import UsageError

from . import summary
from .jobs import Trials
from .precision import require_float16
from .run import find_board
from .tune_boards import endpoints, require_once, require_one_sort
from .verb import Json, Wait, duration, example, verb, waiting, writable

if TYPE_CHECKING:
    from ..targets import Board


class Cost(StrEnum):
    """What `--cost` may say."""

    TIME = "time"
    CYCLES = "cycles"


class OtherPrecision(StrEnum):
    """What `--precision` may say."""

    FLOAT16 = "float16"
    INT8 = "int8"


Models = Annotated[
    list[str], typer.Argument(help="ONNX files, or names of reference models (`bench peers`).")
]
Boards = Annotated[
    list[str] | None,
    typer.Option("--board", "-b", help="Where kernels are measured; again for more of one sort."),
]
Records = Annotated[Path, typer.Option("--database", help="The file of tuning records to add to.")]
Budget = Annotated[str | None, typer.Option("--budget", help="How long: 90s, 10m, 2h.")]
By = Annotated[
    Cost | None,
    typer.Option(
        "--cost", help="Time, or cycles estimated under emulation; absent: as `bench peers`."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", "-t", min=1, help="Of a kernel; absent: one for each core."),
]
Single = Annotated[
    OtherPrecision | None,
    typer.Option("--precision", "-p", help="Tune them in float16 or int8 instead."),
]


def add(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "tune",
        epilog=example(
            "edgecompress bench tune mobilenet_v2 --budget 10m",
            "edgecompress bench peers mobilenet_v2 --database tuning.jsonl",
            "edgecompress bench tune mine.onnx -b virtual-pi4 --budget 10m",
        ),
    )(_tune)


@verb
def _tune(
    models: Models,
    *,
    board: Boards = None,
    database: Records = Path("tuning.jsonl"),
    budget: Budget = None,
    trials: Trials = None,
    cost: By = None,
    threads: Threads = None,
    precision: Single = None,
    wait: Wait = None,
    as_json: Json = False,
) -> Any:
    """Tune the kernels of networks; `bench peers` and `bench layers` use the records."""
    from ..bench.emulated.estimate import cycle_estimate
    from ..bench.peers.compare import PREPROCESS
    from ..compile.tune import tune_networks
    from ..targets import require_supported

    if budget is None and trials is None:
        raise UsageError("no budget to tune with", "give --budget 10m, or --trials N")
    seconds = None if budget is None else duration(budget, "--budget")
    writable(database)
    names = tuple(board or ("host",))
    require_once(names)
    boards = {name: find_board(name) for name in names}
    require_one_sort(boards)
    where = require_supported(boards[names[0]])
    if precision is OtherPrecision.FLOAT16:
        require_float16(where)
    by = cost or (Cost.CYCLES if where.kind == "virtual" else Cost.TIME)
    estimate = cycle_estimate(where) if by is Cost.CYCLES else None
    half: dict[str, Any] = {"precision": "float16"} if precision is OtherPrecision.FLOAT16 else {}
    opening = endpoints(names, "fast", threads, wait=waiting(wait))
    with (
        networks(models, where, precision) as files,
        nullcontext({}) if estimate else opening as sources,
    ):
        result = tune_networks(
            files,
            where,
            PREPROCESS,
            sources,
            database=database,
            trials=trials,
            seconds=seconds,
            estimate=estimate,
            threads=threads,
            **half,
        ).to_json()
    if not as_json:
        summary.show_tuning(result, database)
    return {"database": str(database), "result": result}


@contextmanager
def networks(
    models: Sequence[str], board: Board, precision: OtherPrecision | None
) -> Iterator[list[Path]]:
    """The ONNX files of models, those in int8 quantised as `bench peers` does; gone afterwards."""
    from ..bench.peers.compare import PREPROCESS
    from ..bench.peers.models import find_model, quantised

    files = [find_model(model) for model in models]
    if precision is not OtherPrecision.INT8:
        yield files
        return
    with tempfile.TemporaryDirectory(prefix="edgecompress-int8-") as folder:
        # Numbered: two models may have files of one name.
        outs = [Path(folder) / f"{number}.onnx" for number in range(len(files))]
        pairs = events.track(list(zip(files, outs, strict=True)), "quantising")
        yield [quantised(file, board, PREPROCESS, out) for file, out in pairs]
