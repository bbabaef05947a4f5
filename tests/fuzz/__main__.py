"""`python -m tests.fuzz --seconds 3600 --seed 1`: good files, damaged, read by what reads them.

Whatever a file holds, a reader gives a value or an error of ours. Anything else is a crash, and so
are a case that takes more than ten seconds and one that wants two more GiB of memory. A process of
its own reads the files, and is started anew where it dies; the file is kept. Case N of a seed is
always the same file, for the same seeds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from .mutate import mutate
from .seeds import ROOT, seeds_folder
from .subjects import Subject, subjects

CASE_S = 10.0
SILENT_S = 60.0
START_S = 300.0
MEMORY = 2 << 30


class _Hang(BaseException):
    pass


def case(known: dict[str, Subject], seed: int, number: int) -> tuple[str, bytes]:
    """The subject and the file of a case."""
    random = Random(f"{seed} {number}")
    name = random.choice(sorted(known))
    return name, mutate(random, random.choice(known[name].seeds), known[name].form)


def _worker(seed: int, first: int, at: Path) -> None:
    """Read files until killed: one line for each crash, and one now and then.

    Args:
        at: where the number of the case stands that is being read.
    """
    known = subjects(seeds_folder())
    _limit_memory()
    signal.signal(signal.SIGALRM, _alarm)
    os.environ.pop("SSH_AUTH_SOCK", None)
    number, told = first, time.monotonic()
    _say({"case": number, "began": True})
    place = os.open(at, os.O_WRONLY)
    while True:
        os.pwrite(place, b"%020d" % number, 0)
        name, content = case(known, seed, number)
        crash = _crash(known[name], content)
        if crash or time.monotonic() - told > 1:
            told = time.monotonic()
            _say({"case": number, "subject": name, "crash": crash})
        number += 1


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _crash(subject: Subject, content: bytes) -> dict[str, str] | None:
    from edgecompress.errors import EdgeCompressError
    from edgecompress.runner.errors import RunnerError

    environment = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        path, folder = Path(name) / "file", Path(name) / "folder"
        path.write_bytes(content)
        folder.mkdir()
        try:
            signal.setitimer(signal.ITIMER_REAL, CASE_S)
            subject.read(path, folder)
        except (EdgeCompressError, RunnerError) as error:
            if "\n" in error.message or "\x1b" in error.message:
                return _named("a message of more than one plain line", error)
        except _Hang as error:
            return _named(f"took longer than {CASE_S:g} s", error)
        except Exception as error:
            return _named(type(error).__name__, error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.environ.clear()
            os.environ.update(environment)
    return None


def _named(what: str, error: BaseException) -> dict[str, str]:
    """A crash, with the last place of ours that it came by."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        one
        for one in frames
        if one.filename.startswith(str(ROOT)) and "/tests/" not in one.filename
    ]
    last = [one for one in ours if "/.venv/" not in one.filename][-1:] or frames[-1:]
    where = ", ".join(f"{Path(one.filename).relative_to(ROOT)}:{one.lineno}" for one in last)
    gc.collect()
    return {"what": what, "where": where, "text": str(error)[:300]}


def _alarm(*_: object) -> NoReturn:
    raise _Hang


def _say(line: dict[str, Any]) -> None:
    _tell(json.dumps(line))


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class _Reader:
    """The process that reads files, from a case on."""

    def __init__(self, seed: int, first: int) -> None:
        self._at = tempfile.NamedTemporaryFile(prefix="fuzz-at-")  # noqa: SIM115 closed by `end`
        self._at.write(b"%020d" % first)
        self._at.flush()
        argv = [sys.executable, "-m", "tests.fuzz", "--worker", self._at.name]
        argv += ["--seed", str(seed), "--first", str(first)]
        self._process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._stream = self._process.stdout
        self._heard, self._rest, self._began = time.monotonic(), b"", False

    @property
    def case(self) -> int:
        """The case that it reads, or read last."""
        return int(os.pread(self._at.fileno(), 20, 0))

    def lines(self) -> list[dict[str, Any]] | None:
        """What it has said since; None where it is dead or silent."""
        said = self._stream.read() or b""
        *whole, self._rest = (self._rest + said).split(b"\n")
        found = [json.loads(line) for line in whole if line]
        if found:
            self._heard, self._began = time.monotonic(), True
        silent = time.monotonic() - self._heard > (SILENT_S if self._began else START_S)
        dead = self._process.poll() is not None
        return None if (silent or dead) and not found else found

    def end(self) -> None:
        """Kill it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._stream.close()
        self._at.close()


def fuzz(seconds: float, seed: int, out: Path) -> int:
    """Run for some time; the number of different crashes. Their files lie below `out`."""
    known = subjects(seeds_folder())
    crashes: dict[tuple[str, str, str], int] = {}
    out.mkdir(parents=True, exist_ok=True)

    def crashed(number: int, crash: dict[str, str]) -> None:
        name, content = case(known, seed, number)
        key = (name, crash["what"], crash["where"])
        crashes[key] = crashes.get(key, 0) + 1
        if crashes[key] == 1:
            path = out / f"{name.replace(' ', '-')}-{seed}-{number}".replace("'", "")
            path.write_bytes(content)
            _tell(f"CRASH {name}: {crash['what']} at {crash['where']}: {path}: {crash['text']!r}")

    reader, done = _Reader(seed, 0), 0
    # The first lines come when it has begun to read files.
    while (lines := reader.lines()) == []:
        time.sleep(0.2)
    began = told = time.monotonic()
    try:
        while time.monotonic() - began < seconds:
            for line in lines or ():
                if line.get("crash"):
                    crashed(line["case"], line["crash"])
            done = reader.case
            if lines is None:
                crashed(done, {"what": "ended or stopped the process", "where": "?", "text": ""})
                reader.end()
                reader = _Reader(seed, done + 1)
            time.sleep(0.2)
            lines = reader.lines()
            if time.monotonic() - told > 60:
                told = time.monotonic()
                _tell(f"{told - began:.0f} s: {done} cases, {len(crashes)} different crashes")
    finally:
        done = reader.case
        reader.end()
    _tell(f"{done} cases in {time.monotonic() - began:.0f} s, {len(crashes)} different crashes")
    return len(crashes)


def _again(name: str, path: Path) -> int:
    """Read one file, and let what happens be seen."""
    with tempfile.TemporaryDirectory() as folder:
        _tell(str(subjects(seeds_folder())[name].read(path, Path(folder))))
    return 0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="where files are kept")
    parser.add_argument("--subject", help="read --file as this, once, and show the traceback")
    parser.add_argument("--file", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _worker(options.seed, options.first, options.worker)
    if options.subject:
        return _again(options.subject, options.file)
    return 1 if fuzz(options.seconds, options.seed, options.out) else 0


if __name__ == "__main__":
    sys.exit(main())
