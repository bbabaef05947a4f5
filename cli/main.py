"""The command line: `edgecompress VERB`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edgecompress import __version__
from edgecompress.errors import EdgeCompressError, UsageError

from ..targets.inventory import VARIABLE, named_inventory
from . import bench, boards, data, doctor, export, jobs, keys, report, show

INVENTORY = "--inventory"


class _Verbs(TyperGroup):
    """The verbs, with `--inventory` before or behind any of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `--inventory FILE` in front, wherever it stands."""
        own: list[str] = []
        others: list[str] = []
        rest = iter(args)
        for word in rest:
            if word == "--":
                others += [word, *rest]
            elif word == INVENTORY:
                value = next(rest, None)
                if value is None:
                    raise typer.BadParameter("needs a file", ctx, param_hint=INVENTORY)
                own += [word, value]
            else:
                (own if word.startswith(f"{INVENTORY}=") else others).append(word)
        return super().parse_args(ctx, [*own, *others])


app = typer.Typer(
    name="edgecompress",
    cls=_Verbs,
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
    inventory: Annotated[
        Path | None,
        typer.Option(
            INVENTORY,
            envvar=VARIABLE,
            help="The file of your own boards; by default one in your configuration folder.",
        ),
    ] = None,
) -> None:
    """Put a fast, honest version of a PyTorch image classifier on an ARM board.

    A job file describes everything; [cyan]edgecompress run JOB.toml[/] does every step that is not
    yet done. Killed or stopped, the same command goes on from where it was.

    Exit codes: 0 done, 1 ours, 2 usage, 3 input or data, 4 board, 5 compile or tune, 6 a gate,
    130 stopped with Ctrl-C.
    """
    if inventory is not None:
        # For this process and those that it starts.
        os.environ[VARIABLE] = str(named_inventory(inventory))


jobs.register(app)
export.register(app)
doctor.register(app)
app.add_typer(bench.app, name="bench")
app.add_typer(report.app, name="report")
app.add_typer(boards.app, name="boards")
app.add_typer(keys.app, name="keys")
app.add_typer(data.app, name="data")


def main() -> None:
    """The console script. Of torchrun's processes the first runs it; the others help to train."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _main()
        return
    from ..compress.machine.ddp import shared

    try:
        shared(_main)
    except EdgeCompressError as error:
        show.failure(error, as_json=False)
        sys.exit(error.exit_code)


def _main() -> None:
    """What is refused before a verb begins is JSON too where that was asked for."""
    as_json = "--json" in sys.argv
    try:
        sys.exit(app(standalone_mode=not as_json))
    except EdgeCompressError as error:  # of an option that is in front of all verbs
        show.failure(error, as_json)
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        refused = UsageError(error.format_message(), _help(error))
        show.failure(refused, as_json=True)
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(1)


def _help(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'edgecompress'} --help"


if __name__ == "__main__":
    main()
