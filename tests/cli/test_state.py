"""A job's record: done once, kept, and never wrong after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecompress.cli.state import Workspace, open_workspace
from edgecompress.errors import UsageError


def counted(space: Workspace, inputs: object, output: Path) -> bool:
    return space.step("make", inputs, [output], lambda: output.write_text(str(inputs)) and None)


def test_same_inputs_are_kept_and_others_are_not(tmp_path: Path) -> None:
    space, output = Workspace(tmp_path), tmp_path / "made"
    assert counted(space, {"a": 1}, output)
    assert not counted(space, {"a": 1}, output)
    assert counted(space, {"a": 2}, output)
    assert output.read_text() == "{'a': 2}"


def test_a_missing_output_is_made_again(tmp_path: Path) -> None:
    space, output = Workspace(tmp_path), tmp_path / "made"
    counted(space, 1, output)
    output.unlink()
    assert counted(space, 1, output)


def test_a_step_that_fails_is_not_done(tmp_path: Path) -> None:
    space, output = Workspace(tmp_path), tmp_path / "made"
    counted(space, 1, output)

    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        space.step("make", 2, [output], fail)
    # The old record is gone too: the output may be half new.
    assert counted(space, 1, output)


def test_two_jobs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        open_workspace(tmp_path),
        pytest.raises(UsageError, match="working in"),
        open_workspace(tmp_path),
    ):
        pass
    with open_workspace(tmp_path):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"), open_workspace(tmp_path / "file"):
        pass
