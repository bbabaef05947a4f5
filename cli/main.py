"""The command line: `edgecompress VERB`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecompress import __version__

from . import bench, boards, data, doctor, export, jobs, report

app = typer.Typer(
    name="edgecompress",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgecompress {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Put a fast, honest version of a PyTorch image classifier on an ARM board.

    A job file describes everything; [cyan]edgecompress run JOB.toml[/] does every step that is not
    yet done. Killed or stopped, the same command goes on from where it was.

    Exit codes: 0 done, 1 ours, 2 usage, 3 input or data, 4 board, 5 compile or tune, 6 a gate.
    """


jobs.register(app)
export.register(app)
doctor.register(app)
app.add_typer(bench.app, name="bench")
app.add_typer(report.app, name="report")
app.add_typer(boards.app, name="boards")
app.add_typer(data.app, name="data")


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
