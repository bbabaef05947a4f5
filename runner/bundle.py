"""Bundles in, checked folders out. Nothing of a bundle is executed here, and nothing of it is
unpacked before its manifest has been read and found to fit this machine.

An archive is unpacked into a folder named after its manifest's hash, which stands for all its
content: whole or not at all, once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Optional, Union

from .archive import Member, members
from .errors import RunnerError
from .machine import Machine, check_fit, this_machine
from .manifest import MAX_MANIFEST, NAME, Entry, Manifest, manifest_from_bytes, wrong
from .signature import MAX_SIGNATURE, SIGNATURE, Trust, check_signature, read_trust

_BLOCK = 1 << 20
_SPARE_DISK = 16 << 20  # left free for predictions and the operating system
_UNPACKING = ".unpacking."
_LEFT_S = 24 * 3600.0  # nobody unpacks for so long: it was killed


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A folder whose every file has been checked.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        sha256: of the manifest file, which stands for the content.
        signed_by: the name of a trusted key, "unknown" for another one, "" for nobody.
    """

    folder: Path
    manifest: Manifest
    sha256: str
    signed_by: str = ""


def open_bundle(
    path: Path,
    unpack_to: Path,
    machine: Optional[Machine] = None,
    trust: Optional[Trust] = None,
) -> Bundle:
    """Check a bundle, and unpack it if it is an archive.

    Args:
        path: a `.tar` file or an unpacked folder.
        unpack_to: where archives are unpacked, each into a folder of its own; one that is there
            already is checked again and reused.
        machine: what it has to fit; this one by default.
        trust: who may have signed it; by default what this machine's file says.

    Raises:
        RunnerError: (`bundle`, `signature`, `architecture`, `features`, `runtime` or `disk`).
    """
    machine = machine or this_machine()
    trust = read_trust() if trust is None else trust
    try:
        if path.is_dir():
            return _check_folder(path, machine, trust)
        if path.is_file():
            with path.open("rb") as stream:
                return _unpack(stream, unpack_to, machine, trust)
    except OSError as error:
        raise wrong(f"{path.name} cannot be read: {error.strerror or error}") from error
    raise RunnerError("bundle", f"no such bundle: {path}", "build one: edgecompress compile")


def _check_folder(folder: Path, machine: Machine, trust: Trust) -> Bundle:
    content = _small_file(folder / NAME, MAX_MANIFEST)
    if content is None:
        raise wrong(f"{folder} has no {NAME}")
    signed_by = check_signature(content, _small_file(folder / SIGNATURE, MAX_SIGNATURE), trust)
    manifest = _manifest(content, machine)
    found = set()
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file():
            raise wrong(f"the bundle has something that is not a plain file: {name[:100]!r}")
        if name in (NAME, SIGNATURE):
            continue
        entry = _entry(manifest, name)
        with path.open("rb") as stream:
            _check(name, entry, stream, None)
        found.add(name)
    _all_there(manifest, found)
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest(), signed_by)


def _small_file(path: Path, most: int) -> Optional[bytes]:
    """A plain file's content, up to one byte more than it may have; None where there is none."""
    # Opening a pipe would wait for somebody who writes to it.
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as stream:
        return stream.read(most + 1)


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


def _unpack(stream: BinaryIO, unpack_to: Path, machine: Machine, trust: Trust) -> Bundle:
    archive = members(stream)
    first = next(archive, None)
    if first is None or first.name != NAME or first.size > MAX_MANIFEST:
        raise wrong(f"the bundle does not begin with a {NAME}")
    content = first.read()
    second = next(archive, None)
    signature = None
    if second is not None and second.name == SIGNATURE:
        signature = second.read(MAX_SIGNATURE + 1)
        second = next(archive, None)
    signed_by = check_signature(content, signature, trust)
    manifest = _manifest(content, machine)
    sha256 = hashlib.sha256(content).hexdigest()
    folder = unpack_to / sha256
    if folder.is_dir():
        try:
            return _checked(folder, machine, trust, signed_by)
        except RunnerError:
            shutil.rmtree(folder)  # damaged since, or not signed then: unpacked anew below
    try:
        with _new_folder(folder, manifest) as temporary:
            (temporary / NAME).write_bytes(content)
            if signature is not None:
                (temporary / SIGNATURE).write_bytes(signature)
            rest = () if second is None else itertools.chain([second], archive)
            _copy(rest, manifest, temporary)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and folder.is_dir():
            return _checked(folder, machine, trust, signed_by)  # another runner's, started with it
        raise RunnerError(
            "disk",
            f"cannot unpack to {unpack_to}: {error.strerror or error}",
            "free some space on the board",
        ) from error
    return Bundle(folder, manifest, sha256, signed_by)


def _checked(folder: Path, machine: Machine, trust: Trust, signed_by: str) -> Bundle:
    """A folder in place of an archive of the same manifest, which may be signed otherwise."""
    return dataclasses.replace(_check_folder(folder, machine, trust), signed_by=signed_by)


@contextlib.contextmanager
def _new_folder(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(folder.parent)
    _need_disk(folder.parent, sum(entry.size for entry in manifest.files.values()))
    temporary = Path(tempfile.mkdtemp(prefix=_UNPACKING, dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_left(parent: Path) -> None:
    """Remove what killed runners have left half unpacked."""
    for left in parent.glob(f"{_UNPACKING}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_S:
                shutil.rmtree(left, ignore_errors=True)


def _copy(archive: Iterable[Member], manifest: Manifest, into: Path) -> None:
    found = set()
    for member in archive:
        entry = _entry(manifest, member.name)
        if member.size != entry.size:
            raise wrong(f"{member.name} has {member.size} bytes, not {entry.size}")
        _check(member.name, entry, member, into / member.name)
        found.add(member.name)
    _all_there(manifest, found)


def _entry(manifest: Manifest, name: str) -> Entry:
    entry = manifest.files.get(name)
    if entry is None:
        raise wrong(f"the bundle has a file that its manifest does not name: {name[:240]!r}")
    return entry


def _manifest(content: bytes, machine: Machine) -> Manifest:
    if len(content) > MAX_MANIFEST:
        raise wrong(f"the manifest is larger than {MAX_MANIFEST} bytes")
    manifest = manifest_from_bytes(content)
    check_fit(manifest, machine)
    return manifest


def _check(
    name: str, entry: Entry, stream: "Union[BinaryIO, Member]", copy: Optional[Path]
) -> None:
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
