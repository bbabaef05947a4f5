"""Photos that arrive while the run goes on: lists that appear in a folder, each answered in turn.

So many photos pass through a little disk: the host sends a list's photos and then the list, fetches
its answers, and removes all of it while the next one is being answered. Accuracy only: times are
measured by a run of their own (`run.run`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from . import measure
from .bundle import Bundle
from .cpus import Placement
from .engine import Engine
from .errors import RunnerError
from .records import Record, photo_id
from .run import Options, Photo, Say, answer, append, listed_photos, progress

END = "end"
"""A file of this name says that no further list comes."""

DAMAGED = "transfer"
"""The error kind of a photo that is not on the board as it was sent; it is to be sent again."""

_POLL_S = 0.05


def list_name(number: int) -> str:
    """The file name of a list, the first being number 0; its lines are those of `--list`."""
    return f"{number:06}.tsv"


def answers_name(number: int) -> str:
    """The file name of a list's records."""
    return f"{number:06}.jsonl"


def follow(
    bundle: Bundle, folder: Path, options: Options, *, placement: Placement, say: Say
) -> None:
    """Answer the lists of a folder in the order of their numbers, until `END` is there.

    Memory does not grow with the photos.

    Args:
        folder: lists are whole when they appear; answers are written beside them.
        placement: the CPUs that this process has been pinned to.
        say: is told of each photo and of each finished list.

    Raises:
        RunnerError: the runtime or a network fails, a list is none, or the disk is full.
    """
    engine = Engine(bundle, options.threads, placement.cpus)
    say({"event": "loaded", "load_ms": round(engine.load_ms, 1), "cpus": placement.cpus})
    cascade = bundle.manifest.cascade
    for number, photos in _lists(folder):
        for done, photo in enumerate(photos, start=1):
            record = _damaged(photo) or answer(cascade, engine, photo, options)
            append(folder / answers_name(number), record)
            say(progress(cascade, record, done, len(photos)))
        say({"event": "list", "list": number, "peak_rss_mib": measure.peak_rss_mib()})


def _lists(folder: Path) -> "Iterator[tuple[int, list[Photo]]]":
    number = 0
    while True:
        path = folder / list_name(number)
        # In this order: a list may appear just before the end does.
        ended = (folder / END).exists()
        if path.exists():
            yield number, listed_photos(path)
            number += 1
        elif ended:
            return
        elif not folder.exists():
            raise RunnerError(
                "input", f"the folder {folder} is gone", "give the same command again"
            )
        else:
            time.sleep(_POLL_S)


def _damaged(photo: Photo) -> Optional[Record]:
    """The record of a photo that is missing or half there, as a board that lost power leaves it."""
    try:
        found = photo_id(photo.path)
    except RunnerError as error:
        return Record(photo.id, None, error.message, DAMAGED)
    if found != photo.id:
        return Record(photo.id, None, f"{photo.path} is not the photo that was sent", DAMAGED)
    return None
