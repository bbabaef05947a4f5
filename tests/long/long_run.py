"""A long accuracy run that is disturbed on purpose, and what it took.

    long_run.py BUNDLE PHOTOS OUT --board host --at 0.3 runner --at 0.6 host
    long_run.py BUNDLE PHOTOS OUT --board virtual-pi4 --count 2000 --at 0.5 board

At each share of the photos the runner on the board, the process on the host or the whole (virtual)
board is killed with SIGKILL. The host's process is started again; all else is its own affair. Says
at the end whether each photo has exactly one record, how fast it was, and the most memory held.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from edgecompress import events
from edgecompress.bench.board_photos import identify
from edgecompress.bench.board_run import run_on_boards
from edgecompress.cli.job import BenchTable
from edgecompress.compress.data.photos import PhotoSet, find_photos
from edgecompress.rpc import connect, virtual
from edgecompress.runner.measure import peak_rss_mib
from edgecompress.runner.run import MEASUREMENTS, PREDICTIONS

KINDS = ("runner", "host", "board")


def photo_set(options: argparse.Namespace) -> PhotoSet:
    """The photos of the run."""
    return find_photos(str(options.photos)).limit(options.count)


def work(options: argparse.Namespace) -> None:
    """Do the run in this process, a JSON line for each event."""

    def tell(event: events.Event) -> None:
        line = {"kind": event.kind, "task": event.task, "done": event.done, "text": event.text}
        sys.stdout.write(json.dumps({**line, "rss": peak_rss_mib()}) + "\n")
        sys.stdout.flush()

    boards = {name: partial(connect, name) for name in options.board}
    with events.listening(tell):
        run_on_boards(boards, options.bundle, photo_set(options), options.out, BenchTable())


def runners(board: str) -> list[psutil.Process]:
    """The runners on a board, among this machine's processes; not the shells around them."""
    found = []
    for process in psutil.process_iter(["cmdline", "name"]):
        words = process.info["cmdline"] or []
        emulated = any("qemu" in word for word in words[:2])
        python = emulated or str(process.info["name"]).startswith("python")
        if "--feed" in words and python and emulated == board.startswith("virtual"):
            found.append(process)
    return found


def kill(kind: str, board: str, child: subprocess.Popen[str]) -> None:
    """End one of `KINDS` at once."""
    if kind == "host":
        child.kill()
    elif kind == "board":
        virtual.stop(board)
    else:
        for process in runners(board):
            process.kill()


def disturbed(options: argparse.Namespace, total: int) -> dict[str, Any]:
    """Have the run done by processes that are killed, until one has finished."""
    to_come = sorted(((float(share), kind) for share, kind in options.at), reverse=True)
    began, rss, starts, said = time.monotonic(), 0.0, 0, []
    accuracy_s = 0.0
    while True:
        starts += 1
        with subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--work"], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                event = json.loads(line)
                rss = max(rss, event["rss"])
                if event["kind"] in ("note", "warning"):
                    said.append(f"{time.monotonic() - began:.0f} s: {event['text']}")
                if not event["task"].startswith("classifying"):
                    continue
                accuracy_s = time.monotonic() - began
                if to_come and event["done"] >= to_come[-1][0] * total:
                    _, kind = to_come.pop()
                    said.append(f"{accuracy_s:.0f} s: {kind} killed at {event['done']:.0f}")
                    kill(kind, options.board[0], child)
        if child.returncode != -9:
            break
    return {
        "status": child.returncode,
        "host_starts": starts,
        "host_peak_rss_mib": rss,
        "accuracy_s": round(accuracy_s, 1),
        "photos_per_s": round(total / accuracy_s, 1) if accuracy_s else None,
        "said": said,
    }


def checked(options: argparse.Namespace, photos: PhotoSet) -> dict[str, Any]:
    """Count records against photos, each read with nothing but a JSON parser."""
    lines = (options.out / PREDICTIONS).read_text().splitlines()
    records = Counter(json.loads(line)["photo"] for line in lines)
    wanted = identify(photos.paths)
    measured = json.loads((options.out / MEASUREMENTS).read_text())
    return {
        "listed": len(photos),
        "photos": len(wanted),
        "records": len(lines),
        "once": list(records) == list(wanted) and set(records.values()) == {1},
        "failed": sum("error" in json.loads(line) for line in lines),
        "resumed": measured["photos_resumed"],
        "boards": measured["boards"],
        "left": sorted(path.name for path in options.out.iterdir()),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--board", action="append", required=True)
    parser.add_argument("--count", type=int)
    parser.add_argument("--at", nargs=2, action="append", default=[], metavar=("SHARE", "KIND"))
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options)
        return
    photos = photo_set(options)
    total = len(identify(photos.paths))
    result = {**disturbed(options, total), **checked(options, photos)}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
