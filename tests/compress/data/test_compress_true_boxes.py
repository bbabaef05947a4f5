"""`labels.csv` with true boxes: what is read, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.compress.data.true_boxes import find_boxed, read_boxed
from edgecompress.errors import InputError

HEAD = ["file", "class_index", "wnid", "width", "height", "boxes_xyxy"]


def _write(root: Path, *rows: list[str], head: list[str] = HEAD) -> Path:
    root.mkdir(exist_ok=True)
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([head, *rows])
    (root / "classes.csv").write_text("class_index,name\n0,chain_saw\n1,tench\n2,Crane\n")
    return root


def _row(boxes: str, width: str = "100", height: str = "50") -> list[str]:
    return ["a.jpg", "0", "n03000684", width, height, boxes]


def test_boxes_are_read_and_cut_at_the_edges(tmp_path: Path) -> None:
    root = _write(
        tmp_path,
        _row("[[1.5, 2, 30, 40], [-3, -0.5, 130, 50.4]]"),
        ["b.jpg", "1", "n01440764", "7", "9", ""],
    )
    found = read_boxed(root)
    assert found.boxes == (((1.5, 2, 30, 40), (0, 0, 100, 50)), ())
    assert found.sizes == ((100, 50), (7, 9))
    assert found.photos.paths[0] == root / "a.jpg"
    assert found.wnids == ("n03000684", "n01440764")


def test_which_photos_are_of_known_classes(tmp_path: Path) -> None:
    root = _write(
        tmp_path, _row("[]"), ["b.jpg", "1", "n01440764", "7", "9", ""],
        ["c.jpg", "2", "n02012849", "7", "9", ""],
    )  # fmt: skip
    found = read_boxed(root)
    assert found.known(["Chain Saw", "dog"]) == (True, False, False)
    assert found.known(["n01440764"]) == (False, True, False)
    assert found.known(["crane, machine (n03126707)", "crane bird (n02012849)"])[2]
    assert found.known([]) == (False, False, False)


@pytest.mark.parametrize(
    ("boxes", "cause"),
    [
        ("[[1, 2, 3", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"x": 1}', "not a list"),
        (json.dumps([[0, 0, 1, 1]] * 1001), "at most 1000"),
        ("[[1, 2, 3]]", "four numbers"),
        ('[[1, 2, 3, "4"]]', "four numbers"),
        ("[[true, 2, 3, 4]]", "four numbers"),
        ("[[NaN, 2, 3, 4]]", "four numbers"),
        ("[[0, 0, Infinity, 4]]", "four numbers"),
        (f"[[0, 0, 1{'0' * 400}, 4]]", "four numbers"),
        ("[[5, 2, 5, 4]]", "nothing in it"),
        ("[[30, 2, 5, 4]]", "nothing in it"),
        ("[[200, 2, 300, 4]]", "nothing in it"),
    ],
)
def test_a_damaged_box_names_its_row(tmp_path: Path, boxes: str, cause: str) -> None:
    with pytest.raises(InputError, match=f"line 3: boxes_xyxy.*{cause}") as raised:
        read_boxed(_write(tmp_path, _row("[[0, 0, 5, 5]]"), _row(boxes)))
    assert "docs/data.md" in raised.value.hint


@pytest.mark.parametrize("size", ["", "-4", "0", "1e3", "9" * 10_000, "\N{SUPERSCRIPT TWO}"])
def test_a_size_that_is_none(tmp_path: Path, size: str) -> None:
    with pytest.raises(InputError, match="line 2: height"):
        read_boxed(_write(tmp_path, _row("[]", height=size)))


def test_a_table_without_boxes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no true boxes: no column boxes_xyxy"):
        read_boxed(_write(tmp_path, _row("[]")[:5], head=HEAD[:5]))
    with pytest.raises(InputError, match=r"labels\.csv"):
        read_boxed(tmp_path / "nowhere")


def test_no_photos_with_boxes_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGECOMPRESS_DATA", raising=False)
    with pytest.raises(InputError) as raised:
        find_boxed("imagenet-val", tmp_path)
    assert "EDGECOMPRESS_DATA" in raised.value.hint


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(cell=st.one_of(_JSON.map(json.dumps), st.text(max_size=40)))
def test_any_cell_is_boxes_inside_the_photo_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cell: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "any-cell"
    try:
        _write(root, _row(cell))
    except UnicodeEncodeError:
        return
    try:
        boxes = read_boxed(root).boxes[0]
    except InputError:
        return
    assert all(0 <= x0 < x1 <= 100 and 0 <= y0 < y1 <= 50 for x0, y0, x1, y1 in boxes)


def test_the_real_table(data_root: Path) -> None:
    found = find_boxed("imagenet-val", data_root)
    assert len(found) == 500
    assert all(found.boxes)
    assert all(max(box[2] for box in boxes) <= size[0] for boxes, size in zip(
        found.boxes, found.sizes, strict=True))  # fmt: skip
    tench = [wnid == "n01440764" for wnid in found.wnids]
    assert any(tench) and list(found.known(["tench"])) == tench
