"""Crops against true boxes: the numbers by hand, the runner's own path, the verb and the page."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from edgecompress.bench import crops, crops_page
from edgecompress.cli.main import app
from edgecompress.compress.data.true_boxes import BoxedPhotos, find_boxed, read_boxed
from edgecompress.compress.networks.export import save_network
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.errors import InputError, UsageError
from edgecompress.files import write_json
from edgecompress.runner.cascade import classify
from edgecompress.runner.photo import Box, decode
from edgecompress.runner.spec import Cascade, Predictor, Preprocess, Stage

SPEC = NetworkSpec("foreground_predictor", 0.5, 1.0, 32, 4)
CASCADE = Cascade(
    name="made-up",
    labels=("disc", "n00000002"),
    preprocess=Preprocess((120.0, 120.0, 120.0), (60.0, 60.0, 60.0)),
    predictor=Predictor("predictor", 32, (0.25, 0.5, 0.75, 1.0), SPEC.macs, SPEC.params),
    stages=(Stage("small", 32, 0.875, None, 1.0, 1000, 10),),
    criterion="margin",
    accumulate=True,
    alpha=1.6,
    origin={},
)
SIZES = [(80, 60), (60, 80), (64, 64), (90, 41), (33, 70), (80, 60)]
# Objects as shares of the photo; two photos have two.
OBJECTS = [
    [(0.0, 0.0, 0.5, 0.5)], [(0.5, 0.5, 1.0, 1.0)], [(0.2, 0.1, 0.9, 0.8)],
    [(0.0, 0.2, 0.3, 0.6), (0.7, 0.1, 0.9, 0.9)], [(0.1, 0.1, 0.4, 0.4), (0.3, 0.2, 0.6, 0.7)],
    [(0.4, 0.4, 0.6, 0.6)],
]  # fmt: skip


@pytest.fixture
def boxed(tmp_path: Path) -> Path:
    """A folder of six photos with true boxes; the classes are disc, square (n00000002), cone."""
    rng = np.random.default_rng(3)
    root = tmp_path / "boxed"
    root.mkdir()
    rows = [["file", "class_index", "wnid", "width", "height", "boxes_xyxy"]]
    for index, ((width, height), objects) in enumerate(zip(SIZES, OBJECTS, strict=True)):
        name = f"{index}.png"
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / name)
        pixels = [[x0 * width, y0 * height, x1 * width, y1 * height] for x0, y0, x1, y1 in objects]
        wnid = f"n0000000{index % 3 + 1}"
        rows.append([name, str(index % 3), wnid, str(width), str(height), json.dumps(pixels)])
    _table(root, rows)
    (root / "classes.csv").write_text("class_index,name\n0,Disc\n1,square\n2,<b>cone\n")
    return root


def _table(root: Path, rows: list[list[str]]) -> None:
    with (root / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cascade folder whose predictor has random weights that give boxes of many sizes."""
    out = tmp_path / "cascade"
    out.mkdir()
    torch.manual_seed(1)
    network = SPEC.build()
    with torch.no_grad():
        for layer in network.regressor:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(6)
    save_network(out / "predictor.pt", SPEC, network)
    write_json(out / "cascade.json", CASCADE.to_json())
    return out


def _always(*box: float) -> crops.Predict:
    return lambda photos: np.array([box] * len(photos), np.float32)


def _numbers(told: dict, region: str, group: int = 0) -> dict[str, float]:
    rows = told["groups"][group]["regions"]
    row = next(one for one in rows if one["region"] == region)
    return {measure: row[measure]["mean"] for measure in crops.MEASURES}


def test_overlap_by_hand() -> None:
    # A region of 40 x 40, objects of 20 x 20 inside it and of 40 x 20 half inside, apart.
    got = crops.overlap((0, 0, 40, 40), [(0, 0, 20, 20), (20, 20, 60, 40)], 100, 50)
    assert got.iou == pytest.approx(1600 / (1600 + 2400 - 1600))  # hull: 60 x 40
    assert got.iou_best == pytest.approx(max(400 / 1600, 400 / (1600 + 800 - 400)))
    assert got.recall == pytest.approx((400 + 400) / 1200)
    assert got.kept == pytest.approx(1600 / 5000)
    apart = crops.overlap((50, 0, 60, 10), [(0, 0, 20, 20)], 100, 50)
    assert (apart.iou, apart.iou_best, apart.recall) == (0, 0, 0)


_SPAN = st.lists(st.integers(0, 12), min_size=2, max_size=2, unique=True).map(sorted)
_BOX = st.tuples(_SPAN, _SPAN).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))


