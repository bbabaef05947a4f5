"""Fetching Imagenette: resumable, checked, and unpacked whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import tarfile
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath

from filelock import FileLock

from edgecompress import events
from edgecompress.errors import InputError
from edgecompress.files import building, cache_dir

# Imagenette v2, 160 px (github.com/fastai/imagenette); the MD5 is the one that fast.ai's data
# loaders publish for this file. It guards against damage, not against malice: nothing of the
# archive is run, and unpacking trusts no path in it.
IMAGENETTE_URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz"
IMAGENETTE_MD5 = "e793b78cc4c9e9a4ccc0c1155377a412"
IMAGENETTE_FOLDER = "imagenette2-160"

TIMEOUT = 30.0
_BLOCK = 1 << 20


def fetch_imagenette(url: str = IMAGENETTE_URL, md5: str = IMAGENETTE_MD5) -> Path:
    """The folder with Imagenette's `train` and `val` trees, fetched now if it is not there.

    Args:
        url: of an archive with one folder `imagenette2-160` in it.
        md5: of the archive.

    Raises:
        InputError: it cannot be fetched, is damaged, or holds unsafe paths.
    """
    folder = cache_dir("data") / IMAGENETTE_FOLDER
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        archive = cache_dir("data") / "imagenette2-160.tgz.part"
        download(url, archive, md5)
        unpack(archive, folder)
        archive.unlink()
    return folder


def download(url: str, target: Path, md5: str) -> None:
    """Fetch `url` into `target`; what is there already of an earlier try is not fetched again.

    Raises:
        InputError: the server cannot be reached, breaks off, or serves another file. What came so
            far stays for the next try, unless it is wrong.
    """
    have = target.stat().st_size if target.exists() else 0
    if not (have and _md5(target) == md5):
        _transfer(url, target, have)
        got = _md5(target)
        if got != md5:
            target.unlink()
            raise InputError(
                f"{url} has MD5 {got}, not the published {md5}", "run the same command again"
            )


def _transfer(url: str, target: Path, have: int) -> None:
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    except ValueError as error:
        raise InputError(f"'{url}' is no address", "give one that begins with https://") from error
    again = "run the same command again: it goes on from where it was"
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            # A server that knows no ranges answers 200 with the whole file.
            start = have if response.status == 206 else 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length else None
            with (
                target.open("ab" if start else "wb") as stream,
                events.task(f"fetching {url.rsplit('/', 1)[-1]}", total) as shown,
            ):
                shown.update(start)
                while block := response.read(_BLOCK):
                    stream.write(block)
                    shown.advance(len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch: the checksum decides
            return
        raise InputError(f"{url}: {error.code} {error.reason}", "check the address") from error
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        reason = getattr(error, "reason", error)
        raise InputError(f"cannot fetch {url}: {reason}", again) from error
    if total is not None and target.stat().st_size < total:
        raise InputError(f"{url} broke off at {target.stat().st_size} of {total} bytes", again)


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a `.tgz` whose only top folder becomes `folder`, whole or not at all.

    Raises:
        InputError: damaged, more than one top folder, or a member that is a link, a device or
            climbs out.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar, building(folder) as temporary:
            for member in events.track(tar, "unpacking"):
                _extract(tar, member, temporary)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"cannot unpack {archive.name}: {error}", f"rm {archive}") from error


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    path = PurePosixPath(member.name)
    parts = [part for part in path.parts if part != "."]
    if path.is_absolute() or ".." in parts or not (member.isfile() or member.isdir()):
        raise InputError(f"the archive holds an unsafe member: {member.name}")
    if parts and parts[0] != IMAGENETTE_FOLDER:
        raise InputError(f"the archive holds {member.name} beside {IMAGENETTE_FOLDER}/")
    target = into.joinpath(*parts[1:])
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    source = tar.extractfile(member)
    assert source is not None  # isfile() says so
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("wb") as stream:
        while block := source.read(_BLOCK):
            stream.write(block)
