"""`edgecompress bench`: a job's photos on its board, and compiled networks beside other engines."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecompress.errors import UsageError

from . import bench_compression, bench_crops, bench_tune, jobs, show
from .bench_tune import OtherPrecision
from .precision import require_float16
from .run import alone, find_board
from .verb import JobUnlessNamed, Json, Wait, example, verb, waiting

if TYPE_CHECKING:
    from ..bench.layers import Agreement, LayerCost
    from ..bench.peers import Comparison, Row
    from ..targets import Board


app = typer.Typer(
    cls=JobUnlessNamed,
    no_args_is_help=True,
    help="Measure: a job's photos on its board, or compiled networks beside other engines.",
    epilog=example("edgecompress bench examples/demo.toml", "edgecompress bench peers resnet50"),
)
jobs.add(app, "bench", JobUnlessNamed.job)
bench_tune.add(app)
bench_compression.add(app)
bench_crops.add(app)

Models = Annotated[
    list[str] | None,
    typer.Argument(
        help="ONNX files, or names of reference models; absent: all of these: half-resnet50,"
        " resnet50, resnet18, resnet18d, mobilenet_v2, efficientnet_lite0, regnet_x_200mf,"
        " regnet_y_200mf, foreground_predictor."
    ),
]
Where = Annotated[
    str,
    typer.Option(
        "--board", "-b", help="host: wall time; a virtual board: instructions and estimated cycles."
    ),
]
Threads = Annotated[
    list[int] | None,
    typer.Option("--threads", "-t", min=1, help="Threads on the host; absent: 1, and all cores."),
]
Other = Annotated[
    list[OtherPrecision] | None,
    typer.Option("--precision", "-p", help="Also ours in float16 or int8; give it again for both."),
]
Single = Annotated[
    OtherPrecision | None,
    typer.Option("--precision", "-p", help="Profile it in float16 or int8 instead."),
]
Records = Annotated[
    Path | None, typer.Option("--database", help="Tuning records to compile with (tuning.jsonl).")
]


@app.command(
    "peers",
    epilog=example(
        "edgecompress bench peers mobilenet_v2 --board host",
        "edgecompress bench peers out/demo/cascade/efficientnet_lite0.onnx -b virtual-pi4",
    ),
)
@verb
def _peers(
    models: Models = None,
    *,
    board: Where = "host",
    threads: Threads = None,
    precision: Other = None,
    database: Records = None,
    wait: Wait = None,
    as_json: Json = False,
) -> Any:
    """Compare compiled networks with ONNX Runtime, ncnn, MNN and LiteRT on the same input."""
    from ..bench.peers import compare
    from ..bench.peers.models import MODELS, find_model

    where = _measurable(board)
    counts = threads or sorted({1, len(os.sched_getaffinity(0))})
    others = _others(precision, where)
    files = [find_model(model) for model in models or MODELS]
    found = []
    for model, file in zip(models or MODELS, files, strict=True):
        with alone(where, "bench peers", waiting(wait)):
            comparison = compare(file, where, counts, database, precisions=others)
        if not as_json:
            _show(model, comparison)
        found.append({**asdict(comparison), "model": model})
    return {"comparisons": found}


def _others(precision: list[OtherPrecision] | None, board: Board) -> list[str]:
    others = [one.value for one in dict.fromkeys(precision or ())]
    if "float16" in others:
        require_float16(board)
    return others


Model = Annotated[str, typer.Argument(help="An ONNX file, or the name of a reference model.")]


@app.command(
    "layers",
    epilog=example(
        "edgecompress bench layers mobilenet_v2",
        "edgecompress bench layers out/demo/cascade/efficientnet_lite0.onnx -b virtual-pi4",
    ),
)
@verb
def _layers(
    model: Model,
    *,
    board: Where = "host",
    precision: Single = None,
    database: Records = None,
    wait: Wait = None,
    as_json: Json = False,
) -> Any:
    """Show where a compiled network's time goes (on a virtual board: its instructions)."""
    from ..bench.layers import agreement, profile_layers
    from ..bench.peers.models import find_model

    where = _measurable(board)
    other = next(iter(_others([precision] if precision else [], where)), "float32")
    with alone(where, "bench layers", waiting(wait)):
        rows = profile_layers(find_model(model), where, database, other)
    agreed = agreement(rows)
    if not as_json:
        _show_layers(model, where, rows)
        if agreed is not None:
            _show_agreement(agreed)
    return {
        "model": model,
        "board": board,
        "layers": [asdict(row) for row in rows],
        "agreement": None if agreed is None else asdict(agreed),
    }


def _show_agreement(agreed: Agreement) -> None:
    low, middle, high = agreed.ratio
    rank = "none" if agreed.rank is None else f"{agreed.rank:.2f}"
    show.say(
        f"measured against predicted cycles, {agreed.layers} layers: median {middle:.2f}, quartiles"
        f" {low:.2f} to {high:.2f}, rank correlation {rank}"
    )


