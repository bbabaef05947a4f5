"""Whole files: there, or as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecompress.errors import InputError
from edgecompress.files import building, read_json, sha256_json, write_json, writing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), writing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError) as full, writing(tmp_path / "a.txt"):
        # A full disk: the system names no file.
        Path("/dev/full").write_bytes(b"x")
    assert full.value.filename == str(tmp_path / "a.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as folder, writing(tmp_path / "folder"):
        pass
    assert (folder.value.filename, folder.value.filename2) == (str(tmp_path / "folder"), None)
    with pytest.raises(FileNotFoundError) as other, writing(tmp_path / "a.txt"):
        (tmp_path / "none").read_text()
    assert other.value.filename == str(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with building(target) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(RuntimeError), building(target) as temporary:
        (temporary / "b").write_text("2")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [target]


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
def test_unreadable_json_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json"):
        read_json(path, "record")


def test_fingerprints_do_not_depend_on_key_order() -> None:
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})
