"""Keys that sign bundles, and signing: Ed25519, checked on the board by `runner/signature.py`.

Keys lie in the folder `keys` of the user's configuration, each a file that only its owner may read.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edgecompress.errors import InputError, UsageError, unknown_name
from edgecompress.files import config_dir, writing

from ..runner.archive import members
from ..runner.errors import RunnerError
from ..runner.manifest import MAX_MANIFEST, NAME
from ..runner.signature import SIGNATURE, public_line, signature_file, signed_message

KEY_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}"
_SUFFIX = ".key"
_BLOCK = 512
_MAX_KEY = 4096


@dataclass(frozen=True)
class PublicKey:
    """The public half of a key: its name, its 32 bytes, and where the private half lies."""

    name: str
    key: bytes
    path: Path

    @property
    def line(self) -> str:
        """As a board's file of trusted keys has it."""
        return public_line(self.key, self.name)


def keys_dir() -> Path:
    """Where keys lie."""
    return config_dir() / "keys"


def key_names() -> list[str]:
    """The names of all keys, sorted."""
    return sorted(path.stem for path in keys_dir().glob(f"*{_SUFFIX}"))


def new_key(name: str) -> PublicKey:
    """Make a key, for its owner's eyes only.

    Raises:
        UsageError: the name is not allowed, or taken.
    """
    if not re.fullmatch(KEY_NAME, name):
        raise UsageError(
            f"'{name[:50]}' cannot name a key", "letters, digits, - and _, as in lab-1"
        )
    keys_dir().mkdir(parents=True, exist_ok=True, mode=0o700)
    path = keys_dir() / f"{name}{_SUFFIX}"
    made = Ed25519PrivateKey.generate()
    pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(
            f"there is a key '{name}' already: {path}",
            f"choose another name, or use it: edgecompress keys show {name}",
        ) from None
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(pem)
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise
    return PublicKey(name, made.public_key().public_bytes_raw(), path)


def public_key(name: str) -> PublicKey:
    """The public half of the key of that name. Raises as `sign_bundle`."""
    return PublicKey(name, _private(name).public_key().public_bytes_raw(), _path(name))


def sign_bundle(bundle: Path, name: str) -> None:
    """Put a key's signature into a bundle, in place of the one that it has; the rest stays.

    Raises:
        UsageError: there is no key of that name.
        InputError: the key or the bundle is damaged, or others may read the key.
    """
    private = _private(name)
    try:
        with bundle.open("rb") as stream:
            content, begin, rest = _places(stream)
            key = private.public_key().public_bytes_raw()
            signature = signature_file(key, private.sign(signed_message(content)))
            with writing(bundle) as temporary, temporary.open("wb") as signed:
                stream.seek(0)
                signed.write(stream.read(begin))
                signed.write(_member(signature))
                stream.seek(rest)
                shutil.copyfileobj(stream, signed, 1 << 20)
    except RunnerError as error:
        raise InputError(f"{bundle}: {error.message}", error.hint) from error
    except OSError as error:
        raise InputError(
            f"cannot sign {bundle}: {error.strerror}", "build it: edgecompress compile"
        ) from error


def _places(stream: BinaryIO) -> tuple[bytes, int, int]:
    """The manifest of an archive, where a signature belongs, and where what follows it begins."""
    archive = members(stream)
    first = next(archive, None)
    if first is None or first.name != NAME or first.size > MAX_MANIFEST:
        raise RunnerError("bundle", f"it does not begin with {NAME}", "edgecompress compile")
    content = first.read()
    begin = _padded(first.size)
    second = next(archive, None)
    signed = second is not None and second.name == SIGNATURE
    return content, begin, begin + _padded(second.size) if second and signed else begin


def _padded(size: int) -> int:
    return _BLOCK + (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _member(signature: bytes) -> bytes:
    info = tarfile.TarInfo(SIGNATURE)
    info.size = len(signature)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(signature))
        end = buffer.tell()
    return buffer.getvalue()[:end]


def _path(name: str) -> Path:
    """The file of an existing key."""
    if name not in key_names():
        known = key_names()
        if not known:
            raise UsageError(f"there is no key '{name}'", f"make one: edgecompress keys new {name}")
        raise unknown_name("key", name, known, UsageError, "edgecompress keys list")
    return keys_dir() / f"{name}{_SUFFIX}"


def _private(name: str) -> Ed25519PrivateKey:
    path = _path(name)
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            content = stream.read(_MAX_KEY)
    except OSError as error:
        raise InputError(f"cannot read the key {path}: {error.strerror}") from error
    if mode & 0o077:
        raise InputError(f"others may read the private key {path}", f"chmod 600 {path}")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        # Not what the library says: it might quote the file.
        raise InputError(
            f"{path} is no private key", f"remove it: edgecompress keys new {name}"
        ) from (error)
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is no Ed25519 key", f"edgecompress keys new {name}-2")
    return key
