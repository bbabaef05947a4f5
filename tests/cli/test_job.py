"""Job files: checked whole before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecompress.cli.job import compress_config, load_job, pretrained_config
from edgecompress.errors import InputError, UsageError

EXAMPLES = Path(__file__).parents[2] / "examples"

PRETRAINED = """
name = "j"
board = "host"
[data]
photos = "foolbox"
[pretrained]
members = ["efficientnet_lite0.in1k"]
thresholds = []
"""


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_examples_are_valid(path: Path) -> None:
    job = load_job(path)
    assert job.name == path.stem
    table = compress_config(job) if job.compress else pretrained_config(job)
    assert table is not None


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('name = "j"', 'name = "../j"', "name"),
        ('name = "j"', "", "name"),
        ('board = "host"', 'board = "host"\nbord = "x"', "bord"),
        ("[pretrained]", "[bench.latency]\nruns = 0\n[pretrained]", "bench.latency.runs"),
        ("[pretrained]", "[compress]\n[pretrained]", "exactly one"),
        ('name = "j"', "name = ", "not valid TOML"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(PRETRAINED.replace(old, new))
    with pytest.raises(UsageError) as caught:
        load_job(path)
    assert named in caught.value.message


def test_training_needs_photos_to_train_on(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('name = "j"\nboard = "host"\n[data]\nphotos = "foolbox"\n[compress]\n')
    with pytest.raises(UsageError, match="train"):
        load_job(path)


def test_a_wrong_member_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(PRETRAINED.replace("thresholds = []", "thresholds = [0.5, 0.5]"))
    with pytest.raises(UsageError, match="threshold"):
        pretrained_config(load_job(path))


def test_a_missing_job_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none"):
        load_job(tmp_path / "none.toml")
