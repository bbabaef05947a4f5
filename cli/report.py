"""`edgecompress report`: a job's report, and what reports say together."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecompress.errors import GateError, UsageError
from edgecompress.files import write_json, write_text

from . import jobs, show
from .verb import History, JobUnlessNamed, Json, example, verb, writable

if TYPE_CHECKING:
    from ..bench.compare import Comparison, Row
    from ..bench.gates import Verdict
    from ..bench.history import Entry
    from ..bench.schema import Report

REPORT = "report.json"


app = typer.Typer(
    cls=JobUnlessNamed,
    no_args_is_help=True,
    help="Tell: a job's report, or what several reports say together.",
    epilog=example(
        "edgecompress report examples/demo.toml",
        "edgecompress report compare out/before/report.json out/after/report.json",
    ),
)
jobs.add(app, "report", JobUnlessNamed.job)

First = Annotated[Path, typer.Argument(metavar="A.json", help="The report to hold against.")]
Second = Annotated[Path, typer.Argument(metavar="B.json", help="The report that is judged.")]
FailIf = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-if",
        help="A condition such as 'p50 > +5%' or 'top1 < -0.5'; again for more. Where one holds,"
        " the exit code is 6.",
    ),
]
Page = Annotated[Path | None, typer.Option("--out", "-o", help="Write the comparison as a page.")]
Markdown = Annotated[
    Path | None, typer.Option("--markdown", help="Write the comparison as Markdown.")
]


@app.command(
    "compare",
    epilog=example(
        "edgecompress report compare out/before/report.json out/after/report.json"
        " --fail-if 'p50 > +5%'",
    ),
)
@verb
def _compare(
    first: First,
    second: Second,
    *,
    fail_if: FailIf = None,
    out: Page = None,
    markdown: Markdown = None,
    as_json: Json = False,
) -> Any:
    """Compare two reports, number by number, and say what can be chance."""
    from ..bench import gates
    from ..bench.compare import compare
    from ..bench.compare_page import write_comparison
    from ..bench.markdown import comparison_markdown

    conditions = [gates.parse(text) for text in fail_if or ()]
    for path in (out, markdown):
        if path is not None and path.resolve() in (first.resolve(), second.resolve()):
            raise UsageError(f"{path} is one of the reports", "give another file to write")
    comparison = compare(read(first), read(second), (first, second))
    verdicts = gates.check(comparison, conditions)
    if out is not None:
        write_comparison(comparison, writable(out), verdicts)
    if markdown is not None:
        write_text(writable(markdown), comparison_markdown(comparison, verdicts))
    failed = [verdict for verdict in verdicts if verdict.failed]
    if as_json:
        conditions_told = [
            {"condition": one.condition, "failed": one.failed, "reason": one.reason}
            for one in verdicts
        ]
        # One document, also where a condition failed: the exit code says that.
        show.document({**comparison.to_json(), "conditions": conditions_told})
        raise typer.Exit(GateError.exit_code if failed else 0)
    _show(comparison, verdicts)
    for path in (out, markdown):
        if path is not None:
            show.say(f"comparison: {path}")
    if failed:
        told = "; ".join(f"{one.condition} ({one.reason})" for one in failed)
        raise GateError(
            f"{len(failed)} of {len(verdicts)} conditions failed: {told}",
            "docs/reports.md says what a condition means",
        )
    return None


Exported = Annotated[Path, typer.Argument(metavar="A.json", help="The report.")]
Benchmark = Annotated[
    Path, typer.Option("--benchmark", help="The file to write, as pytest-benchmark writes its own.")
]


@app.command(
    "export",
    epilog=example("edgecompress report export out/kitchen/report.json --benchmark times.json"),
)
@verb
def _export(report: Exported, *, benchmark: Benchmark, as_json: Json = False) -> Any:
    """Write a report's times as a file of pytest-benchmark, for its tools."""
    from ..bench.benchmark_json import benchmark_document, commit_info

    document = benchmark_document(read(report), commit_info(Path.cwd()))
    write_json(writable(benchmark), document)
    names = [one["name"] for one in document["benchmarks"]]
    if not as_json:
        show.say(f"{benchmark}: {', '.join(names)}")
    return {"benchmark": str(benchmark), "benchmarks": names}


