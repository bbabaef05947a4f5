"""Files that are whole or not there: write beside, then rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path, user_config_path

from edgecompress.errors import InputError


def cache_dir(*parts: str) -> Path:
    """A folder below the project's cache, made if missing.

    `EDGECOMPRESS_CACHE` moves the cache; without it the user's own cache folder is used.
    """
    root = os.environ.get("EDGECOMPRESS_CACHE")
    base = Path(root) if root else user_cache_path("edgecompress")
    path = base.joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def config_dir() -> Path:
    """The user's configuration folder (not made); `EDGECOMPRESS_CONFIG` moves it."""
    root = os.environ.get("EDGECOMPRESS_CONFIG")
    return Path(root) if root else user_config_path("edgecompress")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends without an error.

    Raises:
        OSError: it cannot be written; the error names `path`, not the temporary one.
    """
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            _flush(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have errors name `path` where they name its temporary one or, on a full disk, none."""
    beside = str(path.with_name(f".{path.name}."))
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(beside):
            error.filename, error.filename2 = str(path), None
        raise


def _flush(path: Path) -> None:
    """Onto the disk, before the new name: else a power cut may leave a whole name of no content."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that replaces it when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or leave the old one."""
    with writing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a whole UTF-8 file or leave the old one."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, what: str = "file") -> Any:
    """Read JSON; a missing or damaged file is an `InputError` that names it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"no such {what}: {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {what} {path}: {error}") from error


def sha256_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """The SHA-256 of a value's canonical JSON: a fingerprint that does not depend on key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
