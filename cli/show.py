"""What a person sees: live bars on a terminal, plain lines elsewhere, nothing with `--json`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from edgecompress import events
from edgecompress.errors import EdgeCompressError, plain
from edgecompress.events import Event

# Standard output carries results, standard error carries progress: `--json` pipes stay clean.
PIPE_WIDTH = 120
out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)

PLAIN_SECONDS = 5.0


@contextmanager
def progress(quiet: bool = False) -> Iterator[None]:
    """Show every event of the block, in the way that suits where standard error goes."""
    if quiet:
        yield
    elif err.is_terminal:
        with _bars() as listener, events.listening(_printable(listener)):
            yield
    else:
        with events.listening(_printable(PlainLines())):
            yield


def _printable(listener: events.Listener) -> events.Listener:
    """`listener`, which is told only what moves no terminal's cursor: boards speak in events."""

    def listen(event: Event) -> None:
        listener(replace(event, task=plain(event.task), text=printable(event.text)))

    return listen


def printable(text: str) -> str:
    """A text of several lines, each in printable characters."""
    return "\n".join(map(plain, text.split("\n")))


@contextmanager
def _bars() -> Iterator[events.Listener]:
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", style="dim", markup=False),
    )
    with Progress(*columns, console=err) as bars:
        rows: dict[str, TaskID] = {}

        def listen(event: Event) -> None:
            if event.kind == "note":
                bars.console.print(event.text, markup=False)
            elif event.kind == "warning":
                bars.console.print(f"! {event.text}", style="yellow", markup=False)
            elif event.kind == "begin":
                rows[event.task] = bars.add_task(
                    event.task, total=event.total, completed=int(event.done), text=""
                )
            elif event.task in rows:
                done, total = event.done, event.total
                if event.kind == "end":
                    done = max(event.done, 1)
                    total = event.total or done
                bars.update(rows[event.task], completed=done, total=total, text=event.text)

        yield listen


class PlainLines:
    """One line when a task begins and ends, and one every few seconds between."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Print what `event` is worth."""
        now = time.monotonic()
        if event.kind == "note":
            self._print(event.text)
        elif event.kind == "warning":
            self._print(f"! {event.text}")
        elif event.kind == "begin":
            self._begun[event.task] = self._told[event.task] = now
            self._print(f"> {event.task}")
        elif event.kind == "end":
            took = now - self._begun.pop(event.task, now)
            self._print(f"  {event.task}: {took:.1f} s {event.text}".rstrip())
        elif now - self._told.get(event.task, 0) >= PLAIN_SECONDS:
            self._told[event.task] = now
            self._print(f"  {event.task}: {_share(event)} {event.text}".rstrip())

    @staticmethod
    def _print(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _share(event: Event) -> str:
    if event.total == 1.0:
        return f"{event.done:.0%}"
    return f"{event.done:g}/{event.total:g}" if event.total else f"{event.done:g}"


def document(value: Any) -> None:
    """Print the one JSON document of a `--json` run."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, allow_nan=False) + "\n")


def failure(error: EdgeCompressError, as_json: bool) -> None:
    """Print a cause and what to type next."""
    if as_json:
        body = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        document({"error": body})
        return
    # As text, not markup: a message may hold brackets and backslashes, and is shown as it is.
    err.print(Text.assemble(("error:", "bold red"), " ", error.message), soft_wrap=True)
    if error.hint:
        err.print(Text.assemble(("try:", "bold"), " ", error.hint), soft_wrap=True)


def say(text: str) -> None:
    """Print a result as it is, in printable characters: a path or a name holds no markup."""
    out.print(Text(printable(text)), soft_wrap=True)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table; columns that begin with '>' are set to the right."""
    out.print(made_table(title, columns, rows))


def made_table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A table, as `table` prints it: of printable characters, and none of it is markup."""
    shown = Table(title=_cell(title), title_justify="left", header_style="bold")
    for column in columns:
        right = column.startswith(">")
        shown.add_column(_cell(column.lstrip(">")), justify="right" if right else "left")
    for row in rows:
        shown.add_row(*map(_cell, row))
    return shown


def _cell(text: str) -> str:
    return escape(printable(text))
