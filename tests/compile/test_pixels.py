"""Windows in words of neighbouring pixels: the algebra. Numbers of whole kernels stand in
test_quantised.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.compile import pixels
from edgecompress.compile.graph import Window
from edgecompress.compile.integer import WORD


def by_words(line: np.ndarray, weight: np.ndarray, window: Window, outputs: int) -> np.ndarray:
    """A line `[pixels, channels]` under weights `[channels, 1, 1, kw]`, as the kernel sums it."""
    cut = pixels.plan(window, outputs)
    _, left, _, right = cut.padded(window, len(line)).pads
    padded = np.pad(line, ((left, right), (0, 0)))
    words = np.stack([padded[p * cut.gap : p * cut.gap + WORD] for p in range(cut.count)])
    packed = pixels.pack_weight(weight, cut, window.strides[1], line.shape[1])[0]
    advance, apart = cut.step // cut.gap, WORD // cut.gap
    result = np.zeros((outputs, line.shape[1]))
    for w in range(outputs):
        for span in range(cut.span):
            word = words[w // cut.group * advance + span * apart]
            result[w] += (word.T * packed[w % cut.group, span]).sum(1)
    return result


def plainly(line: np.ndarray, weight: np.ndarray, window: Window, outputs: int) -> np.ndarray:
    (_, kernel), (_, stride) = window.kernel, window.strides
    _, left, _, right = window.pads
    padded = np.pad(line, ((left, right), (0, 0)))
    return np.stack(
        [
            (padded[w * stride : w * stride + kernel] * weight[:, 0, 0].T).sum(0)
            for w in range(outputs)
        ]
    )


@given(
    width=st.integers(1, 20),
    kernel=st.integers(1, 11),
    stride=st.integers(1, 4),
    pads=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    channels=st.integers(1, 3),
)
def test_every_tap_of_every_output_is_summed_once(
    width: int, kernel: int, stride: int, pads: tuple[int, int], channels: int
) -> None:
    window = Window((1, kernel), (1, stride), (0, pads[0], 0, pads[1]))
    _, outputs = window.output(1, width)
    if outputs < 1:
        return
    random = np.random.default_rng(width)
    line = random.integers(-128, 128, (width, channels))
    weight = random.integers(-127, 128, (channels, 1, 1, kernel))
    got, want = (sum_of(line, weight, window, outputs) for sum_of in (by_words, plainly))
    np.testing.assert_array_equal(got, want)


@given(kernel=st.integers(1, 11), stride=st.integers(1, 4), width=st.integers(1, 40))
def test_words_hold_a_window_and_no_more_than_needed(kernel: int, stride: int, width: int) -> None:
    cut = pixels.plan(Window((1, kernel), (1, stride)), width)
    assert (cut.span - 1) * WORD < kernel <= cut.span * WORD
    last = (cut.group - 1) * stride + kernel
    assert last <= cut.span * WORD < last + stride, "one more output would not fit"
    assert cut.step == cut.group * stride
    # Places of words are whole: those of a group, and those of a window.
    assert cut.step % cut.gap == 0
    assert cut.span == 1 or WORD % cut.gap == 0


@pytest.mark.parametrize(
    ("kernel", "stride", "group"),
    [(1, 1, 4), (2, 1, 3), (3, 1, 2), (3, 2, 1), (5, 1, 4), (7, 1, 2)],
)
def test_outputs_that_share_words(kernel: int, stride: int, group: int) -> None:
    assert pixels.plan(Window((kernel, kernel), (stride, stride)), 56).group == group


def test_channels_beyond_the_real_ones_and_places_beside_the_taps_have_no_weight() -> None:
    window = Window((2, 3))
    cut = pixels.plan(window, 8)
    packed = pixels.pack_weight(np.ones((5, 1, 2, 3)), cut, 1, 8)
    assert packed.shape == (2, 2, 1, 8, WORD)
    assert not packed[..., 5:, :].any()
    np.testing.assert_array_equal(packed[0, 0, 0, 0], [1, 1, 1, 0])
    np.testing.assert_array_equal(packed[0, 1, 0, 0], [0, 1, 1, 1])
