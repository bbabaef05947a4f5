"""`bench compression`: what it says of the base, and the comparisons beside the examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecompress.bench.compression import document, markdown, read_all_rows
from edgecompress.cli.bench_compression import _about, told_base
from edgecompress.cli.job import comparison_table, compress_config, load_job
from edgecompress.compress.config import BaseTable

ROOT = Path(__file__).parents[2]
KEPT = sorted((ROOT / "examples").glob("*.comparison.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_kept_seeds_are_of_the_job_beside_them_and_make_the_documented_table(path: Path) -> None:
    job = load_job(path.with_name(path.name.replace(".comparison.json", ".toml")))
    table = comparison_table(job)
    about = _about(job, compress_config(job).resolved(quick=False), table)
    rows = read_all_rows([path], about)
    told = document(rows, table.headline, about | {"text": "", "n": rows[0].n})
    assert markdown(told) in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


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
