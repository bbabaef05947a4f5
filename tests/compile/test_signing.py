"""Keys on this machine, and bundles that they sign."""

from __future__ import annotations

import hashlib
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from edgecompress.compile.signing import key_names, keys_dir, new_key, public_key, sign_bundle
from edgecompress.errors import InputError, UsageError
from edgecompress.runner.bundle import open_bundle
from edgecompress.runner.errors import RunnerError
from edgecompress.runner.signature import Trust


@pytest.fixture(autouse=True)
def _own_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path / "config"))


@pytest.fixture
def bundle(tiny: Any, tmp_path: Path) -> Path:
    copy = tmp_path / "b.tar"
    copy.write_bytes(tiny.bundle.read_bytes())
    return copy


def test_a_key_is_for_its_owner_alone() -> None:
    made = new_key("lab")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys_dir().stat().st_mode) == 0o700
    assert (key_names(), public_key("lab")) == (["lab"], made)
    before = made.path.read_bytes()
    with pytest.raises(UsageError, match="there is a key 'lab' already"):
        new_key("lab")
    assert made.path.read_bytes() == before
    for name in ("", "../x", "a/b", ".x", "a b", "lab\n"):
        with pytest.raises(UsageError, match="cannot name a key"):
            new_key(name)
    made.path.chmod(0o640)
    with pytest.raises(InputError, match="others may read the private key"):
        public_key("lab")


def test_a_damaged_key_is_not_quoted() -> None:
    path = new_key("lab").path
    secret = path.read_text()
    path.write_text(secret.replace("BEGIN", "BEGUN"))
    with pytest.raises(InputError, match="no private key") as refused:
        public_key("lab")
    told = f"{refused.value} {refused.value.hint}"
    assert not [line for line in secret.splitlines() if line in told]
    with pytest.raises(UsageError, match="unknown key 'lap'") as unknown:
        public_key("lap")
    assert "lab" in unknown.value.hint


def test_a_signed_bundle_is_the_same_bundle(bundle: Path, tiny: Any, tmp_path: Path) -> None:
    key = new_key("lab")
    plain = open_bundle(tiny.bundle, tmp_path / "plain", trust=Trust())
    sign_bundle(bundle, "lab")
    once = bundle.read_bytes()
    sign_bundle(bundle, "lab")
    assert bundle.read_bytes() == once, "signing again changes nothing"
    with tarfile.open(bundle) as archive:
        assert archive.getnames()[:2] == ["manifest.json", "manifest.sig"]
    strict = Trust({key.key: "lab"}, required=True)
    opened = open_bundle(bundle, tmp_path / "signed", trust=strict)
    assert (opened.sha256, opened.signed_by) == (plain.sha256, "lab")
    assert open_bundle(opened.folder, tmp_path, trust=strict).signed_by == "lab"
    other = new_key("other")
    sign_bundle(bundle, "other")
    assert len(bundle.read_bytes()) == len(once), "a signature takes the place of the other"
    assert open_bundle(bundle, tmp_path / "o", trust=Trust({other.key: "o"})).signed_by == "o"


def test_who_signed_is_asked_of_the_archive_that_is_opened(
    bundle: Path, tiny: Any, tmp_path: Path
) -> None:
    """Also where another one of the same content is unpacked already."""
    trust = Trust({new_key("lab").key: "lab"})
    sign_bundle(bundle, "lab")
    for first, archive, then in (("a", tiny.bundle, bundle), ("b", bundle, tiny.bundle)):
        opened = [open_bundle(path, tmp_path / first, trust=trust) for path in (archive, then)]
        assert [one.signed_by for one in opened] == (["", "lab"] if first == "a" else ["lab", ""])


def test_a_board_that_requires_a_signature(bundle: Path, tiny: Any, tmp_path: Path) -> None:
    key = new_key("lab")
    strict = Trust({key.key: "lab"}, required=True)
    # Unpacked before it was required: the folder is not taken for signed, but made anew.
    folder = open_bundle(bundle, tmp_path / "bundles", trust=Trust()).folder
    for path in (bundle, folder):
        with pytest.raises(RunnerError, match="signed bundles only"):
            open_bundle(path, tmp_path / "bundles", trust=strict)
    sign_bundle(bundle, "lab")
    assert open_bundle(bundle, tmp_path / "bundles", trust=strict).folder == folder
    assert (folder / "manifest.sig").is_file()
    new_key("stranger")
    sign_bundle(bundle, "stranger")
    with pytest.raises(RunnerError, match="does not trust"):
        open_bundle(bundle, tmp_path / "strangers", trust=strict)
    assert not (tmp_path / "strangers").exists()


def test_an_altered_manifest_is_refused_before_it_is_read(bundle: Path, tmp_path: Path) -> None:
    """Also where it is no JSON: the signature is looked at first."""
    new_key("lab")
    sign_bundle(bundle, "lab")
    content = bytearray(bundle.read_bytes())
    content[512] = ord("!")
    bundle.write_bytes(content)
    with pytest.raises(RunnerError, match="one of them was altered"):
        open_bundle(bundle, tmp_path / "bundles", trust=Trust())


def test_the_manifest_hashes_every_other_file(bundle: Path, tmp_path: Path) -> None:
    """What is signed stands for the whole bundle."""
    opened = open_bundle(bundle, tmp_path / "bundles", trust=Trust())
    found = {
        path.relative_to(opened.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in opened.folder.rglob("*")
        if path.is_file()
    }
    assert found.pop("manifest.json") == opened.sha256
    assert found == {name: entry.sha256 for name, entry in opened.manifest.files.items()}


def test_what_cannot_be_signed(bundle: Path, tmp_path: Path) -> None:
    new_key("lab")
    with pytest.raises(InputError, match="No such file"):
        sign_bundle(tmp_path / "none.tar", "lab")
    bundle.write_bytes(b"hello")
    with pytest.raises(InputError, match="cut off"):
        sign_bundle(bundle, "lab")
    assert bundle.read_bytes() == b"hello"
