"""Activation maps, boxes and crops: geometry as properties."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from edgecompress.compress.choices import BoxLoss, CamKind
from edgecompress.compress.cropping.box_task import view_boxes
from edgecompress.compress.cropping.boxes import best_constant, box_loss, ciou, giou, iou, mean_iou
from edgecompress.compress.cropping.cam import cam_boxes, grad_cam, mean_maps, plain_cam
from edgecompress.compress.data.augment import Augment, draw, mixed_region, random_region
from edgecompress.compress.data.loader import PhotoCache
from edgecompress.compress.networks.families import Network
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.errors import UsageError

edges = st.lists(st.floats(0, 1), min_size=4, max_size=4)


def _box(values: list[float]) -> Tensor:
    x0, x1 = sorted(values[:2])
    y0, y1 = sorted(values[2:])
    return torch.tensor([[x0, y0, x1, y1]])


@pytest.mark.parametrize("family", ["resnet18", "mobilenet_v2", "efficientnet_lite0"])
def test_plain_cam_is_grad_cam_times_positions(family: str) -> None:
    network = NetworkSpec(family, 0.5, 1.0, 64, 5).build().eval()
    images = torch.randn(3, 3, 96, 96)
    targets = torch.tensor([0, 3, 4])
    slow = grad_cam(network, images, targets)
    fast = plain_cam(network, images, targets)
    positions = slow.shape[1] * slow.shape[2]
    torch.testing.assert_close(fast, slow * positions, rtol=1e-4, atol=1e-6)


class TwoLayers(Network):
    """A head that plain CAM cannot see through."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 4)
        self.head = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def forward_head(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


def test_plain_maps_refuse_other_heads() -> None:
    images, targets = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    with pytest.raises(UsageError, match="one linear layer"):
        mean_maps(TwoLayers(), [images], targets, 32, "plain")
    assert mean_maps(TwoLayers(), [images], targets, 32, "grad").shape == (2, 32, 32)


@pytest.mark.parametrize("kind", get_args(CamKind))
def test_maps_of_mirrored_photos_are_turned_back(kind: CamKind) -> None:
    network = NetworkSpec("resnet18", 0.25, 1.0, 64, 5).build().eval()
    views = [torch.randn(3, 3, side, side) for side in (64, 96)]
    targets = torch.tensor([0, 3, 4])
    straight = mean_maps(network, views, targets, 48, kind)
    turned = mean_maps(network, [one.flip(3) for one in views], targets, 48, kind, mirrored=True)
    torch.testing.assert_close(turned, straight.flip(2), rtol=1e-4, atol=1e-5)
    # Sizes count alike, whatever their maps' scale.
    alone = [mean_maps(network, [one], targets, 48, kind) for one in views]
    torch.testing.assert_close(straight, (alone[0] + alone[1]) / 2)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 6), st.integers(1, 6))
def test_a_rectangle_in_the_map_gives_its_box(x: int, y: int, width: int, height: int) -> None:
    maps = torch.zeros(1, 12, 12)
    maps[0, y : y + height, x : x + width] = 1.0
    found = cam_boxes(maps, 12)
    want = torch.tensor([[x, y, x + width, y + height]]) / 12
    torch.testing.assert_close(found, want)
    # Enlarged, the threshold cuts the slope half way: within half a position.
    torch.testing.assert_close(cam_boxes(maps, 96), want, atol=0.5 / 12 + 1e-6, rtol=0)


@given(st.integers(1, 7), st.integers(1, 7), st.floats(0.05, 0.95), st.integers(0, 1000))
def test_boxes_are_inside_and_hold_the_maximum(
    width: int, height: int, threshold: float, seed: int
) -> None:
    maps = torch.rand(4, height, width, generator=Generator().manual_seed(seed))
    boxes = cam_boxes(maps, 32, threshold)
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    # Scale and offset of a map do not matter.
    torch.testing.assert_close(boxes, cam_boxes(3 * maps + 5, 32, threshold), atol=0.04, rtol=0)


def test_a_flat_map_gives_the_whole_image() -> None:
    assert cam_boxes(torch.zeros(1, 3, 3), 16).tolist() == [[0, 0, 1, 1]]


@given(edges, edges)
def test_overlaps_are_symmetric_and_bounded(a: list[float], b: list[float]) -> None:
    first, second = _box(a), _box(b)
    one = iou(first, second)
    assert 0 <= one.item() <= 1 + 1e-5
    assert giou(first, second).item() <= one.item() + 1e-5
    assert giou(first, second).item() >= -1 - 1e-5
    torch.testing.assert_close(one, iou(second, first))


def test_overlap_of_known_boxes() -> None:
    left = torch.tensor([[0.0, 0.0, 0.5, 1.0]])
    right = torch.tensor([[0.25, 0.0, 0.75, 1.0]])
    apart = torch.tensor([[0.75, 0.0, 1.0, 1.0]])
    assert iou(left, left).item() == pytest.approx(1)
    assert iou(left, right).item() == pytest.approx(1 / 3)
    assert iou(left, apart).item() == 0
    assert giou(left, apart).item() == pytest.approx(-0.25)
    assert box_loss(left, right, "mse").item() == pytest.approx(0.03125)
    assert box_loss(left, apart, "giou").item() == pytest.approx(1.25)
    # Middles 0.25 apart, a diagonal of 0.75² + 1², the same aspect.
    assert ciou(left, right).item() == pytest.approx(1 / 3 - 0.0625 / 1.5625)
    wide = torch.tensor([[0.0, 0.0, 1.0, 0.5]])
    aspect = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    weight = aspect / (1 - 1 / 3 + aspect)
    assert ciou(left, wide).item() == pytest.approx(1 / 3 - 0.125 / 2 - weight * aspect)
    l1 = box_loss(left, apart, "l1+giou").item() - box_loss(left, apart, "giou").item()
    assert l1 == pytest.approx(1.25)


