"""Progress events: library code emits them and never prints; the CLI shows them.

Listeners are process-wide. With none, emitting costs nothing and shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

T = TypeVar("T")

Kind = Literal["begin", "advance", "end", "note", "warning"]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: `begin`, `advance` and `end` belong to a task; `note` and `warning` stand alone.
        task: the task's label ("training member 0.5x"), or "" for notes and warnings.
        text: what to show beside the label (the current loss, the best time so far).
        done: how much of the task is done, in its own unit.
        total: how much there is, or None where nobody knows.
    """

    kind: Kind
    task: str = ""
    text: str = ""
    done: float = 0
    total: float | None = None


Listener = Callable[[Event], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send every event to `listener` for the length of the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def emit(event: Event) -> None:
    """Send one event to all listeners."""
    for listener in tuple(_listeners):
        listener(event)


def note(text: str) -> None:
    """Say something that a user should read once."""
    emit(Event("note", text=text))


def warn(text: str) -> None:
    """Say something that a user should act on."""
    emit(Event("warning", text=text))


@dataclass
class Task:
    """A running task; `advance` moves its bar, `say` changes the text beside it."""

    label: str
    total: float | None = None
    done: float = 0
    text: str = field(default="", init=False)

    def advance(self, amount: float = 1, text: str | None = None) -> None:
        """Add `amount` to what is done."""
        self.update(self.done + amount, text)

    def update(self, done: float, text: str | None = None) -> None:
        """Set what is done, in the task's unit."""
        self.done = done
        if text is not None:
            self.text = text
        emit(Event("advance", self.label, self.text, self.done, self.total))

    def say(self, text: str) -> None:
        """Change the text beside the bar."""
        self.update(self.done, text)


@contextmanager
def task(label: str, total: float | None = None, done: float = 0) -> Iterator[Task]:
    """A task with a beginning and an end, also when it fails; `done` of it are from before."""
    running = Task(label, total, done)
    emit(Event("begin", label, done=done, total=total))
    try:
        yield running
    finally:
        emit(Event("end", label, running.text, running.done, total))


def track(items: Iterable[T], label: str, total: float | None = None) -> Iterator[T]:
    """Yield from `items`, one step of a task each."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with task(label, total) as running:
        for item in items:
            yield item
            running.advance()