def _show_layers(model: str, board: Board, rows: list[LayerCost]) -> None:
    columns = ["layer", "kernel", "choices", ">M MACs"]
    if board.kind == "virtual":
        core = next(core for row in rows for core in row.cycles or {})
        total = sum(row.cycles[core] for row in rows if row.cycles)
        columns += [
            ">M instructions",
            ">per MAC",
            f">{_short(core)} M cycles",
            ">per MAC",
            ">share",
            *_PREDICTED,
        ]
        numbers = [_counted_layer(row, core, total) for row in rows]
        title = f"{model} on {board.name}: {total / 1e6:.1f} M cycles estimated for {core}"
    else:
        total = sum(row.ms or 0.0 for row in rows)
        columns += [">ms", ">GFLOPS", ">of peak", ">share", *_PREDICTED]
        numbers = [_timed_layer(row, total) for row in rows]
        title = f"{model} on {board.name}, one thread: {total:.2f} ms"
    head = [
        [row.name, row.kernel, " ".join(map(str, row.choices)), f"{row.macs / 1e6:.2f}"]
        for row in rows
    ]
    tail = [_predicted(row) for row in rows]
    body = [[*a, *b, *c] for a, b, c in zip(head, numbers, tail, strict=True)]
    show.table(title, columns, body)


_PREDICTED = (">predicted M cycles", ">ratio")


def _predicted(row: LayerCost) -> list[str]:
    if row.predicted is None or row.ratio is None:
        return ["", ""]
    return [f"{row.predicted / 1e6:.2f}", f"{row.ratio:.2f}"]


def _timed_layer(row: LayerCost, total: float) -> list[str]:
    gflops = "" if row.gflops is None else f"{row.gflops:.1f}"
    peak = "" if row.peak is None else f"{row.peak:.0%}"
    return [f"{row.ms:.3f}", gflops, peak, f"{(row.ms or 0) / total:.1%}"]


def _short(core: str) -> str:
    """A76 for cortex-a76."""
    return core.removeprefix("cortex-").upper()


def _counted_layer(row: LayerCost, core: str, total: float) -> list[str]:
    count, cycles = row.instructions or 0, (row.cycles or {})[core]
    each = [f"{value / row.macs:.3f}" if row.macs else "" for value in (count, cycles)]
    return [f"{count / 1e6:.2f}", each[0], f"{cycles / 1e6:.2f}", each[1], f"{cycles / total:.1%}"]


def _measurable(name: str) -> Board:
    from ..targets import virtual_names

    board = find_board(name)
    if board.kind == "ssh":
        raise UsageError(
            f"engines are compared on this machine or by counting, not on '{name}'",
            f"give --board host, or --board {' or '.join(virtual_names())}",
        )
    return board


def _show(model: str, comparison: Comparison) -> None:
    size = f"{comparison.macs / 1e6:.0f} M MACs, compiled in {comparison.seconds:.0f} s"
    emulated = comparison.board != "host"
    what = "estimated M cycles, caches that never miss" if emulated else "wall time on this machine"
    columns = ["engine", ">threads"]
    if emulated:
        columns += [
            ">M instructions",
            ">per MAC",
            *(f">{_short(core)}" for core in _cores(comparison)),
        ]
    else:
        columns += [">ms", ">against ONNX Runtime", ">quartiles"]
    columns += [">difference", "note"]
    numbers = _counts if emulated else _times
    rows = [
        [row.title, str(row.threads), *numbers(row, comparison), _difference(row), row.reason]
        for row in comparison.rows
    ]
    show.table(f"{model}: {size}; {what}", columns, rows)


def _cores(comparison: Comparison) -> tuple[str, ...]:
    """The cores whose cycles were estimated, the board's own first."""
    return next((tuple(row.cycles) for row in comparison.rows if row.cycles), ())


def _difference(row: Row) -> str:
    return "-" if row.difference is None else f"{row.difference:.1e}"


def _times(row: Row, _: Comparison) -> list[str]:
    if row.ms is None:
        return ["-", "-", "-"]
    if row.ratio is None:
        return [f"{row.ms:.2f}", "-", "-"]
    middle, low, high = row.ratio
    return [f"{row.ms:.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]


def _counts(row: Row, comparison: Comparison) -> list[str]:
    cores = _cores(comparison)
    if row.instructions is None:
        return ["-"] * (2 + len(cores))
    per_mac = row.instructions / comparison.macs
    cycles = [f"{row.cycles[core] / 1e6:.1f}" for core in cores]
    return [f"{row.instructions / 1e6:.1f}", f"{per_mac:.3f}", *cycles]
