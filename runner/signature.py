"""Who signed a bundle, and whether this board wants that: Ed25519 in the standard library.

A signature is over the manifest's SHA-256, and the manifest holds that of every file. A board's
trusted keys lie in a file that no bundle is ever unpacked to. Verification follows RFC 8032, with
every choice that it leaves open taken the strict way.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Optional

from .errors import RunnerError

SIGNATURE = "manifest.sig"
MAX_SIGNATURE = 1024
MAX_TRUSTED = 1 << 16
REQUIRE = "require-signature"
KEY_BYTES, SIGNATURE_BYTES = 32, 64

_HEADER = "edgecompress-signature 1"
# No other protocol signs what begins like this, and no bundle's signature is good for one.
_DOMAIN = b"edgecompress bundle manifest, version 1\0"
# Where trusted keys lie: root's file, which alone counts where it is there, and a user's own.
EVERYONES = "/etc/edgecompress/trusted-keys"
OWN = ".config/edgecompress/trusted-keys"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


@dataclasses.dataclass(frozen=True)
class Trust:
    """A board's file of trusted keys.

    Attributes:
        keys: public key to the name that people know it by.
        required: whether a bundle that none of them signed is refused.
    """

    keys: "dict[bytes, str]" = dataclasses.field(default_factory=dict)
    required: bool = False


def trust_paths() -> "tuple[Path, Path]":
    """The files of trusted keys, the one that counts first."""
    return Path(EVERYONES), Path.home() / OWN


def read_trust(paths: "Optional[tuple[Path, ...]]" = None) -> Trust:
    """This board's trust; nobody's, and nothing required, where there is no file.

    Raises:
        RunnerError: (`signature`) the file is damaged, or others may write to it.
    """
    for path in paths or trust_paths():
        try:
            with path.open("rb") as stream:
                state = os.fstat(stream.fileno())
                content = stream.read(MAX_TRUSTED + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _refused(f"{path} cannot be read: {error.strerror}") from error
        # A user's own group has nobody else in it, on most systems.
        writers = stat.S_IWOTH | (0 if state.st_gid in (0, os.getegid()) else stat.S_IWGRP)
        if state.st_uid not in (0, os.geteuid()) or state.st_mode & writers:
            raise _refused(f"{path} can be written to by others", f"chmod 644 {path}")
        return parse_trust(content, str(path))
    return Trust()


def parse_trust(content: bytes, where: str) -> Trust:
    """Read a file of trusted keys: `require-signature`, and lines of `public_line`.

    Raises:
        RunnerError: (`signature`) a line is neither; a damaged file trusts nobody.
    """
    keys: dict[bytes, str] = {}
    required = False
    if len(content) > MAX_TRUSTED:
        raise _refused(f"{where} is larger than {MAX_TRUSTED} bytes")
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if text == REQUIRE:
            required = True
        elif text and not text.startswith("#"):
            key = parse_public(text)
            if key is None:
                raise _refused(f"{where}, line {number} is no public key")
            keys[key[0]] = key[1]
    return Trust(keys, required)


def trust_text(trust: Trust) -> str:
    """The file that `parse_trust` reads."""
    lines = ["# Who may sign bundles for this board: `edgecompress keys trust|require`."]
    lines += [REQUIRE] if trust.required else []
    lines += [public_line(key, name) for key, name in trust.keys.items()]
    return "\n".join(lines) + "\n"


def public_line(key: bytes, name: str) -> str:
    """A public key on one line, as it is shown and kept."""
    return f"ed25519 {base64.b64encode(key).decode()} {name}"


def parse_public(line: str) -> "Optional[tuple[bytes, str]]":
    """The key and name of a `public_line`; None where it is none."""
    words = line.split()
    if len(words) != 3 or words[0] != "ed25519" or not _NAME.match(words[2]):
        return None
    key = _decoded(words[1], KEY_BYTES)
    # A key of small order would pass for the signer of anything.
    return (key, words[2]) if key is not None and _point(key) is not None else None


def signed_message(manifest: bytes) -> bytes:
    """What is signed for a manifest."""
    return _DOMAIN + hashlib.sha256(manifest).digest()


def signature_file(key: bytes, signature: bytes) -> bytes:
    """The content of `manifest.sig`."""
    parts = [base64.b64encode(part).decode() for part in (key, signature)]
    return "\n".join([_HEADER, *parts, ""]).encode()


def check_signature(manifest: bytes, signature: Optional[bytes], trust: Trust) -> str:
    """Who signed: the name of a trusted key, "unknown" for another, "" for nobody.

    Args:
        manifest: the manifest file's content.
        signature: that of `manifest.sig`, if there is one.

    Raises:
        RunnerError: (`signature`) the signature is not one, or not of this manifest; or this board
            requires one of a trusted key.
    """
    if signature is None:
        if trust.required:
            raise _refused(
                "this board takes signed bundles only, and this one is not signed",
                "sign it: edgecompress deploy JOB.toml --sign NAME",
            )
        return ""
    lines = signature.decode("latin-1").split("\n")
    key = _decoded(lines[1], KEY_BYTES) if len(lines) == 4 else None
    number = _decoded(lines[2], SIGNATURE_BYTES) if len(lines) == 4 else None
    if key is None or number is None or lines[0] != _HEADER or lines[3]:
        raise _refused("the bundle's signature is damaged", "sign it again: --sign NAME")
    if trust.required and key not in trust.keys:
        shown = public_line(key, "NAME")
        raise _refused(
            f"the bundle is signed by a key that this board does not trust: {shown}",
            "only if you know whose it is: edgecompress keys trust NAME --board BOARD",
        )
    if not verify(key, signed_message(manifest), number):
        raise _refused(
            "the bundle's signature is not one of this manifest: one of them was altered",
            "build and sign it again: edgecompress compile JOB.toml --sign NAME",
        )
    return trust.keys.get(key, "unknown")


def _decoded(text: str, size: int) -> Optional[bytes]:
    try:
        value = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return None
    # One text for each value: what does not come out the same is another's spelling of it.
    plain = len(value) == size and base64.b64encode(value).decode() == text
    return value if plain else None


def _refused(message: str, hint: str = "edgecompress keys list --board BOARD") -> RunnerError:
    return RunnerError("signature", message, hint)


# RFC 8032, section 5.1: the curve -x^2 + y^2 = 1 + d x^2 y^2 over the integers modulo p. A point
# is (X, Y, Z, T) with x = X/Z, y = Y/Z, x y = T/Z.
_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)

_Point = tuple[int, int, int, int]
_ZERO = (0, 1, 1, 0)


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature is good.

    Strict: lengths, canonical encodings, S below the group's order, neither the key nor R of small
    order, and the equation without the cofactor, as OpenSSL checks it.
    """
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    key, commitment = _point(public), _point(signature[:32])
    number = int.from_bytes(signature[32:], "little")
    if key is None or commitment is None or number >= _ORDER:
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    challenge = int.from_bytes(digest, "little") % _ORDER
    x, y, z, t = key
    # [S]B - [k]A has to be R.
    found = _two_multiples(number, _BASE, challenge, (-x % _P, y, z, -t % _P))
    return _same(found, commitment)


