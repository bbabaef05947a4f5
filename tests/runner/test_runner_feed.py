"""Lists that appear while the runner works, as a board gets them from the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgecompress.bench.deploy import runner_zip
from edgecompress.runner.feed import DAMAGED, END, answers_name, list_name
from edgecompress.runner.records import iter_records, photo_id


@pytest.fixture
def feed(tiny: Any, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A folder, and a runner that follows it."""
    runner, folder = tmp_path / "runner.pyz", tmp_path / "feed"
    runner.write_bytes(runner_zip())
    folder.mkdir()
    argv = [sys.executable, runner, tiny.bundle, "--feed", folder, "--threads", "1"]
    process = subprocess.Popen(
        [*map(str, argv), "--unpack", str(tmp_path / "bundles")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    with process:
        yield folder, process
        process.kill()


def give(folder: Path, number: int, photos: Sequence[tuple[str, Path]]) -> None:
    """A list, whole when it appears."""
    beside = folder / "beside"
    beside.write_text("".join(f"{key}\t{path}\n" for key, path in photos))
    beside.replace(folder / list_name(number))


def until(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """What the runner says of the next `event`."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == event:
            return json.loads(line)
    raise AssertionError(process.stderr.read() if process.stderr else "")


def test_lists_are_answered_as_they_come(
    feed: tuple[Path, subprocess.Popen[str]], photo_files: tuple[Path, ...], tmp_path: Path
) -> None:
    folder, process = feed
    known = [(photo_id(path), path) for path in photo_files]
    half = tmp_path / "half.jpg"
    half.write_bytes(photo_files[0].read_bytes()[:300])
    give(folder, 0, known[:3])
    done = until(process, "list")
    assert done["list"] == 0 and 10 < done["peak_rss_mib"] < 500
    assert [r.photo for r in iter_records(folder / answers_name(0))] == [
        key for key, _ in known[:3]
    ]
    # A corrupt photo is one; a photo that is not what was sent, or not there, is to be sent again.
    give(folder, 2, known[5:])
    odd = [(photo_id(half), half), (known[3][0], half), (known[4][0], tmp_path / "none.jpg")]
    give(folder, 1, odd)
    until(process, "list")
    kinds = [record.error_kind for record in iter_records(folder / answers_name(1))]
    assert kinds == ["input", DAMAGED, DAMAGED]
    # Lists that were there before the end are answered.
    (folder / END).touch()
    assert process.wait(20) == 0
    records = list(iter_records(folder / answers_name(2)))
    assert [record.photo for record in records] == [key for key, _ in known[5:]]
    assert all(record.outcome for record in records)


def test_a_folder_that_is_taken_away_ends_it(
    feed: tuple[Path, subprocess.Popen[str]],
) -> None:
    folder, process = feed
    until(process, "loaded")
    folder.rmdir()
    assert process.wait(20) == 3
    assert process.stderr is not None
    assert "is gone" in json.loads(process.stderr.read())["error"]
