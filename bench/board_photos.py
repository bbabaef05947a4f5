"""Photos on a board: what lies there, what fits, and how it gets there."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edgecompress.errors import BoardError

from ..rpc.session import Session, remove_bundles
from ..runner.errors import RunnerError
from ..runner.records import photo_id

PHOTOS = "photos"
COMMAND_S = 300.0

KEEP_BYTES = 256_000_000
"""Sets of at most so many bytes stay on the board, where it has room for them."""

RESERVE_BYTES = 8_000_000
"""Of a board's disk this is never filled with photos: the answers need it."""

LITTLE_BYTES = 64_000_000
"""With less room than this, photos that other runs left are removed first."""

# Where the working folder is somebody's home, photos of their own may lie there too.
_OURS = "[0-9a-f]" * 64

# Unpack beside, then rename each file: a photo is whole on the board or not there. What the disk
# has left then is asked at once: on a slow link each question costs.
_RECEIVE = (
    'rm -rf "$2" && mkdir -p "$2" "$3" && tar -xf "$1" -C "$2" && mv "$2"/* "$3"/'
    ' && rm -rf "$2" "$1" && df -Pk .'
)

Photo = tuple[str, Path]
"""A photo's id and its file here."""


def identify(paths: Sequence[Path]) -> dict[str, Path | None]:
    """Photo id to file, each once, in order; a photo that is not there is known by its path."""
    found: dict[str, Path | None] = {}
    for path in paths:
        try:
            found.setdefault(photo_id(path), path)
        except RunnerError:
            found.setdefault(str(path), None)
    return found


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where it has gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


class Shelf:
    """The photos that lie on a board between runs, and the room for those that pass through.

    Attributes:
        free: bytes free on the board's disk when last asked; None where `df` does not tell.
        keeps: whether what is sent stays for the next run.
    """

    def __init__(self, session: Session, sizes: Mapping[str, int]) -> None:
        """Look what is there. `sizes`: bytes of each photo of the run."""
        self._session = session
        listed = session.run(["sh", "-c", f"mkdir -p {PHOTOS} && ls {PHOTOS}"], timeout=COMMAND_S)
        names = listed.check(f"cannot list photos on '{session.name}'").stdout.split()
        self._there = set(names)
        self.free = free_bytes(session)
        missing = sum(size for key, size in sizes.items() if key not in self._there)
        fit = self.free is None or missing + 2 * RESERVE_BYTES <= self.free
        self.keeps = fit and sum(sizes.values()) <= KEEP_BYTES
        if not fit and self.free is not None and self.free < LITTLE_BYTES:
            self.clear()

    def room(self) -> int | None:
        """Bytes of photos that can be sent now: archive and files lie there together for a while.

        None where nobody knows.
        """
        return None if self.free is None else max(0, self.free - RESERVE_BYTES) // 2

    def clear(self) -> None:
        """Remove all that runs have left there, and nothing else."""
        found = ["find", f"{PHOTOS}/", "-maxdepth", "1", "-type", "f", "-name", _OURS]
        removed = self._session.run([*found, "-exec", "rm", "-f", "{}", "+"], timeout=COMMAND_S)
        removed.check(f"cannot remove photos on '{self._session.name}'")
        self._there = set()
        self.free = free_bytes(self._session)

    def forget(self, photos: Iterable[str]) -> None:
        """These are damaged there: they are sent again when they are needed."""
        self._there.difference_update(photos)

    def lacks(self, photo: str) -> bool:
        """Whether it has to be sent."""
        return photo not in self._there

    def send(self, photos: Sequence[Photo], passing: str) -> dict[str, str]:
        """Send what the board lacks; returns where each photo lies, below the working folder.

        Args:
            passing: the folder for photos that do not stay.
        """
        folder = PHOTOS if self.keeps else passing
        missing = [(key, path) for key, path in photos if self.lacks(key)]
        places = {key: f"{PHOTOS}/{key}" for key, _ in photos if not self.lacks(key)}
        if missing:
            self.free = send(self._session, missing, folder)
        if self.keeps:
            self._there.update(key for key, _ in missing)
        return {**places, **{key: f"{folder}/{key}" for key, _ in missing}}


def send(session: Session, photos: Sequence[Photo], folder: str) -> int | None:
    """Copy photos in one archive, for SFTP pays for each file; returns the bytes free then.

    A file that has gone meanwhile is left out.

    Raises:
        BoardError: the board was lost, or is full.
    """
    present = [(key, path) for key, path in photos if path.exists()]
    if not present:
        return free_bytes(session)
    incoming = f"{folder}.incoming"
    with tempfile.TemporaryDirectory() as temporary:
        archive = Path(temporary) / "photos.tar"
        with tarfile.open(archive, "w", dereference=True) as tar:
            for key, path in present:
                tar.add(path, arcname=key, filter=_plain)
        session.upload(archive, f"{incoming}.tar")
    receive = ["sh", "-c", _RECEIVE, "sh", f"{incoming}.tar", incoming, folder]
    done = session.run(receive, timeout=COMMAND_S).check(
        f"cannot unpack photos on '{session.name}'", "free some space on the board"
    )
    return _free(done.stdout)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mode, member.uid, member.gid, member.uname, member.gname = 0o644, 0, 0, "", ""
    return member


def free_bytes(session: Session) -> int | None:
    """Free space below a session's working folder, bytes; None where `df` does not tell."""
    return _free(session.run(["df", "-Pk", session.workdir], timeout=COMMAND_S).stdout)


def _free(told: str) -> int | None:
    try:
        return int(told.splitlines()[-1].split()[3]) * 1024
    except (IndexError, ValueError):
        return None


def need_disk(session: Session, need: int) -> None:
    """Refuse early where the board's disk has less than `need` bytes.

    Raises:
        BoardError: it is full.
    """
    free = free_bytes(session)
    if free is not None and free < need:
        raise full(session, need, free)


def full(session: Session, need: int, free: int, what: str = "") -> BoardError:
    """The error for a disk that cannot take a run; sizes in bytes.

    Args:
        what: needs them; "" is the run.
    """
    needed = f"{need / 1e6:.1f} MB needed" + (f" for {what}" if what else "")
    return BoardError(
        f"the disk of '{session.name}' is full: {needed},"
        f" {free / 1e6:.1f} MB free below {session.workdir}",
        f"free some space on the board: {remove_bundles(session.workdir)}",
    )


def no_room(session: Session, photo_bytes: int, free: int) -> BoardError:
    """The error for a photo that is too large for what `Shelf.room` has."""
    need = 2 * photo_bytes + RESERVE_BYTES
    return full(session, need, free, f"a photo of {photo_bytes / 1e6:.1f} MB")
