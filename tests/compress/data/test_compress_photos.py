"""Photo sets: what is found, what is refused, what is left out and counted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgecompress import events
from edgecompress.compress.data.imagenet import class_names
from edgecompress.compress.data.loader import load_cache, runner_inputs, whole
from edgecompress.compress.data.photos import (
    PhotoSet,
    find_photos,
    image_folder,
    labelled_csv,
    photos_fingerprint,
    shared,
)
from edgecompress.errors import InputError


def test_a_tree_is_found_in_order(shapes) -> None:
    photos = find_photos(str(shapes[0]))
    assert photos.labels == ("disc", "square")
    assert len(photos) == 48
    assert list(photos.targets) == sorted(photos.targets)


def test_foolbox_has_twenty_labelled_photos() -> None:
    photos = find_photos("foolbox")
    assert len(photos) == 20
    assert photos.targets.count(609) == 2
    assert len(photos.labels) == 1000


def test_class_names_are_in_pytorchs_order() -> None:
    names = class_names()
    assert (names[0], names[217], names[999]) == ("tench", "English springer", "toilet tissue")
    assert len(set(names)) == 1000


@pytest.mark.parametrize("break_it", ["missing", "flat", "one", "empty"])
def test_unusable_trees_are_refused_with_a_hint(break_it: str, tmp_path: Path, shapes) -> None:
    root = tmp_path / "photos"
    photo = next((shapes[0] / "disc").iterdir())
    if break_it != "missing":
        root.mkdir()
    if break_it in ("one", "empty"):
        (root / "disc").mkdir()
        (root / "disc" / photo.name).write_bytes(photo.read_bytes())
    if break_it == "empty":
        (root / "square").mkdir()
    with pytest.raises(InputError) as caught:
        image_folder(root)
    assert caught.value.hint
    assert caught.value.exit_code == 3
    assert "\n" not in caught.value.message


def test_hidden_copies_are_no_photos_and_linked_folders_are_looked_into(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for path in (root / "a", root / "a/.ipynb_checkpoints", root / "b/deep", elsewhere):
        path.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path / "0.png")
    (root / "a" / ".0.png").symlink_to(root / "a" / "0.png")
    (root / "a" / "more").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(root / "a")
    found = image_folder(root)
    assert [str(path.relative_to(root)) for path in found.paths] == [
        "a/0.png",
        "a/more/0.png",
        "b/deep/0.png",
    ]


def test_a_photo_that_is_replaced_by_one_of_equal_size_is_another(tmp_path: Path) -> None:
    photo = tmp_path / "a" / "0.bmp"
    photo.parent.mkdir()
    photos = PhotoSet("set", (photo,), (0,), ("a", "b"))
    seen = [photos_fingerprint(photos)]  # it is not there yet
    for grey in (10, 200):
        Image.new("L", (8, 8), grey).save(photo)
        seen.append(photos_fingerprint(photos))
        assert photos_fingerprint(photos) == seen[-1]
    assert len(set(seen)) == 3


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / os.fsdecode(b"caf\xe9.png"))
    photos = image_folder(tmp_path)
    assert len(photos_fingerprint(photos)) == 64
    assert len(load_cache(photos, 8).targets) == 2


def test_a_class_whose_name_is_not_utf8(tmp_path: Path) -> None:
    """Names that are stay as they are, whatever is in them: kept trainings know them so."""
    names = (b"caf\xe9", "caf\xe9".encode(), "a\u200cb\u00a0c".encode(), b"n01440764")
    for folder in map(os.fsdecode, names):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "0.png")
    labels = image_folder(tmp_path).labels
    assert set(labels) == {"caf\\udce9", "caf\xe9", "a\u200cb\u00a0c", "tench"}
    assert "".join(labels).encode()


def test_links_are_no_other_photos(shapes, tmp_path: Path) -> None:
    photos = image_folder(shapes[1])
    link = tmp_path / "other.png"
    link.symlink_to(photos.paths[0])
    other = PhotoSet("other", (link, tmp_path / "missing.png", photos.paths[1]), (0,) * 3, ("a",))
    assert shared([photos], other) == 2
    assert shared([photos.take(range(2, 16))], other) == 0


def test_labelled_csv(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,class_index\na.jpg,1\nb.jpg,0\n")
    assert labelled_csv(tmp_path).labels == class_names()
    (tmp_path / "classes.csv").write_text("class_index,name\n0,cat\n1,dog\n")
    photos = find_photos(str(tmp_path))
    assert photos.targets == (1, 0)
    assert photos.labels == ("cat", "dog")


@pytest.mark.parametrize(
    "table",
    [
        "",
        "file,class_index\n",
        "file,class\na.jpg,1\n",
        "file,class_index\na.jpg,-1\n",
        "class_index,file\n1\n",
        "file,class_index\n,1\n",
        f"file,class_index\na.jpg,{'1' * 5000}\n",
    ],
)
def test_damaged_tables_are_refused(table: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(InputError):
        labelled_csv(tmp_path)


def test_a_class_without_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,class_index\na.jpg,1\n")
    (tmp_path / "classes.csv").write_text("class_index,name\n0\n1,dog\n")
    with pytest.raises(InputError, match="row 1 has no name"):
        labelled_csv(tmp_path)


def test_absent_sets_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGECOMPRESS_DATA", raising=False)
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    with pytest.raises(InputError) as caught:
        find_photos("imagenette/val")
    assert "edgecompress data get imagenette" in caught.value.hint
    with pytest.raises(InputError):
        find_photos("imagenet-val", tmp_path)


def _set(counts: list[int]) -> PhotoSet:
    targets = tuple(i for i, count in enumerate(counts) for _ in range(count))
    paths = tuple(Path(f"{i}.jpg") for i in range(len(targets)))
    return PhotoSet("made up", paths, targets, tuple(map(str, range(len(counts)))))


@given(st.lists(st.integers(2, 40), min_size=2, max_size=6), st.floats(0.01, 0.8), st.integers())
def test_held_out_photos_are_apart_and_of_every_class(
    counts: list[int], share: float, seed: int
) -> None:
    photos = _set(counts)
    rest, held = photos.hold_out(share, seed)
    assert set(rest.paths) | set(held.paths) == set(photos.paths)
    assert not set(rest.paths) & set(held.paths)
    assert set(rest.targets) == set(held.targets) == set(photos.targets)
    assert photos.hold_out(share, seed)[1] == held


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 300))
def test_limits_spread_over_the_set(counts: list[int], limit: int) -> None:
    photos = _set(counts)
    some = photos.limit(limit)
    assert len(some) == min(limit, len(photos))
    assert list(some.targets) == sorted(some.targets)
    assert len(set(some.paths)) == len(some)


def test_odd_photos_load_and_broken_ones_are_counted(tmp_path: Path) -> None:
    gray = np.linspace(0, 255, 64 * 48).reshape(48, 64)
    Image.fromarray(gray.astype(np.uint8)).save(tmp_path / "gray.png")
    Image.fromarray((gray * 257).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(gray.astype(np.uint8)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(gray.astype(np.uint8)).convert("RGBA").save(tmp_path / "alpha.png")
    whole_file = (tmp_path / "cmyk.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole_file[: len(whole_file) // 2])
    (tmp_path / "text.jpg").write_text("not a photo")
    names = ("gray.png", "deep.png", "cmyk.jpg", "alpha.png", "truncated.jpg", "text.jpg", "no.jpg")
    paths = tuple(tmp_path / name for name in names)
    photos = PhotoSet("odd", paths, (0, 1, 0, 1, 0, 1, 0), ("a", "b"))
    told: list[events.Event] = []
    with events.listening(told.append):
        cache = load_cache(photos, 32)
    assert [path.name for path, _ in cache.failed] == ["truncated.jpg", "text.jpg", "no.jpg"]
    assert cache.positions == (0, 1, 2, 3)
    assert cache.targets.tolist() == [0, 1, 0, 1]
    assert all(photo.shape == (3, 32, 43) for photo in cache.pixels)
    assert any(event.kind == "warning" and "3 photos" in event.text for event in told)
    # 16 bits and 8 bits of the same ramp are the same picture.
    assert (cache.pixels[0].int() - cache.pixels[1].int()).abs().max() <= 1


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png"])
def test_of_a_moving_picture_the_first_frame_is_seen(name: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 40), color) for color in ((200, 30, 30), (30, 200, 30))]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100)
    with Image.open(tmp_path / name) as image:
        assert getattr(image, "n_frames", 1) == 2
    photos = PhotoSet("moving", (tmp_path / name,) * 2, (0, 1), ("a", "b"))
    pixels = load_cache(photos, 32).pixels[0].float().mean((1, 2))
    assert torch.allclose(pixels, torch.tensor([200.0, 30.0, 30.0]), atol=4)


def test_a_set_of_broken_photos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no")
    photos = PhotoSet("broken", (tmp_path / "a.jpg",), (0,), ("a", "b"))
    with pytest.raises(InputError, match="not one photo"):
        load_cache(photos, 32)


def test_cached_views_are_the_runners_within_a_level(shapes) -> None:
    photos = find_photos(str(shapes[1]))
    cache = load_cache(photos, 1000)
    indices = list(range(len(cache)))
    squashed = cache.squashed(indices, 24).permute(0, 2, 3, 1)
    exact = runner_inputs(photos, cache.positions, whole, 24)
    assert (squashed.to(torch.int16) - exact.to(torch.int16)).abs().max() <= 1
