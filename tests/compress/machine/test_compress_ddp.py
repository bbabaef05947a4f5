"""Two processes train as one: the same weights, and one that is killed ends the other clearly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.compress.data.augment import mixing
from edgecompress.compress.machine import ddp
from edgecompress.errors import UsageError
from edgecompress.files import read_json

sys.path.insert(0, str(Path(__file__).parent))
import ddp_program

PROGRAM = Path(ddp_program.__file__)
ENDING = PROGRAM.with_name("ddp_ending.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
PATIENCE = 120
Shapes = tuple[Path, Path]


def _run(command: list[Any], **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(
        [str(word) for word in command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )


def _close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], within: float) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=within)


def test_two_processes_end_with_the_weights_of_one(
    shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process is the first of the two."""
    checkpoint = tmp_path / "checkpoint"
    port = _free_port()
    second = _start_one(1, port, [*shapes, checkpoint, tmp_path, "plain"])
    threads = torch.get_num_threads()
    try:
        alone, outcome = ddp_program.work(*shapes, tmp_path / "alone", "plain")
        for name, value in _environment(0, port).items():
            monkeypatch.setenv(name, value)
        first, together = ddp_program.work(*shapes, checkpoint, "plain")
        _ended([second])
    finally:
        torch.set_num_threads(threads)
        second.kill()
        if dist.is_initialized():
            dist.destroy_process_group()
    told = torch.load(tmp_path / "1-2.pt")
    _close(first.state_dict(), told["network"], within=0)
    assert (together.losses, together.measures) == (told["losses"], told["measures"])
    assert together.losses == pytest.approx(outcome.losses, abs=1e-4)
    assert together.measures == pytest.approx(outcome.measures)
    _close(first.state_dict(), alone.state_dict(), within=1e-4)
    # The weights did move: those of one process are not what both began with.
    assert any((alone.state_dict()[k] - v).abs().max() > 0.01 for k, v in _begun().items())


def _begun() -> dict[str, torch.Tensor]:
    return ddp_program.make().state_dict()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(rank: int, port: int) -> dict[str, str]:
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"WORLD_SIZE": "2", "RANK": str(rank), **where}


def _start_one(
    rank: int, port: int, arguments: list[Any], program: Path = PROGRAM
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, program, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **_environment(rank, port)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_gloo_lets_go_of_tensors_before_the_interpreter_ends() -> None:
    """Else one process in ten aborted after its work was done, more of them on a busy machine."""
    port = _free_port()
    _ended([_start_one(rank, port, [], ENDING) for rank in (0, 1)])


def _start(shapes: Shapes, checkpoint: Path, out: Path) -> list[subprocess.Popen[str]]:
    """Both processes without torchrun, which would end one itself when the other ends."""
    port = _free_port()
    arguments = [*shapes, checkpoint, out, "random"]
    return [_start_one(rank, port, arguments) for rank in (0, 1)]


def _ended(both: list[subprocess.Popen[str]]) -> None:
    for one in both:
        told = one.communicate(timeout=PATIENCE)[1]
        assert one.returncode == 0, told


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_one_that_is_killed_ends_the_other_and_both_go_on(
    killed: int, shapes: Shapes, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    _ended(_start(shapes, tmp_path / "a", whole))
    checkpoint = tmp_path / "b"
    both = _start(shapes, checkpoint, broken)
    deadline = time.monotonic() + PATIENCE
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert checkpoint.exists()
    both[killed].send_signal(signal.SIGKILL)
    assert both[killed].wait(PATIENCE) == -signal.SIGKILL
    told = both[1 - killed].communicate(timeout=PATIENCE)[1]
    assert both[1 - killed].returncode == 1
    assert "error: another process of this training has ended; look for" in told
    assert "Traceback" not in told
    # With a save a step, it is killed within an epoch, and goes on within it.
    state = torch.load(checkpoint, weights_only=True)
    assert len(state["losses"]) < ddp_program.RECIPE.epochs
    _ended(_start(shapes, checkpoint, broken))
    first, second = (torch.load(folder / "0-2.pt") for folder in (whole, broken))
    assert first["losses"] == second["losses"]
    _close(first["network"], second["network"], within=0)


JOB = """
name = "two"
board = "host"
[data]
train = "{fit}"
photos = "{val}"
[compress]
held_out = 0.25
[compress.base]
width = 0.25
resolution = 32
[compress.train]
epochs = 2
batch = 16
[compress.predictor]
resolution = 32
width = 0.5
cam_resolution = 64
epochs = 1
[compress.shrink]
epochs = 1
shares = [0.5]
search = 0
[compress.members]
budgets = [0.4, 1.0]
epochs = 1
tune_epochs = 1
"""


@pytest.mark.slow
def test_a_whole_job_under_torchrun(shapes: Shapes, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text(JOB.format(fit=shapes[0], val=shapes[1]))
    words = [*TORCHRUN, "-m", "edgecompress.cli", "compress", job, "--out", tmp_path / "out"]
    ended = _run(words)
    assert ended.returncode == 0, ended.stderr
    cascade = tmp_path / "out" / "cascade"
    report = read_json(cascade / "compression.json")
    assert report["steps"]["base"]["photos"] == 12
    assert list(cascade.glob("*.onnx"))
    # A second call finds all of it, also alone: what two have made is what one would look for.
    stamps = {path: path.stat().st_mtime_ns for path in cascade.iterdir()}
    for again in (words, [sys.executable, *words[6:]]):
        assert _run(again).returncode == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in cascade.iterdir()}


@given(st.integers(2, 300), st.integers(1, 9))
def test_parts_are_all_photos_once_and_alike(size: int, count: int) -> None:
    parts = [list(range(size))[ddp.Ranks(rank, count).part(size)] for rank in range(count)]
    assert [place for part in parts for place in part] == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(4, 40), st.integers(1, 4), st.integers(0, 2**31))
def test_photos_are_mixed_within_their_part(size: int, count: int, seed: int) -> None:
    def mixed(part: slice) -> tuple[torch.Tensor, float]:
        found = mixing(size, 0.4, torch.Generator().manual_seed(seed), part)
        assert found is not None
        return found

    whole, share = mixed(slice(None))
    assert sorted(whole.tolist()) == list(range(size))
    for rank in range(count):
        part = ddp.Ranks(rank, count).part(size)
        order, own = mixed(part)
        assert own == share
        assert sorted(order.tolist()) == list(range(len(range(size)[part])))
        if count == 1:
            assert torch.equal(order, whole)


def test_each_process_has_the_views_that_one_would_have(shapes: Shapes) -> None:
    task = ddp_program.task(*shapes)
    indices = torch.arange(5, 18)

    def views(part: slice) -> torch.Tensor:
        return task.draw(indices, torch.Generator().manual_seed(7), 1.0, part)().views

    parts = [views(ddp.Ranks(rank, 3).part(13)) for rank in range(3)]
    assert torch.equal(torch.cat(parts), views(slice(None)))


def test_what_is_decided_alone_is_simply_called() -> None:
    def fails() -> None:
        raise UsageError("no", "yes")

    assert ddp.decided(lambda: 3) == 3 and ddp.Told(lambda x: x + 1)(2) == 3
    with pytest.raises(UsageError):
        ddp.decided(fails)
    with ddp.joined() as own:
        assert own == ddp.Ranks() and own.first


def test_processes_that_do_not_meet_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(Exception, match="did not find each other") as caught, ddp.joined():
        pass
    assert "torchrun" in caught.value.hint  # pyright: ignore[reportAttributeAccessIssue]