def _point(encoded: bytes) -> "Optional[_Point]":
    """A point of an encoding that is canonical, on the curve, and not of small order."""
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x = _x(y, sign) if y < _P else None
    if x is None:
        return None
    point = (x, y, 1, x * y % _P)
    eightfold = _add(*[_add(*[_add(point, point)] * 2)] * 2)
    return None if _same(eightfold, _ZERO) else point


def _x(y: int, sign: int) -> Optional[int]:
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    return _P - x if x & 1 != sign else x


def _add(one: _Point, other: _Point) -> _Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % _P
    b = (one[1] + one[0]) * (other[1] + other[0]) % _P
    c = 2 * one[3] * other[3] * _D % _P
    d = 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _two_multiples(m: int, one: _Point, n: int, other: _Point) -> _Point:
    """`m` times a point plus `n` times another, both from the highest bit down."""
    choice = (_ZERO, one, other, _add(one, other))
    total = _ZERO
    for bit in range(max(m.bit_length(), n.bit_length()) - 1, -1, -1):
        total = _add(total, total)
        which = (m >> bit & 1) + 2 * (n >> bit & 1)
        if which:
            total = _add(total, choice[which])
    return total


def _same(one: _Point, other: _Point) -> bool:
    return not (
        (one[0] * other[2] - other[0] * one[2]) % _P or (one[1] * other[2] - other[1] * one[2]) % _P
    )


_BASE_Y = 4 * pow(5, _P - 2, _P) % _P
_BASE_X = _x(_BASE_Y, 0) or 0
_BASE = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)
