"""A bundle onto a board: checked there by the runner's own code before anything of it runs.

The runner travels ahead of the bundle as a zip file that Python runs as it is. Everything lies
below the session's working folder, under names made of content hashes: `runner/`, `bundles/`,
`photos/`, `runs/`.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgecompress import events
from edgecompress.errors import BoardError, CompileError, EdgeCompressError, InputError
from edgecompress.files import cache_dir, sha256_file, write_bytes

from ..compile.bundle import runner_sources
from ..rpc.packages import environment
from ..rpc.process import Completed
from ..rpc.session import Session
from ..runner.archive import members
from ..runner.errors import RunnerError
from ..runner.manifest import MAX_MANIFEST, NAME, Manifest, manifest_from_bytes
from .board_photos import need_disk, size_of

PYTHON = "python3"
CHECK_S = 300.0
BUNDLES = "bundles"

# Whose mistake each kind of the runner's errors is; the others are the board's.
_ERRORS: dict[str, type[EdgeCompressError]] = {
    "bundle": InputError,
    "input": InputError,
    "model": CompileError,
}


@dataclass(frozen=True)
class Deployment:
    """A bundle that lies on a board, checked.

    Attributes:
        runner: the runner's zip file on the board.
        bundle: the unpacked bundle's folder on the board.
        sha256: of the bundle's manifest, which stands for its content.
        sent: whether the bundle was copied now; False where it was there already.
    """

    runner: str
    bundle: str
    sha256: str
    sent: bool


def deploy(session: Session, bundle: Path, spare: int = 0) -> Deployment:
    """Copy a bundle to a board unless it is there, and let the board check it.

    Args:
        spare: bytes that the board's disk must have beside it.

    Raises:
        InputError: the bundle is missing, truncated or altered.
        BoardError: it does not fit the board, or the board's disk is full.
    """
    sha256 = manifest_sha256(bundle)
    folder = f"{BUNDLES}/{sha256}"
    # Archive and files lie there together for a while.
    to_copy = 2 * size_of(bundle) + spare
    lies_there = session.run(["test", "-d", folder], timeout=CHECK_S).returncode == 0
    need_disk(session, spare if lies_there else to_copy)
    runner = f"runner/{upload_runner(session)}"
    if lies_there:
        if _check(session, runner, folder).returncode == 0:
            return Deployment(runner, folder, sha256, sent=False)
        need_disk(session, to_copy)
    remote = f"{BUNDLES}/{sha256_file(bundle)[:16]}.tar"
    with events.task(f"copying {bundle.name} to {session.name}"):
        session.upload(bundle, remote)
    with events.task(f"checking the bundle on {session.name}"):
        done = _check(session, runner, remote)
    session.remove(remote)  # its content lies unpacked, or it is no good
    if done.returncode != 0:
        raise runner_error(session, done)
    return Deployment(runner, folder, sha256, sent=True)


def upload_runner(session: Session) -> str:
    """Put the runner on a board as a zip file; returns its file name below `runner/`."""
    content = runner_zip()
    name = f"runner-{hashlib.sha256(content).hexdigest()[:16]}.pyz"
    local = cache_dir("runner") / name
    if not local.exists():
        write_bytes(local, content)
    session.upload(local, f"runner/{name}")
    return name


def runner_zip() -> bytes:
    """The runner as a zip file that `python3` runs; the same sources give the same bytes."""
    start = "import sys\n\nfrom runner.__main__ import main\n\nsys.exit(main())\n"
    files = {"__main__.py": start.encode()}
    files.update((f"runner/{name}", content) for name, content in runner_sources().items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            # ZipInfo without a time is of 1980-01-01.
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def manifest_sha256(bundle: Path) -> str:
    """The hash of a bundle's manifest: the name of the folder that a board unpacks it to.

    Raises:
        InputError: the file is missing, or does not begin with a manifest.
    """
    return hashlib.sha256(_manifest_bytes(bundle)).hexdigest()


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of a bundle archive.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        return manifest_from_bytes(_manifest_bytes(bundle))
    except RunnerError as error:
        raise InputError(f"{bundle}: {error.message}", error.hint) from error


def _manifest_bytes(bundle: Path) -> bytes:
    """What an archive begins with."""
    try:
        with bundle.open("rb") as stream:
            first = next(members(stream), None)
            if first is None or first.name != NAME or first.size > MAX_MANIFEST:
                raise RunnerError("bundle", f"it does not begin with {NAME}")
            return first.read()
    except FileNotFoundError:
        raise InputError(f"no such bundle: {bundle}", "build one: edgecompress compile") from None
    except (OSError, RunnerError) as error:
        raise InputError(
            f"{bundle} is not a whole bundle: {error}", "build it again: edgecompress compile"
        ) from error


def runner_error(session: Session, done: Completed) -> EdgeCompressError:
    """The error for a runner that ended with a non-zero exit status."""
    lines = done.stderr.strip().splitlines()
    try:
        told = json.loads(lines[-1])
        kind = _ERRORS.get(told["kind"], BoardError)
        return kind(f"{session.name}: {told['error']}", str(told["hint"]))
    except (IndexError, ValueError, KeyError, TypeError, RecursionError):
        last = lines[-1] if lines else "it said nothing"
        return BoardError(
            f"the runner on '{session.name}' ended with status {done.returncode}: {last}",
            f"check the board: edgecompress doctor --board {session.name}",
        )


def _check(session: Session, runner: str, bundle: str) -> Completed:
    command = [PYTHON, runner, bundle, "--check", "--unpack", BUNDLES]
    return session.run(command, timeout=CHECK_S, env=environment(session))
