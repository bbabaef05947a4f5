"""What every verb has in common: options, errors with an exit code, progress."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edgecompress.errors import (
    BoardError,
    CompileError,
    EdgeCompressError,
    InputError,
    UsageError,
)

from ..runner.errors import RunnerError
from . import show

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="EDGECOMPRESS_DATA",
        help="The folder that holds imagenette160/ and imagenet-val/ (docs/data.md).",
    ),
]
BoardName = Annotated[
    str | None, typer.Option("--board", "-b", help="A board; `edgecompress boards` lists them.")
]
History = Annotated[
    Path | None,
    typer.Option(
        "--history",
        envvar="EDGECOMPRESS_HISTORY",
        help="The file that runs are recorded in; by default one in the user's data folder.",
    ),
]

Wait = Annotated[
    str | None,
    typer.Option("--wait", help="How long to wait for a board that is in use: 90s, 10m, 2h."),
]

INTERRUPTED = 130
_RUNNER_ERRORS = {"bundle": InputError, "input": InputError, "model": CompileError}
_FULL = "free some space on that disk (df -h shows it), then give the same command again"
_DENIED = "give another place, or let yourself write there (ls -ld shows who may)"
_HINTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.EISDIR: "give a file's name",
    errno.ENOTDIR: "give another place: a part of this path is a file",
    errno.EEXIST: "give another place: a part of this path is a file",
}


def verb(work: Callable[..., Any], quiet: bool = False) -> Callable[..., None]:
    """Turn a function that returns a JSON-able document into a command.

    The function prints its own tables unless its argument `as_json` is true; then what it returns
    is printed, unless it is None. An error of ours, or of the operating system, becomes two lines
    and its exit code, never a traceback. With `quiet`, progress is not shown: it has the screen for
    itself.
    """

    @functools.wraps(work)
    def command(*args: Any, **kwargs: Any) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            with show.progress(quiet):
                document = work(*args, **kwargs)
        except RunnerError as error:
            kind = _RUNNER_ERRORS.get(error.kind, BoardError)
            _end(kind(error.message, error.hint), as_json)
        except EdgeCompressError as error:
            _end(error, as_json)
        except BrokenPipeError:  # who reads the output has enough of it, such as `head`
            raise
        except OSError as error:
            _end(of_system(error), as_json)
        except KeyboardInterrupt:
            show.err.print("\nstopped; the same command goes on from here")
            raise typer.Exit(INTERRUPTED) from None
        else:
            if as_json and document is not None:
                show.document(document)

    return command


def of_system(error: OSError) -> InputError:
    """What the operating system refused, as an error of ours: the path and the reason."""
    path, reason = error.filename2 or error.filename, error.strerror or str(error)
    hint = _HINTS.get(error.errno or 0, "see to that, then give the same command again")
    return InputError(f"{path}: {reason}" if path else reason, hint)


def writable(path: Path) -> Path:
    """`path`, where a file can be written; its folder is made. To be asked before long work.

    Raises:
        InputError: it is a folder, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder", "give a file's name")
    reason = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        if not os.access(path.parent, os.W_OK):
            reason = f"{path.parent} is not yours to write to"
    if reason:
        raise InputError(f"cannot write {path}: {reason}", "give another file's name")
    return path


def duration(text: str, option: str) -> float:
    """Seconds of an option such as `--budget`: 90s, 10m or 2h.

    Raises:
        UsageError: it is no time.
    """
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        value = float(number) * units[unit]
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise UsageError(f"{option}: '{text}' is not a time", "write 90s, 10m or 2h")
    return value


def waiting(wait: str | None) -> float:
    """Seconds of a `--wait`; 0 where it is not given.

    Raises:
        UsageError: it is no time.
    """
    return 0.0 if wait is None else duration(wait, "--wait")


def _end(error: EdgeCompressError, as_json: bool) -> None:
    show.failure(error, as_json)
    raise typer.Exit(error.exit_code) from None


def example(*lines: str) -> str:
    """The example at the end of a verb's help."""
    return "[bold]Example:[/]\n\n" + "\n\n".join(f"  [cyan]{line}[/]" for line in lines)


class HandsOn(TyperGroup):
    """A group whose own options count for its verbs: `data --json get X` is `data get --json X`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the options that were typed before a verb behind it."""
        name, command, rest = super().resolve_command(ctx, args)
        typed = []
        for option in self.params:
            source = ctx.get_parameter_source(option.name)
            if source is not None and source.name == "COMMANDLINE":
                value = ctx.params[option.name]
                typed += [option.opts[0], *([] if value is True else [str(value)])]
        return name, command, [*typed, *rest]


class JobUnlessNamed(TyperGroup):
    """A group of verbs one of which is about jobs: `bench JOB.toml` is `bench job JOB.toml`."""

    job = "job"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `job` before what is no command of the group."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [self.job, *args]
        return super().parse_args(ctx, args)