Model = Annotated[
    str | None, typer.Option("--model", help="Only this job's runs, or those with this member.")
]
OnBoard = Annotated[str | None, typer.Option("--board", "-b", help="Only runs on this board.")]
MetricName = Annotated[
    str, typer.Option("--metric", "-m", help="What to follow: p50, top1, macs, memory, and so on.")
]
Latest = Annotated[int, typer.Option("--limit", "-n", min=1, help="The latest so many runs.")]
TrendPage = Annotated[Path | None, typer.Option("--html", help="Write the trend as a page.")]


@app.command(
    "history",
    epilog=example(
        "edgecompress report history --metric p50 --board host",
        "edgecompress report history --model demo --metric top1 --html history.html",
    ),
)
@verb
def _history(
    *,
    model: Model = None,
    board: OnBoard = None,
    metric: MetricName = "p50",
    limit: Latest = 50,
    html: TrendPage = None,
    history: History = None,
    as_json: Json = False,
) -> Any:
    """Show how a number went over the runs of all jobs, the failed ones too."""
    from ..bench import history as runs
    from ..bench.history_page import write_history

    path = history or runs.default_path()
    entries = runs.read(path, model, board, limit)
    runs.require_metric(entries, metric)
    if html is not None:
        write_history(entries, metric, writable(html))
    if not as_json:
        _show_history(entries, metric, path)
        if html is not None:
            show.say(f"page: {html}")
    return {"history": str(path), "metric": metric, "runs": [asdict(entry) for entry in entries]}


def _show_history(entries: list[Entry], metric: str, path: Path) -> None:
    from ..bench import text
    from ..bench.history import by_series, sparkline, unit_of

    if not entries:
        show.say(f"no such run in {path}: edgecompress report JOB.toml adds one")
        return
    unit = unit_of(metric)
    rows = []
    for (model, board, precision), runs in by_series(entries).items():
        numbers = [run.number(metric) for run in runs]
        latest = next((value for value in reversed(numbers) if value is not None), None)
        cells = [model, board, precision, str(len(runs)), text.value(latest, unit)]
        rows.append([*cells, sparkline(numbers)])
    columns = ["model", "board", "precision", ">runs", f">latest {metric}", "trend"]
    show.table(f"{metric} over time", columns, rows)
    rows = [
        [
            run.at[:16].replace("T", " "),
            *run.series,
            text.value(run.shown(metric), unit),
            _history_note(run),
        ]
        for run in reversed(entries)
    ]
    columns = ["when (UTC)", "model", "board", "precision", f">{metric}", "note"]
    show.table(f"The latest {len(rows)} runs", columns, rows)


def _history_note(run: Entry) -> str:
    if run.error:
        return f"failed: {run.error}"
    return "emulated: not comparable" * run.emulated or "throttled" * run.throttled


def read(path: Path) -> Report:
    """A report: its file, or the job's folder that it lies in.

    Raises:
        InputError: there is none, or it is damaged.
    """
    from ..bench.report import read_report

    return read_report(path / REPORT if path.is_dir() else path)


def _show(comparison: Comparison, verdicts: list[Verdict]) -> None:
    a, b = comparison.a, comparison.b
    for letter, side in (("A", a), ("B", b)):
        emulated = ", emulated" if side.emulated else ""
        show.say(
            f"{letter}: {side.name} on {side.board}{emulated}, {side.precision},"
            f" {side.n} photos of {side.photos}"
        )
    for note in comparison.notes:
        show.say(f"{'  ' if note.kind == 'differs' else '! '}{note.text}")
    if comparison.pairing:
        show.say(f"  Photos are not paired: {comparison.pairing}.")
    columns = ["number", ">A", ">B", ">change", ">relative", "95 % interval", "verdict"]
    rows = [_cells(row) for row in comparison.rows if row.group != "layers"]
    show.table("B against A", columns, rows)
    layers = [row for row in comparison.rows if row.group == "layers"]
    compared = [row for row in layers if row.change is not None]
    if compared:
        compared.sort(key=lambda row: -abs(row.change or 0.0))
        show.table("Layers that changed most", columns, [_cells(row) for row in compared[:10]])
    for verdict in verdicts:
        show.say(
            f"{'failed' if verdict.failed else 'passed'}: {verdict.condition}: {verdict.reason}"
        )


def _cells(row: Row) -> list[str]:
    from ..bench import text
    from ..bench.compare_page import interval

    return [
        row.key,
        text.value(row.a, row.unit),
        text.value(row.b, row.unit),
        text.signed(row.change, row.unit),
        text.signed_percent(row.relative),
        interval(row),
        row.verdict or row.why,
    ]
