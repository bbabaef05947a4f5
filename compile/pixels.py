"""Depthwise convolutions of whole numbers, in words of neighbouring pixels.

A depthwise sum has few summands and each channel its own, so that nothing can be shared between
channels. But along a line a window's taps are neighbours: with a channel's neighbouring pixels put
side by side into words, `dot` multiplies and adds up to four taps of one channel at once, and a
vector does so for as many channels as it has lanes. A few outputs share the same words: their
windows lie at other places of them, so they have weights of their own, with zeros beside the taps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .graph import Window
from .integer import WORD


@dataclass(frozen=True)
class Plan:
    """How the windows of a line lie in words.

    Attributes:
        span: words under one window.
        group: outputs that share the same words.
        step: pixels from the words of one group to those of the next.
        gap: pixels from one stored word to the next; words may overlap.
        count: stored words of a line.
    """

    span: int
    group: int
    step: int
    gap: int
    count: int

    def padded(self, window: Window, width: int) -> Window:
        """The window with so much padding that every word of a line of `width` pixels is there."""
        top, left, bottom, right = window.pads
        needed = (self.count - 1) * self.gap + WORD - left - width
        return replace(window, pads=(top, left, bottom, max(right, needed)))


def plan(window: Window, width: int) -> Plan:
    """How a line of `width` outputs is computed, by a window without gaps."""
    kernel, stride = window.kernel[1], window.strides[1]
    span = -(-kernel // WORD)
    group = (span * WORD - kernel) // stride + 1
    step = group * stride
    gap = step if span == 1 else math.gcd(step, WORD)
    groups = -(-width // group)
    count = (groups - 1) * step // gap + (span - 1) * WORD // gap + 1
    return Plan(span, group, step, gap, count)


def pack_weight(weight: np.ndarray, cut: Plan, stride: int, channels: int) -> np.ndarray:
    """`[c, 1, kh, kw]` to `[kh, group, span, channels, WORD]`; zeros fill up."""
    own, _, kh, kw = weight.shape
    packed = np.zeros((kh, cut.group, cut.span * WORD, channels))
    for place in range(cut.group):
        first = place * stride
        packed[:, place, first : first + kw, :own] = weight[:, 0].transpose(1, 2, 0)
    return packed.reshape(kh, cut.group, cut.span, WORD, channels).swapaxes(-1, -2)
