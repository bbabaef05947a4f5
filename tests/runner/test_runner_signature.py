"""Signatures as a board checks them, against the RFC's vectors and against OpenSSL."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.runner.errors import RunnerError
from edgecompress.runner.signature import (
    _ORDER,
    Trust,
    check_signature,
    parse_public,
    parse_trust,
    public_line,
    read_trust,
    signature_file,
    signed_message,
    trust_text,
    verify,
)

# RFC 8032, section 7.1: public key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b4"
        "6bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d"
        "8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6"
        "594a7c15e9716ed28dc027beceea1ec40a",
    ),
]

# Encodings of the points of small order: order 1, 2, 4, 8, and the others' signs.
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]

seeds = st.binary(min_size=32, max_size=32)


def openssl(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_vectors_of_the_rfc(public: str, message: str, signature: str) -> None:
    key, text, number = map(bytes.fromhex, (public, message, signature))
    assert verify(key, text, number)
    assert openssl(key, text, number)
    assert not verify(key, text + b"x", number)
    assert not verify(key, text, number[:-1])
    assert not verify(key[:-1], text, number)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, message=st.binary(max_size=100), flip=st.integers(0, 1023))
def test_it_agrees_with_openssl(seed: bytes, message: bytes, flip: int) -> None:
    """One bit of key, signature or message is turned, or none."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert verify(public, message, signature)
    parts = bytearray(public + signature)
    if flip < len(parts) * 8:
        parts[flip // 8] ^= 1 << flip % 8
    else:
        message += b"!"
    public, signature = bytes(parts[:32]), bytes(parts[32:])
    assert verify(public, message, signature) is openssl(public, message, signature) is False


@settings(max_examples=40, deadline=None)
@given(public=seeds, message=st.binary(max_size=40), signature=st.binary(max_size=70))
def test_any_bytes_are_no_signature(public: bytes, message: bytes, signature: bytes) -> None:
    assert not verify(public, message, signature)


def test_a_number_that_is_not_reduced_is_refused() -> None:
    """Signatures would have a second form that differs in bytes."""
    private = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    public, good = private.public_key().public_bytes_raw(), private.sign(b"m")
    number = int.from_bytes(good[32:], "little") + _ORDER
    assert verify(public, b"m", good)
    assert not verify(public, b"m", good[:32] + number.to_bytes(32, "little"))


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_points_of_small_order_sign_nothing(point: str) -> None:
    """With such a key, R of small order and S = 0 would be good for one message in eight or all."""
    key = bytes.fromhex(point)
    neutral = bytes.fromhex(SMALL_ORDER[0])
    for message in (b"", b"a", b"b", b"c", b"d", b"e", b"f", b"g"):
        for commitment in (key, neutral):
            assert not verify(key, message, commitment + bytes(32))
    assert parse_public(public_line(key, "evil")) is None


@pytest.mark.parametrize(
    "encoded",
    [
        (2**255 - 19).to_bytes(32, "little"),  # y = p: zero, not canonical
        (2**255 - 18).to_bytes(32, "little"),
        b"\x01" + bytes(30) + b"\x80",  # x = 0 with the sign of minus zero
        b"\xff" * 32,
        b"\x02" + bytes(31),  # not on the curve
    ],
)
def test_encodings_that_are_not_canonical(encoded: bytes) -> None:
    private = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    good = private.sign(b"m")
    assert not verify(encoded, b"m", good)
    assert not verify(private.public_key().public_bytes_raw(), b"m", encoded + good[32:])


def test_it_takes_milliseconds() -> None:
    """A bound that only a mistake in the arithmetic passes; docs/security.md has the time."""
    private = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    public, good = private.public_key().public_bytes_raw(), private.sign(b"m")
    began = time.process_time()
    assert verify(public, b"m", good)
    assert time.process_time() - began < 1


def signed(seed: bytes, manifest: bytes) -> tuple[bytes, bytes]:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes_raw()
    return public, signature_file(public, private.sign(signed_message(manifest)))


def test_whom_a_board_trusts() -> None:
    manifest = b"{}"
    public, signature = signed(b"a" * 32, manifest)
    other, others = signed(b"b" * 32, manifest)
    trusted = Trust({public: "lab"})
    strict = Trust({public: "lab"}, required=True)
    assert check_signature(manifest, None, trusted) == ""
    assert check_signature(manifest, signature, trusted) == "lab"
    assert check_signature(manifest, others, trusted) == "unknown"
    assert check_signature(manifest, signature, strict) == "lab"
    for given_, said in (
        (None, "takes signed bundles only"),
        (others, "does not trust"),
        (signature_file(public, bytes(64)), "one of them was altered"),
        (b"", "damaged"),
        (signature[:-1], "damaged"),
        (signature + b"\n", "damaged"),
        (signature.replace(b"=", b"", 1), "damaged"),
    ):
        with pytest.raises(RunnerError, match=said) as refused:
            check_signature(manifest, given_, strict)
        assert (refused.value.kind, bool(refused.value.hint)) == ("signature", True)
    # A signature that is there has to be good also where none is required.
    with pytest.raises(RunnerError, match="altered"):
        check_signature(b"{ }", signature, Trust())
    # What is signed elsewhere for the same bytes is not a bundle's signature.
    private = Ed25519PrivateKey.from_private_bytes(b"a" * 32)
    with pytest.raises(RunnerError, match="altered"):
        check_signature(manifest, signature_file(public, private.sign(manifest)), strict)
    assert other != public


def test_files_of_trusted_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public, _ = signed(b"a" * 32, b"")
    wanted = Trust({public: "lab"}, required=True)
    assert parse_trust(trust_text(wanted).encode(), "x") == wanted
    everyones, own = tmp_path / "etc", tmp_path / "own"
    assert read_trust((everyones, own)) == Trust()
    own.write_text(trust_text(wanted))
    assert read_trust((everyones, own)) == wanted
    # Root's file stands above: a user cannot take back what it requires.
    own.write_text("")
    everyones.write_text(trust_text(wanted))
    assert read_trust((everyones, own)) == wanted
    everyones.chmod(0o666)
    with pytest.raises(RunnerError, match="written to by others"):
        read_trust((everyones, own))
    everyones.chmod(0o664)
    assert read_trust((everyones, own)) == wanted, "a group of one's own has nobody else in it"
    if os.geteuid() == 0:
        os.chown(everyones, -1, 65534)
    else:
        monkeypatch.setattr(os, "getegid", lambda: -1)
    with pytest.raises(RunnerError, match="written to by others"):
        read_trust((everyones, own))
    everyones.chmod(0o644)
    for text in ("require_signature", "ed25519 AAAA lab", f"{public_line(public, 'lab')} x", "\0"):
        everyones.write_text(text)
        with pytest.raises(RunnerError, match="line 1 is no public key"):
            read_trust((everyones, own))


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_trust_or_an_error(content: bytes) -> None:
    for read in (
        lambda: parse_trust(content, "x"),
        lambda: check_signature(b"{}", content, Trust()),
    ):
        try:
            read()
        except RunnerError as error:
            assert "\n" not in error.message


def test_the_home_is_the_boards_own() -> None:
    from edgecompress.runner.signature import trust_paths

    assert trust_paths()[1] == Path(os.environ["HOME"]) / ".config/edgecompress/trusted-keys"
