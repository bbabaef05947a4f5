"""Trials side by side: in processes of this machine, and over Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgecompress import events
from edgecompress.compress.choices import DEVICE
from edgecompress.compress.config import CompressConfig
from edgecompress.compress.data.photos import image_folder
from edgecompress.compress.machine.trials import Pool, find_pool, map_trials, prepare
from edgecompress.compress.shrinking.proposal import measure_shrinking
from edgecompress.compress.training.classifiers import train_base
from edgecompress.compress.training.learn import Compression
from edgecompress.compress.training.material import gather
from edgecompress.compress.training.workbook import Done, Workbook
from edgecompress.errors import EdgeCompressError, UsageError

# What workers run; they have to find it in a module.
WORK = """
import os, signal, time
from pathlib import Path
from edgecompress import events
from edgecompress.errors import UsageError

def square(n):
    if n < 0:
        raise UsageError(f"{n} is below 0", "give another")
    with events.task(f"squaring {n}", 1) as shown:
        shown.advance(1, "nearly")
    return n * n, os.getpid(), os.environ["OMP_NUM_THREADS"]

def dies(item):
    folder, number, times = item
    mine = Path(folder) / str(number)
    with mine.open("a") as file:
        file.write("x")
    if mine.stat().st_size <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return number

def waits(item):
    folder, number = item
    (Path(folder) / f"pid{number}").write_text(str(os.getpid()))
    if number < 0:
        raise ValueError("a mistake")
    time.sleep(60)

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

def odd(_):
    raise Odd(1, 2)
"""
TWO = Pool(workers=2, threads=1)


@pytest.fixture
def work(tmp_path: Path, monkeypatch) -> Iterator[object]:
    (tmp_path / "edgecompress_test_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    import edgecompress_test_work as found  # pyright: ignore[reportMissingImports]

    yield found
    sys.modules.pop("edgecompress_test_work")


def test_results_come_in_order_and_events_reach_us(work) -> None:
    seen: list[events.Event] = []
    with events.listening(seen.append):
        found = map_trials(work.square, [3, 1, 2, 5], TWO, "squares")
    assert [value for value, _, _ in found] == [9, 1, 4, 25]
    assert len({pid for _, pid, _ in found} - {os.getpid()}) == 2
    assert {threads for _, _, threads in found} == {"1"}
    assert {e.task for e in seen if e.kind == "end"} == {"squares"} | {
        f"squaring {n}" for n in (1, 2, 3, 5)
    }
    shown = [e for e in seen if e.task == "squares" and e.kind == "advance"]
    assert shown[-1].done == shown[-1].total == 4
    assert any("left" in e.text for e in shown[:-1])


def test_a_killed_worker_is_started_again_once(work, tmp_path: Path) -> None:
    seen: list[events.Event] = []
    with events.listening(seen.append):
        items = [(str(tmp_path), number, number == 1) for number in range(3)]
        assert map_trials(work.dies, items, TWO) == [0, 1, 2]
    warned = [e.text for e in seen if e.kind == "warning"]
    assert len(warned) == 1
    assert "SIGKILL" in warned[0]
    assert "tried again" in warned[0]
    with pytest.raises(EdgeCompressError, match="ended twice: killed by SIGKILL"):
        map_trials(work.dies, [(str(tmp_path), 8, 2), (str(tmp_path), 9, 0)], TWO)


def test_one_mistake_ends_them_all(work, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="-1 is below 0") as caught:
        map_trials(work.square, [-1, 2], TWO)
    assert caught.value.hint == "give another"
    with pytest.raises(ValueError, match="a mistake"):
        map_trials(work.waits, [(str(tmp_path), 1), (str(tmp_path), -1)], TWO)
    other = tmp_path / "pid1"  # it would sleep for a minute
    assert not other.exists() or not Path(f"/proc/{other.read_text()}").exists()
    with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        map_trials(work.odd, [1, 2], TWO)


CHILD = """
import sys
sys.path.insert(0, {folder!r})
import edgecompress_test_work as work
from edgecompress.compress.machine.trials import Pool, map_trials
if __name__ == "__main__":
    map_trials(work.waits, [({folder!r}, 1), ({folder!r}, 2)], Pool(2, 1))
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(work, tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(folder=str(tmp_path)))
    child = subprocess.Popen([sys.executable, str(script)])
    files = [tmp_path / f"pid{number}" for number in (1, 2)]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all(f.exists() and f.read_text() for f in files):
        time.sleep(0.05)
    pids = [int(file.read_text()) for file in files]
    child.kill()
    child.wait()
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_pools_fit_the_machine(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_pool("auto") == Pool(4, 4)
    assert find_pool(3) == Pool(3, 5)
    assert find_pool(1) == Pool(1, 16)
    assert find_pool("ray") == Pool(1, 4, ray=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert find_pool("auto") == Pool(2, 8, ("0", "2"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert find_pool(8) == find_pool("ray") == Pool()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_pool("auto").workers == 1


@pytest.mark.parametrize(
    ("visible", "wanted", "gpus"),
    [
        ("0,2,5", "cuda:1", ("2",)),
        ("0,2,5", "cuda", ("0", "2", "5")),
        ("0,2,5", "cpu", ()),
        ("-1", "", ()),
        ("3,-1,4", "", ("3",)),  # as CUDA reads it
    ],
)
def test_a_pool_has_the_gpus_that_were_chosen(monkeypatch, visible, wanted, gpus) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv(DEVICE, wanted)
    pool = find_pool("auto")
    assert (pool.gpus, pool.workers) == (gpus, len(gpus) or 2)


def test_a_workers_only_gpu_is_its_first(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    monkeypatch.setenv(DEVICE, "cuda:1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    prepare(torch.get_num_threads(), "2")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2" and DEVICE not in os.environ


CONFIG = CompressConfig.model_validate(
    {
        "held_out": 0.25,
        "base": {"family": "resnet18", "width": 0.125, "resolution": 32},
        "train": {"epochs": 1, "batch": 16, "rate": 0.02, "scale": 0.6},
        "shrink": {"epochs": 1, "shares": [0.5]},
    }
)


def _measured(shapes, folder: Path, workers: int | str) -> Done:
    table = CONFIG.shrink.model_copy(update={"workers": workers})
    config = CONFIG.model_copy(update={"shrink": table})
    folder.mkdir()
    train, val = (image_folder(path) for path in shapes)
    one = Compression(config, gather(config, train, val, folder), Workbook(folder))
    return measure_shrinking(one, train_base(one))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in folder.glob("trial-*.pt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        found |= {f"{path.stem} {name}": weight for name, weight in state.items()}
    return found


def _alike(shapes, tmp_path: Path, workers: int | str) -> None:
    # As many threads here as a worker has: sums in another order differ in their last bits.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        serial = _measured(shapes, tmp_path / "serial", 1)
        other = _measured(shapes, tmp_path / "other", workers)
    finally:
        torch.set_num_threads(threads)
    assert other == serial
    mine, theirs = _weights(tmp_path / "serial"), _weights(tmp_path / "other")
    assert len(mine) > 100
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        assert torch.equal(weight, theirs[name]), name


@pytest.mark.slow
def test_side_by_side_is_bit_for_bit_the_same(shapes, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    _alike(shapes, tmp_path, 2)


@pytest.mark.slow
def test_ray_is_bit_for_bit_the_same(shapes, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    _alike(shapes, tmp_path, "ray")


def test_without_ray_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as caught:
        map_trials(str, [1], Pool(ray=True))
    assert "pip install" in caught.value.hint