@given(edges, edges)
def test_complete_overlap_never_exceeds_overlap(a: list[float], b: list[float]) -> None:
    first, second = _box(a), _box(b)
    assert ciou(first, second).item() <= iou(first, second).item() + 1e-5
    loss = ciou(first.requires_grad_(), second).sum()
    assert torch.autograd.grad(loss, first)[0].isfinite().all()


@pytest.mark.parametrize("kind", get_args(BoxLoss))
def test_every_loss_leads_to_the_box(kind: BoxLoss) -> None:
    wanted = torch.tensor([[0.1, 0.2, 0.4, 0.9]])
    found = torch.tensor([[0.3, 0.1, 0.9, 0.6]], requires_grad=True)
    optimizer = torch.optim.Adam([found], lr=0.02)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 300)
        optimizer.zero_grad()
        box_loss(found, wanted, kind).backward()
        optimizer.step()
    assert iou(found, wanted).item() > 0.95


def test_the_best_constant_box() -> None:
    generator = Generator().manual_seed(0)
    near = 0.4 * torch.rand(100, 2, generator=generator)
    boxes = torch.cat([near, near + 0.2 + 0.4 * torch.rand(100, 2, generator=generator)], dim=1)
    best = mean_iou(best_constant(boxes), boxes)
    others = [boxes.mean(0), boxes.median(0).values, torch.tensor([0.0, 0.0, 1.0, 1.0])]
    assert all(best >= mean_iou(one, boxes) for one in others)
    # A grid over all boxes finds none that is better.
    marks = torch.linspace(0, 1, 6)
    grid = torch.cartesian_prod(marks, marks, marks, marks)
    grid = grid[(grid[:, 0] < grid[:, 2]) & (grid[:, 1] < grid[:, 3])]
    assert best >= max(mean_iou(one, boxes) for one in grid)
    same = torch.tensor([[0.2, 0.3, 0.7, 0.6]]).expand(5, 4)
    assert mean_iou(best_constant(same), same) == pytest.approx(1, abs=1e-3)


@given(st.integers(0, 10_000), st.floats(0.05, 1))
def test_random_regions_stay_in_their_region(seed: int, smallest: float) -> None:
    generator = Generator().manual_seed(seed)
    region = (0.2, 0.1, 0.7, 0.9)
    x0, y0, x1, y1 = random_region(region, Augment((smallest, 1.0)), generator)
    assert 0.2 - 1e-9 <= x0 < x1 <= 0.7 + 1e-9
    assert 0.1 - 1e-9 <= y0 < y1 <= 0.9 + 1e-9
    mixed = mixed_region(region, Augment(), generator)
    assert min(mixed) >= 0
    assert max(mixed) <= 1 + 1e-9
    whole = (0.0, 0.0, 1.0, 1.0)
    assert mixed == whole or mixed[2] - mixed[0] == pytest.approx(0.5)


@given(edges, edges, st.booleans())
def test_boxes_in_views_map_back(box: list[float], view: list[float], mirrored: bool) -> None:
    x0, y0, x1, y1 = _box(view)[0].tolist()
    if x1 - x0 < 0.05 or y1 - y0 < 0.05:
        return
    region = torch.tensor([[x1, y0, x0, y1] if mirrored else [x0, y0, x1, y1]])
    seen = view_boxes(_box(box), region)
    assert (seen[:, :2] <= seen[:, 2:]).all()
    assert seen.min() >= 0
    assert seen.max() <= 1
    whole = view_boxes(torch.tensor([[x0, y0, x1, y1]]), region)
    torch.testing.assert_close(whole, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), atol=1e-5, rtol=0)


def test_mirrored_views_show_mirrored_boxes() -> None:
    # A white patch in the left half: wherever it is in the view, the box says so.
    photo = torch.zeros(3, 64, 64, dtype=torch.uint8)
    photo[:, 16:32, 8:24] = 255
    cache = PhotoCache((photo,), torch.tensor([0]), (0,), ())
    box = torch.tensor([[8 / 64, 16 / 64, 24 / 64, 32 / 64]])
    generator = Generator().manual_seed(0)
    mirrored = 0
    for _ in range(20):
        views, regions = draw(cache, torch.tensor([0]), 64, Augment((0.5, 1.0)), generator)
        x0, y0, x1, y1 = (view_boxes(box, regions)[0] * 64).round().int().tolist()
        mirrored += int(regions[0, 0] > regions[0, 2])
        if x1 - x0 > 8 and y1 - y0 > 8:
            inside = views[0, :, y0 + 3 : y1 - 3, x0 + 3 : x1 - 3]
            assert inside.float().mean() > 200
            assert views.float().sum() / 255 / 3 < 1.6 * (x1 - x0) * (y1 - y0)
    assert 3 < mirrored < 17
