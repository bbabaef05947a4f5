"""`bench compression`: what it says of the base that everything is held against."""

from __future__ import annotations

import pytest

from edgecompress.cli.bench_compression import told_base
from edgecompress.compress.config import BaseTable


@pytest.mark.parametrize(
    ("weights", "epochs", "told"),
    [
        (None, 32, "trained 32 epochs from nothing on photos"),
        ("efficientnet_lite0.in1k", 1, "trained 1 epoch from efficientnet_lite0.in1k on photos"),
        ("mine.pth", 0, "with the weights mine.pth as they are"),
        (None, 0, "as it is"),
    ],
)
def test_the_base_is_told_as_it_came_to_be(weights: str | None, epochs: int, told: str) -> None:
    base = BaseTable(family="efficientnet_lite0", width=1.0, resolution=96, weights=weights)
    expected = f"efficientnet_lite0, width 1, 96 px, {told}"
    assert told_base(base, epochs, "photos") == expected
