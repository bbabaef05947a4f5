"""What verbs say at their end, as people and as programs read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgecompress.cli import show, summary
from edgecompress.cli.job import Job
from edgecompress.cli.run import Run
from edgecompress.cli.state import Workspace
from edgecompress.compress.cascading.evaluate import Predictions
from edgecompress.files import write_json
from edgecompress.runner.records import Record, photo_id
from edgecompress.runner.spec import Cascade, Preprocess, Stage


def test_compress_where_no_photo_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "one.jpg").write_text(f"{name} is no photo")
    job = {
        "name": "j", "board": "host", "data": {"photos": str(tmp_path / "photos")},
        "pretrained": {},
    }  # fmt: skip
    run = Run(Job.model_validate(job), Workspace(tmp_path / "out"), "host")
    stage = Stage("net", 32, 0.875, None, 1.0, 1, 1)
    pixels = Preprocess((0.0,) * 3, (1.0,) * 3)
    cascade = Cascade("c", ("a", "b"), pixels, None, (stage,), "margin", False, 1.0, {})
    write_json(run.cascade / "cascade.json", cascade.to_json())
    records = [Record(photo_id(path), None, "no photo", "input") for path in run.photos.paths]
    Predictions(cascade, tuple(records), run.photos.targets).write(run.reference)

    show.document(summary.compress(run, as_json=True))
    told = json.loads(capsys.readouterr().out)["reference"]
    assert (told["n"], told["top1"], told["hit_rates"], told["mean_macs"]) == (
        0,
        None,
        [None],
        None,
    )
    summary.compress(run, as_json=False)
    said = capsys.readouterr().out
    assert "none of 2 photos could be read" in said
    assert "nan" not in said
