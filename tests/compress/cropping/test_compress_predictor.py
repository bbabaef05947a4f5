"""The foreground predictor: its size, its start, and that it learns to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from edgecompress import events
from edgecompress.compress.config import CompressConfig, PredictorTable
from edgecompress.compress.cropping.box_task import BoxTask
from edgecompress.compress.cropping.boxes import best_constant, iou, mean_iou
from edgecompress.compress.cropping.crop_sizes import (
    NEVER_SMALLER,
    best_sizes,
    choose_sizes,
    kept_sizes,
    needed_sides,
    wasted,
    with_sizes,
)
from edgecompress.compress.cropping.foreground import draw_boxes, predictor_spec, train_predictor
from edgecompress.compress.data.augment import Augment
from edgecompress.compress.data.loader import PhotoCache, runner_inputs, whole
from edgecompress.compress.data.photos import image_folder
from edgecompress.compress.networks.export import save_network
from edgecompress.compress.networks.families.predictor import ForegroundPredictor
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.training.learn import Compression
from edgecompress.compress.training.material import IMAGENET_PIXELS, gather
from edgecompress.compress.training.tasks import Held, run_batched
from edgecompress.compress.training.train import Recipe, train
from edgecompress.compress.training.workbook import Done, Workbook
from edgecompress.errors import UsageError
from edgecompress.runner.photo import crop_box, size_index


@settings(deadline=None)
@given(st.floats(0.1, 7), st.floats(0.1, 7))
def test_the_predictor_is_the_largest_that_may_be(a: float, b: float) -> None:
    less, more = sorted((1e6 * a, 1e6 * b))
    table = PredictorTable()
    small, large = predictor_spec(table, less), predictor_spec(table, more)
    assert small.macs <= large.macs
    least = predictor_spec(table, 0.0)
    assert small.macs <= max(less, least.macs)
    # Not much is left unused: the next larger one is not twice as large.
    assert small.macs == least.macs or small.macs > 0.5 * less


def test_what_the_job_says_of_the_predictor_is_kept() -> None:
    table = PredictorTable(resolution=72)
    assert predictor_spec(table, 5e6).resolution == 72
    table = PredictorTable(resolution=96, width=1.0)
    spec = predictor_spec(table, 1.0)
    assert (spec.resolution, spec.width) == (96, 1.0)


@pytest.mark.parametrize("box", [(0.2, 0.1, 0.9, 0.6), (0.0, 0.0, 1.0, 1.0), (0.9, 0.9, 0.9, 0.9)])
def test_a_fresh_predictor_begins_at_a_box(box: tuple[float, float, float, float]) -> None:
    network = ForegroundPredictor(0.5, 0.5, 32)
    network.begin_at(box)
    found = network.eval()(torch.randn(8, 3, 32, 32))
    # Within what keeps the sigmoids' slopes.
    torch.testing.assert_close(found, torch.tensor(box).expand(8, 4), atol=0.11, rtol=0)


def _patches(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Photos uint8 `[n, 3, 32, 32]` of one bright patch each, and its box."""
    generator = Generator().manual_seed(seed)
    photos = torch.randint(0, 80, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    near = torch.randint(0, 14, (count, 2), generator=generator)
    far = near + torch.randint(10, 18, (count, 2), generator=generator)
    for photo, (x0, y0), (x1, y1) in zip(photos, near.tolist(), far.tolist(), strict=True):
        photo[:, y0:y1, x0:x1] += 120
    return photos, torch.cat([near, far], dim=1) / 32


def test_the_predictor_sees(tmp_path: Path) -> None:
    photos, boxes = _patches(128, 0)
    seen, wanted = _patches(64, 1)
    task = BoxTask(
        cache=PhotoCache(tuple(photos), torch.zeros(128, dtype=torch.int64), (), ()),
        boxes=boxes,
        resolution=32,
        preprocess=IMAGENET_PIXELS,
        augment=Augment((0.5, 1.0)),
        kind="giou",
        held=Held(seen.permute(0, 2, 3, 1), wanted),
    )
    network = ForegroundPredictor(0.5, 0.5, 32)
    network.begin_at(boxes.mean(0).tolist())
    recipe = Recipe(epochs=6, batch=16, rate=0.005, optimizer="adamw", decay=0.01)
    outcome = train(network, task, recipe, tmp_path / "checkpoint", "predictor")
    constant = mean_iou(best_constant(boxes), wanted)
    assert outcome.measures[-1] > constant + 0.1
    found = run_batched(network, task.held.inputs, IMAGENET_PIXELS)
    assert outcome.measures[-1] == pytest.approx(iou(found, wanted).mean().item(), abs=1e-5)
    # It has not become "the whole photo".
    assert (found[:, 2:] - found[:, :2]).prod(1).mean() < 0.5


def _compression(shapes, work: Path, **predictor: Any) -> tuple[Compression, Done]:
    """One compression whose base is drawn by lot, as far as its boxes."""
    table = {"resolution": 32, "width": 0.5, "cam_resolution": 64, "epochs": 1, **predictor}
    config = CompressConfig.model_validate(
        {
            "held_out": 0.25,
            "base": {"family": "resnet18", "width": 0.125, "resolution": 48},
            "predictor": table,
        }
    )
    work.mkdir()
    train_set, val = (image_folder(path) for path in shapes)
    one = Compression(config, gather(config, train_set, val, work), Workbook(work))
    spec = config.base.spec(2)
    save_network(work / "base.pt", spec, one.build(spec).eval())
    return one, Done("of the base", {})


def test_boxes_and_predictor_are_told_with_their_marks(shapes, tmp_path: Path) -> None:
    one, base = _compression(shapes, tmp_path / "grad")
    drawn = draw_boxes(one, base)
    assert draw_boxes(one, base) == drawn
    boxes = torch.load(one.book.path("boxes.pt"), weights_only=True)
    assert len(boxes["fit"]) == len(one.material.fit_cache)
    constant = torch.tensor(drawn.result["constant"])
    found = drawn.result
    assert found["constant_iou"] == pytest.approx(mean_iou(constant, boxes["held"]), abs=1e-3)
    assert 0 < found["mirrored_iou"] < 1
    said: list[str] = []
    with events.listening(lambda event: said.append(event.text)):
        predictor = train_predictor(one, drawn).result
    assert predictor["constant_iou"] == found["constant_iou"]
    assert predictor["share_of_base"] == pytest.approx(
        predictor["macs"] / one.load("base")[0].macs, abs=1e-5
    )
    assert any("more than the 3.0%" in text for text in said)
    seen = runner_inputs(one.material.held, one.material.held_cache.positions, whole, 32)
    again = run_batched(one.load("predictor")[1], seen, IMAGENET_PIXELS)
    assert predictor["held_out"] == pytest.approx(iou(again, boxes["held"]).mean().item(), abs=1e-4)
    # Whatever else has drawn random numbers: the same seed, the same predictor.
    twin, base = _compression(shapes, tmp_path / "twin")
    torch.manual_seed(99)
    train_predictor(twin, draw_boxes(twin, base))
    weights = [each.load("predictor")[1].state_dict() for each in (one, twin)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    # Averages and one linear layer: both kinds of maps are the same.
    plain, base = _compression(shapes, tmp_path / "plain", cam="plain")
    assert draw_boxes(plain, base).fingerprint != drawn.fingerprint
    others = torch.load(plain.book.path("boxes.pt"), weights_only=True)
    assert iou(boxes["held"], others["held"]).mean() > 0.99
    # What is above a higher threshold lies inside.
    tight, base = _compression(shapes, tmp_path / "tight", threshold=0.7)
    assert draw_boxes(tight, base).result["mean_area"] < drawn.result["mean_area"]
    others = torch.load(tight.book.path("boxes.pt"), weights_only=True)
    assert (others["held"][:, :2] >= boxes["held"][:, :2]).all()
    assert (others["held"][:, 2:] <= boxes["held"][:, 2:]).all()
    # One map instead of six.
    rough, base = _compression(shapes, tmp_path / "rough", smooth=False)
    draw_boxes(rough, base)
    others = torch.load(rough.book.path("boxes.pt"), weights_only=True)
    assert iou(boxes["held"], others["held"]).mean() < 0.99


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_sizes_waste_least(seed: int, count: int) -> None:
    sides = np.random.default_rng(seed).beta(2, 3, 40)
    sizes = best_sizes(sides, count)
    assert 1 <= len(sizes) <= count
    assert sizes[-1] == 1
    assert list(sizes) == sorted(set(sizes))
    least = wasted(sides, sizes)
    # What a crop takes, photo by photo, and that no neighbouring choice is better.
    taken = [next(size for size in sizes if size >= side) for side in sides]
    assert least == pytest.approx(np.mean(np.square(taken) - np.square(sides)))
    assert set(taken) | {1.0} == set(sizes)
    for index in range(len(sizes) - 1):
        for step in (-1 / 16, 1 / 16):
            moved = sorted({*sizes[:index], sizes[index] + step, *sizes[index + 1 :]})
            if moved[0] >= 0.25:
                assert wasted(sides, moved) >= least - 1e-12


def test_sides_that_no_crop_takes_are_none() -> None:
    assert best_sizes(np.full(20, 0.99)) == NEVER_SMALLER
    assert best_sizes(np.full(20, 0.3)) == (0.3125, 1.0)


def test_needed_sides_are_those_of_the_runner() -> None:
    rng = np.random.default_rng(0)
    near = rng.random((60, 2)) * 0.6
    boxes = np.concatenate([near, near + rng.random((60, 2)) * (1 - near)], axis=1)
    shapes = [(int(w), int(h)) for w, h in rng.integers(200, 900, (60, 2))]
    sizes = (0.25, 0.5, 0.75, 1.0)
    taken = np.searchsorted(sizes, needed_sides(boxes, shapes))
    theirs = [size_index(box, *shape, sizes) for box, shape in zip(boxes, shapes, strict=True)]
    # The runner rounds sides to whole pixels.
    assert np.mean(taken == theirs) > 0.95


def test_the_job_may_leave_sizes_to_the_photos(shapes, tmp_path: Path) -> None:
    config = PredictorTable.model_validate({"sizes": "auto"})
    assert config.sizes == ()
    assert PredictorTable.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(UsageError, match="0 boxes"):
        best_sizes(np.zeros(0))
    one, _ = _compression(shapes, tmp_path / "sizes", sizes="auto")
    network = ForegroundPredictor(0.5, 0.5, 32)
    network.begin_at((0.3, 0.3, 0.6, 0.6))
    spec = NetworkSpec("foreground_predictor", 0.5, 0.5, 32, 4)
    save_network(one.book.path("predictor.pt"), spec, network.eval())
    done = choose_sizes(one, Done("of the predictor", {}))
    # All boxes are about 0.3 wide: a size a little above is among them.
    assert any(0.3 < size < 0.45 for size in done.result["sizes"])
    assert done.result["wasted"] < done.result["fixed_wasted"]
    told, again = with_sizes(one, Done("of the predictor", {}))
    assert again == done
    sized = told.settings.predictor.sizes
    assert sized == tuple(done.result["sizes"])
    assert with_sizes(told, done) == (told, None)
    assert kept_sizes(one) == kept_sizes(told) == sized
    assert len(crop_box((0.3, 0.3, 0.6, 0.6), 64, 48, sized)) == 4
