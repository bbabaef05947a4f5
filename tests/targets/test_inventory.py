from __future__ import annotations

from pathlib import Path

import pytest

from edgecompress.errors import BoardError, InputError, UsageError
from edgecompress.targets import BoardEntry, load_boards, virtual_names
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


def test_a_board_that_nothing_can_be_compiled_for_is_refused() -> None:
    with pytest.raises(BoardError, match="not supported: its cores are 32-bit"):
        add(entry(board="rpi2b"))
    assert entries() == ()


def test_a_named_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made by `add`; one that is not there is an error, since nobody names it for nothing."""
    add(entry())
    monkeypatch.setenv("EDGECOMPRESS_INVENTORY", str(tmp_path / "lab.toml"))
    with pytest.raises(InputError, match=r"no such inventory: .*lab\.toml"):
        find("kitchen")
    add(entry("shelf", jump="me@gate:2200,[fe80::1]", jump_host_key=f"{KEY},{KEY}"))
    assert [one.name for one in entries()] == ["shelf"]
    assert find("shelf").jump == "me@gate:2200,[fe80::1]"
    monkeypatch.delenv("EDGECOMPRESS_INVENTORY")
    assert [one.name for one in entries()] == ["kitchen"]


def test_an_inventory_in_the_home_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_INVENTORY", "~nobody-of-that-name/lab.toml")
    for work in (inventory_path, entries):
        with pytest.raises(UsageError, match="~nobody-of-that-name") as refused:
            work()
        assert "--inventory /" in refused.value.hint


def test_a_damaged_board_file_breaks_nothing_else() -> None:
    path = inventory_path().with_name("boards") / "mine.toml"
    path.parent.mkdir(parents=True)
    path.write_text("title = 1")
    boards, broken = load_boards()
    assert "mine.toml" in broken["mine"]
    assert {"rpi4b", "virtual-pi4"} <= {board.name for board in boards}
    assert virtual_names() == ["virtual-pi4", "virtual-pi5"]
    with pytest.raises(InputError, match=r"mine\.toml"):
        add(entry(board="mine"))


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
        ({"jump": "-oProxyCommand=id"}, "jump"),
        ({"jump": "a b"}, "jump"),
        ({"jump": "a,,b"}, "jump"),
        ({"jump_host_key": f"{KEY} {KEY}"}, "jump_host_key"),
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
