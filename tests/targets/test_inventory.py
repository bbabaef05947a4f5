from __future__ import annotations

from pathlib import Path

import pytest

from edgecompress.errors import BoardError, InputError, UsageError
from edgecompress.targets import BoardEntry
from edgecompress.targets.inventory import add, entries, find, inventory_path, remove

KEY = "SHA256:" + "aB3+/" * 8 + "xyz"


@pytest.fixture(autouse=True)
def _own_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path / "config"))


def entry(name: str = "kitchen", **values: object) -> BoardEntry:
    return BoardEntry(**{"name": name, "board": "rpi4b", "host": "10.0.0.7", **values})


def test_add_find_list_remove() -> None:
    assert entries() == ()
    first = entry(port=2222, user="pi", identity_file='/k/"odd" name', host_key=KEY, python="3.13")
    add(first)
    add(entry("attic", board="rpi5", host="fe80::1%eth0"))
    assert find("kitchen") == first
    assert [one.name for one in entries()] == ["attic", "kitchen"]
    remove("kitchen")
    assert [one.name for one in entries()] == ["attic"]


def test_adding_again_replaces() -> None:
    add(entry())
    add(entry(host="10.0.0.8"))
    assert find("kitchen").host == "10.0.0.8"


def test_unknown_names_offer_the_near_ones() -> None:
    add(entry())
    with pytest.raises(BoardError) as refused:
        find("kitchn")
    assert "kitchen" in refused.value.hint
    with pytest.raises(BoardError):
        remove("kitchn")


def test_names_of_sorts_of_boards_stay_theirs() -> None:
    with pytest.raises(UsageError, match="names a sort of board"):
        add(entry("rpi4b"))
    with pytest.raises(BoardError, match="unknown board 'rpi44'"):
        add(entry(board="rpi44"))


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"host": "-oProxyCommand=id"}, "host"),
        ({"host": "a b"}, "host"),
        ({"port": 70000}, "port"),
        ({"user": "pi;id"}, "user"),
        ({"host_key": "SHA256:short"}, "host_key"),
        ({"workdir": "$(id)"}, "workdir"),
        ({"identity_file": "a\nb"}, "identity_file"),
    ],
)
def test_bad_values_never_reach_the_file(values: dict[str, object], key: str) -> None:
    add(entry("before"))
    with pytest.raises(InputError, match=key):
        add(entry(**values))
    assert [one.name for one in entries()] == ["before"]


def test_a_damaged_inventory_names_the_key() -> None:
    path = inventory_path()
    path.parent.mkdir(parents=True)
    path.write_text('[boards.x]\nboard = "rpi4b"\nhost = "h"\npassword = "secret"\n')
    with pytest.raises(InputError, match=r"boards\.x\.password"):
        entries()
