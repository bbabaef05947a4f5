"""Bundles in, checked folders out. Nothing of a bundle is executed here, and nothing of it is
unpacked before its manifest has been read and found to fit this machine.

An archive is unpacked into a folder named after its manifest's hash, which stands for all its
content: whole or not at all, once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Optional

from .errors import RunnerError
from .machine import Machine, check_fit, this_machine
from .manifest import (
    MAX_FILES,
    MAX_MANIFEST,
    NAME,
    Entry,
    Manifest,
    manifest_from_bytes,
    safe_path,
    wrong,
)

_BLOCK = 1 << 20
_SPARE_DISK = 16 << 20  # left free for predictions and the operating system


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A folder whose every file has been checked.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        sha256: of the manifest file, which stands for the content.
    """

    folder: Path
    manifest: Manifest
    sha256: str


def open_bundle(path: Path, unpack_to: Path, machine: Optional[Machine] = None) -> Bundle:
    """Check a bundle, and unpack it if it is an archive.

    Args:
        path: a `.tar` file or an unpacked folder.
        unpack_to: where archives are unpacked, each into a folder of its own; one that is there
            already is checked again and reused.
        machine: what it has to fit; this one by default.

    Raises:
        RunnerError: (`bundle`, `architecture`, `features`, `runtime` or `disk`).
    """
    machine = machine or this_machine()
    if path.is_dir():
        return _check_folder(path, machine)
    if not path.is_file():
        raise RunnerError("bundle", f"no such bundle: {path}", "build one: edgecompress compile")
    try:
        return _unpack(path, unpack_to, machine)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise wrong(f"{path.name} is not a whole tar archive: {error}") from None


def _check_folder(folder: Path, machine: Machine) -> Bundle:
    try:
        with (folder / NAME).open("rb") as stream:
            content = stream.read(MAX_MANIFEST + 1)
    except OSError:
        raise wrong(f"{folder} has no {NAME}") from None
    manifest = _manifest(content, machine)
    found = set()
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file():
            raise wrong(f"the bundle has something that is not a plain file: {name}")
        if name == NAME:
            continue
        with path.open("rb") as stream:
            _check(name, _entry(manifest, name), stream, None)
        found.add(name)
    _all_there(manifest, found)
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest())


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is not itself a plain folder."""
    for root, folders, files in os.walk(folder):
        here = Path(root)
        # Python made this one when it started the runner from the bundle: its own code is past
        # checking by now. Elsewhere such a folder could hold code, and is refused file by file.
        if here == folder / "runner" and "__pycache__" in folders:
            folders.remove("__pycache__")
        yield from (here / name for name in files)
        yield from (here / name for name in folders if (here / name).is_symlink())


def _unpack(path: Path, unpack_to: Path, machine: Machine) -> Bundle:
    # "r:" reads plain archives only: there is nothing to inflate.
    with tarfile.open(path, "r:") as archive:
        members = _members(archive)
        first = next(members, None)
        if first is None or first.name != NAME or first.size > MAX_MANIFEST:
            raise wrong(f"{path.name} does not begin with a {NAME}")
        content = _stream(archive, first).read()
        manifest = _manifest(content, machine)
        sha256 = hashlib.sha256(content).hexdigest()
        folder = unpack_to / sha256
        if folder.is_dir():
            try:
                return _check_folder(folder, machine)
            except RunnerError:
                shutil.rmtree(folder)  # damaged since: unpacked anew below
        try:
            with _new_folder(folder, manifest) as temporary:
                (temporary / NAME).write_bytes(content)
                _copy(archive, members, manifest, temporary)
        except OSError as error:
            raise RunnerError(
                "disk",
                f"cannot unpack to {unpack_to}: {error.strerror or error}",
                "free some space on the board",
            ) from error
    return Bundle(folder, manifest, sha256)


@contextlib.contextmanager
def _new_folder(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _need_disk(folder.parent, sum(entry.size for entry in manifest.files.values()))
    temporary = Path(tempfile.mkdtemp(prefix=".unpacking.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(
    archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo], manifest: Manifest, into: Path
) -> None:
    found = set()
    for member in members:
        entry = _entry(manifest, member.name)
        if member.size != entry.size:
            raise wrong(f"{member.name} has {member.size} bytes, not {entry.size}")
        _check(member.name, entry, _stream(archive, member), into / member.name)
        found.add(member.name)
    _all_there(manifest, found)


def _entry(manifest: Manifest, name: str) -> Entry:
    entry = manifest.files.get(name)
    if entry is None:
        raise wrong(f"the bundle has a file that its manifest does not name: {name}")
    return entry


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The archive's members, each a plain file with a safe path of its own."""
    seen: set[str] = set()
    for member in archive:
        name = member.name
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise wrong(f"the bundle has something that is not a plain file: {name[:100]!r}")
        if not safe_path(name):
            raise wrong(f"the bundle has an unsafe path: {name[:100]!r}")
        if name in seen:
            raise wrong(f"the bundle has {name} twice")
        if len(seen) > MAX_FILES:
            raise wrong(f"the bundle has more than {MAX_FILES} files")
        seen.add(name)
        yield member


def _stream(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    assert stream is not None  # a plain file: _members saw to it
    return stream


def _manifest(content: bytes, machine: Machine) -> Manifest:
    if len(content) > MAX_MANIFEST:
        raise wrong(f"the manifest is larger than {MAX_MANIFEST} bytes")
    manifest = manifest_from_bytes(content)
    check_fit(manifest, machine)
    return manifest


def _check(name: str, entry: Entry, stream: IO[bytes], copy: Optional[Path]) -> None:
    """Compare a file with its entry, copying it on the way where a path is given."""
    digest, size = hashlib.sha256(), 0
    if copy is not None:
        copy.parent.mkdir(parents=True, exist_ok=True)
    with open(os.devnull if copy is None else copy, "wb") as output:  # noqa: PTH123
        while size <= entry.size:
            block = stream.read(_BLOCK)
            if not block:
                break
            size += len(block)
            digest.update(block)
            output.write(block)
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise wrong(f"{name} is not the file that the manifest describes: the bundle was altered")


def _all_there(manifest: Manifest, found: "set[str]") -> None:
    missing = sorted(manifest.files.keys() - found)
    if missing:
        raise wrong(f"the bundle is not whole: {missing[0]} is missing")


def _need_disk(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE_DISK:
        raise RunnerError(
            "disk",
            f"{folder} has {free >> 20} MiB free, the bundle needs {(size + _SPARE_DISK) >> 20}",
            "free some space on the board",
        )
