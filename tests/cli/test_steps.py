"""What a job's steps depend on, and what they leave."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgecompress.cli import steps
from edgecompress.cli.job import Job
from edgecompress.cli.run import Run
from edgecompress.cli.state import Workspace


class Pretended(Workspace):
    """Steps that leave empty files."""

    def step(self, name: str, inputs: Any, outputs: list[Path], work: Callable[[], None]) -> bool:
        def pretend() -> None:
            (self.root / "done").open("a").write(f"{name}\n")
            for path in outputs:
                path.parent.mkdir(exist_ok=True)
                path.touch()

        return super().step(name, inputs, outputs, pretend)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A job of two uncompressed photos, whose cascade and bundle are there."""
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), colour).save(tmp_path / "photos" / name / "one.bmp")
    job = {
        "name": "j", "board": "host", "data": {"photos": str(tmp_path / "photos")},
        "pretrained": {},
    }  # fmt: skip
    made = Run(Job.model_validate(job), Pretended(tmp_path / "out"), "host")
    made.cascade.mkdir(parents=True)
    made.bundle.touch()
    return made


def again(run: Run, step: steps.Step) -> bool:
    """Whether a step is done when it is asked for once more."""
    done = run.space.path("done")
    before = done.read_text() if done.exists() else ""
    step(run)
    return done.read_text() != before


@pytest.mark.parametrize("step", [steps.reference, steps.bench])
def test_another_photo_of_the_same_size(run: Run, step: steps.Step) -> None:
    assert again(run, step)
    assert not again(run, step)
    photo = run.photos.paths[0]
    seen = photo.stat()
    Image.new("RGB", (32, 32), "green").save(photo)
    assert photo.stat().st_size == seen.st_size
    os.utime(photo, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1_000_000))
    assert again(run, step)


def test_a_photo_that_comes_back(run: Run) -> None:
    photo = run.photos.paths[0]
    photo.rename(photo.with_suffix(".away"))
    assert again(run, steps.reference)
    photo.with_suffix(".away").rename(photo)
    assert again(run, steps.reference)


@pytest.mark.parametrize("name", ["predictions.jsonl", "latency.jsonl", "measurements.json"])
def test_bench_is_done_again_where_a_file_of_it_is_gone(run: Run, name: str) -> None:
    steps.bench(run)
    run.space.path("board", name).unlink()
    assert again(run, steps.bench)
