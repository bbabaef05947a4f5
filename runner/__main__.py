"""The runner's command line: `python3 -m runner BUNDLE --photos PATH... --out DIR`.

One JSON line a photo on stdout, errors as one JSON line on stderr. Exit status: 0 done, 2 usage,
3 photos or output, 4 the bundle or this board, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any, Optional

from .bundle import Bundle, open_bundle
from .cpus import CHOICES, pin, place
from .errors import RunnerError

_INPUT_EXIT, _BOARD_EXIT, _INTERRUPT_EXIT = 3, 4, 130


def main(arguments: "Optional[list[str]]" = None) -> int:
    """Run the command line; returns the exit status."""
    # What Python would cache below a bundle has not been checked by the next start.
    sys.dont_write_bytecode = True
    # tvm_ffi imports torch where it is installed: seconds, and memory, for nothing.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    options = _parser().parse_args(arguments)
    try:
        bundle = open_bundle(options.bundle, options.unpack)
        _say(_checked(bundle))
        if not options.check:
            _run(bundle, options)
    except RunnerError as error:
        return _tell(error)
    except KeyboardInterrupt:
        return _tell(RunnerError("interrupt", "stopped", "the same command goes on from here"))
    except OSError as error:  # of a folder or file that this user may not read, say
        name = error.filename or "a file"
        hint = f"see whose it is: ls -ld {name}"
        return _tell(RunnerError("input", f"{name}: {error.strerror or error}", hint))
    return 0


def _tell(error: RunnerError) -> int:
    """Say what went wrong on stderr; returns the exit status."""
    report = {"kind": error.kind, "error": error.message, "hint": error.hint}
    with contextlib.suppress(OSError):  # where nobody reads it the status has to do
        sys.stderr.write(json.dumps(report) + "\n")
    return {"input": _INPUT_EXIT, "interrupt": _INTERRUPT_EXIT}.get(error.kind, _BOARD_EXIT)


def _run(bundle: Bundle, options: argparse.Namespace) -> None:
    target = bundle.manifest.target
    placement = place(target.clusters, options.cluster or target.cluster)
    # Before numpy and the runtime start their threads: these stay where the process is.
    try:
        pin(placement)
    except OSError as error:
        message = f"the run cannot be kept on CPUs {placement.cpus}: {error.strerror}"
        raise RunnerError("runtime", message, "run on all cores: --cluster all") from error
    try:
        from .feed import follow
        from .protocol import Plan
        from .run import Options, find_photos, listed_photos, run
    except ImportError as error:
        raise RunnerError(
            "runtime",
            f"this Python lacks a library: {error}",
            "edgecompress boards setup BOARD; or there: apt-get install python3-numpy python3-pil",
        ) from error
    settings = Options(
        threads=options.threads or len(placement.cpus),
        cluster=placement.cluster,
        warmup=options.warmup,
        latency=Plan(
            photos=options.latency_photos,
            runs=options.runs,
            seconds=options.seconds,
            most_seconds=max(options.seconds, options.most_seconds),
            cool_below_c=options.cool_below_c,
            cool_seconds=options.cool_seconds,
            retries=options.retries,
        ),
        profile=options.profile,
        every_stage=options.every_stage,
    )
    if options.feed:
        follow(bundle, options.feed, settings, placement=placement, say=_say)
        return
    photos = listed_photos(options.list) if options.list else find_photos(options.photos)
    if options.limit is not None:
        photos = photos[: options.limit]
    if not photos:
        raise RunnerError("input", "no photos", "name files or folders: --photos PATH...")
    run(bundle, photos, options.out, settings, placement=placement, say=_say)


def _say(line: "dict[str, Any]") -> None:
    try:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    except OSError as error:
        # What is left of the line would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise RunnerError(
            "output",
            f"nobody reads what the run says: {error.strerror}",
            "the same command goes on from here",
        ) from error


def _checked(bundle: Bundle) -> "dict[str, Any]":
    return {
        "event": "checked",
        "bundle": str(bundle.folder),
        "sha256": bundle.sha256,
        "signed_by": bundle.signed_by,
        "cascade": bundle.manifest.cascade.name,
        "board": bundle.manifest.target.board,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runner", description="Classify photos with a compiled cascade, and measure it."
    )
    parser.add_argument("bundle", type=Path, help="a .tar file, or the folder it unpacks to")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--photos", type=Path, nargs="+", metavar="PATH", help="files or folders")
    what.add_argument("--list", type=Path, metavar="FILE", help="lines of: id, tab, path")
    what.add_argument("--feed", type=Path, metavar="DIR", help="lists that appear there, in turn")
    what.add_argument("--check", action="store_true", help="check (and unpack) the bundle only")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="results")
    parser.add_argument("--unpack", type=Path, default=_cache(), metavar="DIR", help=_UNPACK_HELP)
    parser.add_argument("--threads", type=_positive, metavar="N", help=_THREADS_HELP)
    parser.add_argument("--cluster", choices=CHOICES, help="default: what the bundle is made for")
    parser.add_argument("--warmup", type=_count, default=3, metavar="N", help="untimed runs first")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N photos")
    parser.add_argument(
        "--profile", type=_count, default=0, metavar="N", help="time operators on N photos"
    )
    parser.add_argument("--every-stage", action="store_true", help="run all members on each photo")
    _latency_options(parser.add_argument_group("latency, measured after the photos' answers"))
    return parser


def _latency_options(group: Any) -> None:
    """The fields of `protocol.Plan`; that module needs numpy, which may be missing here."""
    for name, kind, default, text in (
        ("latency-photos", _count, 20, "photos that are run again and again; 0: no measuring"),
        ("runs", _count, 60, "at least so many runs"),
        ("seconds", _duration, 10.0, "and at least so long"),
        ("most-seconds", _duration, 120.0, "at most so long"),
        ("cool-below-c", _celsius, 65.0, "begin below this temperature, where it can be read"),
        ("cool-seconds", _duration, 120.0, "the longest wait for that"),
        ("retries", _count, 2, "further tries where something disturbs it"),
    ):
        told = f"{text} (default: {default:g})"
        metavar = "N" if kind is _count else "C" if kind is _celsius else "S"
        group.add_argument(f"--{name}", type=kind, default=default, metavar=metavar, help=told)


_THREADS_HELP = "default: as many as the cluster has cores"
_UNPACK_HELP = "where archives are unpacked"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgecompress" / "bundles"


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def _duration(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise ValueError(text)
    return value


def _celsius(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(main())
