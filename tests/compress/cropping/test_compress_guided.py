"""A predictor that draws maps and names classes while it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.compress.cropping.box_task import BoxTask
from edgecompress.compress.cropping.guided import CELLS, Guided, guide_loss, guides_of
from edgecompress.compress.data.augment import Augment
from edgecompress.compress.data.loader import PhotoCache
from edgecompress.compress.networks.families.predictor import EDGES, ForegroundPredictor
from edgecompress.compress.recipe import Recipe
from edgecompress.compress.training.material import IMAGENET_PIXELS
from edgecompress.compress.training.tasks import Held
from edgecompress.compress.training.train import train

CLASSES = 3


def test_in_use_it_is_the_predictor_alone() -> None:
    network = Guided(ForegroundPredictor(0.5, 0.5, 32), CLASSES)
    photos = torch.randn(5, 3, 32, 32)
    learning = network.train()(photos)
    assert learning.shape == (5, EDGES + CELLS**2 + CLASSES)
    assert (learning[:, :2] <= learning[:, 2:EDGES]).all()
    network.eval()
    torch.testing.assert_close(network(photos), network.predictor(photos))


def test_a_whole_view_has_the_whole_map() -> None:
    maps = torch.rand(4, 16, 16)
    told = guides_of(maps, torch.tensor([[0.0, 0, 1, 1]]).repeat(4, 1), torch.arange(4))
    cells = told[:, :-1].reshape(4, CELLS, CELLS)
    torch.testing.assert_close(cells, F.avg_pool2d(maps, 2))
    assert told[:, -1].tolist() == [0, 1, 2, 3]


_edge = st.floats(0, 1)


@settings(deadline=None)
@given(_edge, _edge, _edge, _edge)
def test_a_mirrored_view_has_the_mirrored_map(x0: float, y0: float, x1: float, y1: float) -> None:
    maps = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    straight, mirrored = (
        guides_of(maps, torch.tensor([region]), torch.zeros(1))[0, :-1].reshape(CELLS, CELLS)
        for region in ((x0, y0, x1, y1), (x1, y0, x0, y1))
    )
    torch.testing.assert_close(straight.flip(1), mirrored)


def test_a_part_sees_its_part() -> None:
    maps = torch.zeros(1, 16, 16)
    maps[:, :8, 8:] = 1  # the upper right quarter
    region = torch.tensor([[0.5, 0.0, 1.0, 0.5]])
    assert guides_of(maps, region, torch.zeros(1))[0, :-1].min() > 0.5
    other = torch.tensor([[0.0, 0.5, 0.5, 1.0]])
    assert guides_of(maps, other, torch.zeros(1))[0, :-1].max() < 0.5


def test_the_loss_is_least_where_both_are_right() -> None:
    wanted = torch.cat(
        [torch.zeros(6, EDGES), torch.rand(6, CELLS**2).round(), torch.ones(6, 1)], 1
    )
    right = torch.cat([wanted[:, :-1] * 20 - 10, torch.tensor([[-9.0, 9, -9]]).repeat(6, 1)], dim=1)
    assert guide_loss(right, wanted, 0.0) < 1e-3
    for wrong in (slice(EDGES, EDGES + CELLS**2), slice(EDGES + CELLS**2, None)):
        other = right.clone()
        other[:, wrong] *= -1
        assert guide_loss(other, wanted, 0.0) > 1


@pytest.mark.parametrize("guided", [False, True])
def test_both_kinds_learn_boxes(guided: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    photos = torch.randint(0, 80, (64, 3, 32, 32), dtype=torch.uint8)
    left = torch.arange(64) % 2 == 0
    photos[left, :, :, :16] += 120
    photos[~left, :, :, 16:] += 120
    boxes = torch.tensor([[0.5, 0.0, 1.0, 1.0]]).repeat(64, 1)
    boxes[left] = torch.tensor([0.0, 0.0, 0.5, 1.0])
    maps = torch.zeros(64, 16, 16)
    maps[left, :, :8] = 1
    maps[~left, :, 8:] = 1
    task = BoxTask(
        cache=PhotoCache(tuple(photos), left.long(), (), ()),
        boxes=boxes,
        resolution=32,
        preprocess=IMAGENET_PIXELS,
        augment=Augment((0.9, 1.0)),
        kind="l1+giou",
        held=Held(photos[:32].permute(0, 2, 3, 1), boxes[:32]),
        maps=maps if guided else None,
    )
    predictor = ForegroundPredictor(0.5, 0.5, 32)
    predictor.begin_at(boxes.mean(0).tolist())
    before = [one.clone() for one in predictor.parameters()]
    learner = Guided(predictor, 2) if guided else predictor
    recipe = Recipe(epochs=6, batch=16, rate=0.005, optimizer="adamw", decay=0.01)
    outcome = train(learner, task, recipe, tmp_path / "checkpoint", "predictor")
    assert outcome.measures[-1] > 0.75
    assert not any(map(torch.equal, before, predictor.parameters()))
