"""Pinned wheels: fetched, checked, opened as zip files."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgecompress.errors import InputError
from edgecompress.wheels import Wheel, extract, fetch, read


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, and a cache of its own."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make_wheel(index: Path, members: dict[str, str]) -> Path:
    path = index / "thing-1.0-py3-none-any.whl"
    meta = "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n"
    tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {**members, "thing-1.0.dist-info/METADATA": meta, "thing-1.0.dist-info/WHEEL": tag}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, "thing-1.0.dist-info/RECORD": ""}.items():
            archive.writestr(name, text)
    return path


def test_one_member_and_some(index: Path, tmp_path: Path) -> None:
    make_wheel(index, {"thing/a.txt": "A", "thing/b.bin": "B"})
    wheel = Wheel("thing==1.0")
    assert read(wheel, "thing/a.txt") == b"A"
    written = extract(wheel, lambda name: name.endswith(".bin"), tmp_path / "out")
    assert [path.read_text() for path in written] == ["B"]
    with pytest.raises(InputError, match="no thing/c"):
        read(wheel, "thing/c")


def test_the_cache_serves_without_an_index(index: Path) -> None:
    source = make_wheel(index, {"thing/a.txt": "A"})
    first = fetch(Wheel("thing==1.0"))
    source.unlink()
    assert fetch(Wheel("thing==1.0")) == first


def test_another_hash_is_refused_and_not_kept(index: Path) -> None:
    make_wheel(index, {"thing/a.txt": "A"})
    for _ in range(2):
        with pytest.raises(InputError, match="not the pinned"):
            fetch(Wheel("thing==1.0", sha256="0" * 64))


def test_a_missing_package_says_what_to_type(index: Path) -> None:
    with pytest.raises(InputError, match="absent==1") as caught:
        fetch(Wheel("absent==1"))
    assert "pip download" in caught.value.hint


@pytest.mark.parametrize("name", ["../escape", "/etc/escape", "thing/../../escape"])
def test_paths_that_climb_out_are_refused(index: Path, tmp_path: Path, name: str) -> None:
    make_wheel(index, {name: "x"})
    with pytest.raises(InputError):
        extract(Wheel("thing==1.0"), lambda _: True, tmp_path / "out")
    assert not (tmp_path / "escape").exists()


def test_import_is_light() -> None:
    code = "import edgecompress.cli.main, sys; print('tvm' in sys.modules, 'torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]
