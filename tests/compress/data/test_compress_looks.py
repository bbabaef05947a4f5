"""Looks of views: colours as Pillow changes them, and blank parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from edgecompress.compress.data.augment import Augment
from edgecompress.compress.data.looks import BLANK_AREA, changed, draw_looks

GREY = (124.0, 116.0, 104.0)
PLAIN = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)


def _views(count: int, side: int = 24, low: int = 0, high: int = 256) -> torch.Tensor:
    random = torch.Generator().manual_seed(side)
    return torch.randint(low, high, (count, 3, side, side), generator=random, dtype=torch.uint8)


def _looks(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _by_pillow(view: torch.Tensor, look: tuple[float, ...]) -> torch.Tensor:
    image = Image.fromarray(view.permute(1, 2, 0).numpy())
    brightness, contrast, saturation = look[:3]
    image = ImageEnhance.Color(image).enhance(saturation)
    image = ImageEnhance.Brightness(image).enhance(brightness)
    image = ImageEnhance.Contrast(image).enhance(contrast)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("look", "low", "high"),
    [
        # One change alone may reach black and white, in Pillow's steps as in one.
        ((0.6, 1.0, 1.0), 0, 256),
        ((1.4, 1.0, 1.0), 0, 256),
        ((1.0, 0.6, 1.0), 0, 256),
        ((1.0, 1.4, 1.0), 0, 256),
        ((1.0, 1.0, 0.6), 0, 256),
        ((1.0, 1.0, 1.4), 0, 256),
        # Of several, Pillow cuts after each.
        ((1.2, 0.8, 1.3), 70, 170),
        ((0.8, 1.2, 0.7), 70, 170),
    ],
)
def test_colours_change_as_pillow_changes_them(
    look: tuple[float, float, float], low: int, high: int
) -> None:
    views = _views(2, low=low, high=high)
    got = changed(views, _looks((*look, *PLAIN[3:]), PLAIN), GREY)
    wanted = _by_pillow(views[0], look)
    # Pillow cuts fractions off after each step, and takes whole grey levels for grey and its mean.
    steps = sum(factor != 1 for factor in look)
    assert (got[0].int() - wanted.int()).abs().max() <= max(2, steps)
    assert torch.equal(got[1], views[1])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(8, 40))
def test_blank_parts_are_inside_and_the_rest_is_untouched(seed: int, side: int) -> None:
    looks = draw_looks(6, Augment(erase=1.0), torch.Generator().manual_seed(seed))
    assert looks is not None and (looks[:, :3] == 1).all()
    left, top, right, bottom = looks[:, 3:].unbind(1)
    assert (looks[:, 3:] >= 0).all() and (looks[:, 3:] <= 1 + 1e-9).all()
    areas = (right - left) * (bottom - top)
    assert (areas <= BLANK_AREA[1] + 1e-9).all() and (areas > 0).all()
    views = _views(6, side, 0, 100)
    got = changed(views, looks, GREY)
    for one in range(6):
        rows, columns = (got[one] != views[one]).any(0).nonzero().unbind(1)
        centres = [((rows + 0.5) / side, top, bottom), ((columns + 0.5) / side, left, right)]
        for centre, low, high in centres:
            assert ((centre >= low[one] - 1e-6) & (centre < high[one] + 1e-6)).all()
        # Pixels whose centre is in the part are blank: about its area, to a pixel a side.
        high, wide = ((b - a)[one].item() * side for a, b in ((top, bottom), (left, right)))
        assert max(high - 1, 0) * max(wide - 1, 0) <= len(rows) <= (high + 1) * (wide + 1)
        assert (got[one][:, rows, columns] == torch.tensor(GREY, dtype=torch.uint8)[:, None]).all()


def test_as_many_views_are_blank_as_asked_and_factors_stay_within() -> None:
    looks = draw_looks(4000, Augment(jitter=0.3, erase=0.25), torch.Generator().manual_seed(0))
    assert looks is not None
    factors, blank = looks[:, :3], looks[:, 5] > 0
    assert 0.22 < blank.double().mean() < 0.28
    assert ((factors >= 0.7) & (factors <= 1.3)).all()
    assert ((factors.amin(0) < 0.72) & (factors.amax(0) > 1.28)).all()
    assert torch.corrcoef(factors.T).fill_diagonal_(0).abs().max() < 0.1


def test_views_that_keep_their_looks_draw_nothing() -> None:
    """So that a training of before has the same random numbers."""
    generator = torch.Generator().manual_seed(0)
    assert draw_looks(5, Augment(), generator) is None
    assert torch.equal(
        torch.rand(3, generator=generator),
        torch.rand(3, generator=torch.Generator().manual_seed(0)),
    )