@settings(max_examples=60)
@given(region=_BOX, objects=st.lists(_BOX, min_size=1, max_size=6))
def test_overlap_is_what_counting_pixels_gives(region: Box, objects: list[Box]) -> None:
    def painted(*boxes: Box) -> np.ndarray:
        canvas = np.zeros((12, 12), bool)
        for x0, y0, x1, y1 in boxes:
            canvas[int(y0) : int(y1), int(x0) : int(x1)] = True
        return canvas

    def meet(a: np.ndarray, b: np.ndarray) -> float:
        return (a & b).sum() / (a | b).sum()

    mask, there = painted(region), painted(*objects)
    ys, xs = np.nonzero(there)
    hull = painted((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
    got = crops.overlap(region, objects, 12, 12)
    assert got.iou == pytest.approx(meet(mask, hull), abs=1e-6)
    assert got.iou_best == pytest.approx(max(meet(mask, painted(o)) for o in objects), abs=1e-6)
    assert got.recall == pytest.approx((mask & there).sum() / there.sum())
    assert got.kept == pytest.approx(mask.mean())


def test_a_predictor_that_knows_everything(boxed: Path) -> None:
    """Told the true boxes, it meets them exactly; its crop holds them where a square can."""
    photos = read_boxed(boxed)
    hulls = np.array([[*np.min(one, 0)[:2], *np.max(one, 0)[2:]] for one in OBJECTS])
    looked = crops.look(CASCADE, lambda _: hulls, photos)
    told = crops.document(looked, photos)
    assert _numbers(told, "predictor")["iou"] == pytest.approx(1)
    assert _numbers(told, "predictor")["recall"] == pytest.approx(1)
    whole = _numbers(told, "whole")
    assert (whole["recall"], whole["kept"]) == (pytest.approx(1), pytest.approx(1))
    fitting = [s for s in looked.sights if max(s.width, s.height) < 1.5 * min(s.width, s.height)]
    assert [
        crops.overlap(s.regions["crop"], s.objects, s.width, s.height).recall for s in fitting
    ] == pytest.approx([1] * len(fitting))
    gain = next(
        one for one in told["groups"][0]["crop_against"] if one["region"] == "whole"
    )["iou"]  # fmt: skip
    assert gain["mean"] == pytest.approx(_numbers(told, "crop")["iou"] - whole["iou"])


def test_groups_means_and_standard_errors(boxed: Path) -> None:
    photos = read_boxed(boxed)
    looked = crops.look(CASCADE, _always(0.0, 0.0, 0.5, 0.5), photos)
    told = crops.document(looked, photos)
    everything, known = told["groups"]
    assert (everything["n"], known["n"]) == (6, 4)  # a name and a WordNet id; not the cone
    per_photo = [
        crops.overlap(s.regions["crop"], s.objects, s.width, s.height).recall for s in looked.sights
    ]
    for group, own in ((everything, per_photo), (known, [per_photo[i] for i in (0, 1, 3, 4)])):
        row = next(one for one in group["regions"] if one["region"] == "crop")["recall"]
        assert row["mean"] == pytest.approx(np.mean(own))
        assert row["se"] == pytest.approx(np.std(own, ddof=1) / math.sqrt(len(own)))
    assert sum(everything["size_shares"]) == pytest.approx(1)
    assert len(crops.rows_of(told)) == 2 * len(everything["regions"])
    json.dumps(told, allow_nan=False)


def test_a_box_that_is_none_counts_as_the_whole_photo(boxed: Path) -> None:
    photos = read_boxed(boxed)
    told = crops.document(crops.look(CASCADE, _always(math.nan, 0, 1, 1), photos), photos)
    assert told["without_prediction"] == 6
    assert _numbers(told, "predictor") == _numbers(told, "whole")
    assert _numbers(told, "crop") == _numbers(told, "same_size")
    assert "gave no box" in " ".join(crops.sentences(told))


def test_no_class_in_common(boxed: Path) -> None:
    photos = read_boxed(boxed)
    other = replace(CASCADE, labels=("car", "boat"))
    told = crops.document(crops.look(other, _always(0, 0, 1, 1), photos), photos)
    assert told["groups"][1] == {
        "group": "known", "n": 0, "size_shares": None, "regions": [], "crop_against": [],
    }  # fmt: skip
    assert "no photo is of a class that the cascade knows" in crops.sentences(told)


def test_photos_that_cannot_be_compared_are_counted(boxed: Path) -> None:
    (boxed / "0.png").write_bytes(b"nothing")
    Image.new("RGB", (60, 81)).save(boxed / "1.png")
    rows = list(csv.reader((boxed / "labels.csv").open()))
    rows[3][-1] = "[]"
    _table(boxed, rows)
    photos = read_boxed(boxed)
    told = crops.document(crops.look(CASCADE, _always(0, 0, 1, 1), photos), photos)
    assert [one["file"] for one in told["failed"]] == ["0.png", "1.png"]
    assert "60x81" in told["failed"][1]["error"] and "60x80" in told["failed"][1]["error"]
    assert (told["without_boxes"], told["groups"][0]["n"]) == (1, 3)
    empty = replace(photos, boxes=((),) * 6)
    with pytest.raises(InputError, match="no photo of boxed"):
        crops.look(CASCADE, _always(0, 0, 1, 1), empty)


def test_a_network_that_gives_no_box(boxed: Path) -> None:
    with pytest.raises(InputError, match="'predictor' gives"):
        crops.look(CASCADE, lambda _: np.zeros((6, 10), np.float32), read_boxed(boxed))


def test_it_looks_where_the_runner_looks(folder: Path, boxed: Path) -> None:
    cascade, predict = crops.open_predictor(str(folder))
    photos = read_boxed(boxed)
    looked = crops.look(cascade, predict, photos)

    def network(name: str, tensor: np.ndarray) -> np.ndarray:
        return predict(tensor) if name == "predictor" else np.zeros((1, 2), np.float32)

    for sight in looked.sights:
        outcome = classify(cascade, decode(photos.photos.paths[sight.index]), network)
        assert sight.regions["crop"] == outcome.box
        assert sight.size == outcome.size
    assert len({sight.size for sight in looked.sights}) > 1


def test_the_verb_and_its_page(folder: Path, boxed: Path, tmp_path: Path) -> None:
    page, out = tmp_path / "crops.html", tmp_path / "crops.json"
    argv = ["bench", "crops", str(folder), "--photos", str(boxed)]
    shown = CliRunner().invoke(app, [*argv, "--page", str(page), "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "largest centred square" not in shown.output and "88 %" in shown.output
    assert str(page) in shown.output.replace("\n", "")
    told = json.loads(out.read_text())
    again = CliRunner().invoke(app, [*argv, "--json"])
    assert json.loads(again.stdout) == told
    html = page.read_text()
    assert html.count("<image href") == 6
    assert "&lt;b&gt;cone" in html and "<b>cone" not in html
    assert html.count('class="true"') == sum(map(len, OBJECTS))
    for cell in crops.rows_of(told)[0]:
        assert cell in html


def test_pictures_go_from_the_worst_crop_to_the_best(boxed: Path) -> None:
    photos: BoxedPhotos = read_boxed(boxed)
    looked = crops.look(CASCADE, _always(0.0, 0.0, 0.4, 0.4), photos)
    recalls = [one.overlap.recall for one in crops_page.choose(looked, photos)]
    assert recalls == sorted(recalls) and recalls[0] < recalls[-1]
    few = crops_page.choose(looked, photos, 2)
    assert [one.overlap.recall for one in few] == [recalls[0], recalls[-1]]
    assert len(crops_page.choose(looked, photos, 1)) == 1


def test_a_cascade_without_predictor(folder: Path, boxed: Path) -> None:
    write_json(folder / "cascade.json", replace(CASCADE, predictor=None).to_json())
    with pytest.raises(UsageError, match="no foreground predictor") as raised:
        crops.open_predictor(str(folder))
    assert 'crop = "always"' in raised.value.hint
    shown = CliRunner().invoke(app, ["bench", "crops", str(folder), "--photos", str(boxed)])
    assert shown.exit_code == 2


def test_a_cascade_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="unknown cascade 'nothing-here'"):
        crops.open_predictor("nothing-here")


def test_another_network_in_the_predictors_place(folder: Path) -> None:
    other = replace(SPEC, resolution=48)
    save_network(folder / "predictor.pt", other, other.build())
    with pytest.raises(InputError, match="is not the network of"):
        crops.open_predictor(str(folder))


@pytest.mark.slow
def test_the_real_photos(data_root: Path) -> None:
    """The whole photo holds every object, and the centre crop most of each."""
    photos = find_boxed("imagenet-val", data_root)
    told = crops.document(crops.look(CASCADE, _always(0, 0, 1, 1), photos), photos)
    assert (told["failed"], told["without_boxes"], told["groups"][0]["n"]) == ([], 0, 500)
    assert _numbers(told, "whole")["recall"] == pytest.approx(1)
    assert 0.7 < _numbers(told, "centre_0.875")["recall"] < 1
