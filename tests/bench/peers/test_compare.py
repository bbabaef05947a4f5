"""Engines side by side on this machine; the packages of the other engines need not be there."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from edgecompress.bench.layers import LayerCost, agreement, profile_layers
from edgecompress.bench.peers import Comparison, compare
from edgecompress.bench.peers.engines import PEERS
from edgecompress.bench.peers.models import MODELS, find_model
from edgecompress.cli import show
from edgecompress.cli.bench import _show, _show_agreement
from edgecompress.errors import InputError, UsageError
from edgecompress.targets import load_board, virtual_names


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ResNet with random weights that are not zero anywhere."""
    import torch

    from edgecompress.bench.peers.models import _wake
    from edgecompress.compress.networks.export import write_onnx
    from edgecompress.compress.networks.families import find_family

    torch.manual_seed(0)
    network = find_family("resnet18").build(0.25, 1.0, 64, 10)
    _wake(network)
    path = tmp_path_factory.mktemp("peers") / "small.onnx"
    write_onnx(network.eval(), torch.zeros(1, 3, 64, 64), path)
    return path


def test_each_engine_has_a_row(onnx: Path) -> None:
    found = compare(onnx, load_board("host"), [1], rounds=2)
    rows = {row.engine: row for row in found.rows}
    peers = {peer.name for peer in PEERS if peer.precision == "float32"}
    assert set(rows) == {"edgecompress", *peers}
    ours, reference = rows["edgecompress"], rows["onnxruntime"]
    assert reference.ratio == (1.0, 1.0, 1.0)
    assert ours.difference is not None and ours.difference < 1e-4
    assert ours.ms is not None and ours.ratio is not None and ours.reason == ""
    for row in found.rows:
        assert (row.ms is None) == bool(row.reason), "a number or a reason, never both or neither"
        if row.ms is not None:  # an engine that gives other numbers was given something else
            assert row.difference is not None and row.difference < 1e-3, row.engine
    assert rows["litert"].reason  # no .tflite file lies beside the model
    assert found.macs > 1_000_000


ENGINES = """
import json, sys, time
name = sys.argv[1]
def say(value):
    print(json.dumps(value), flush=True)
if name == "ncnn":
    time.sleep(60)
if name == "edgecompress":
    sys.stderr.write("a warning\\n" * 30_000)
say([1.0, 2.0])
for count, line in enumerate(sys.stdin):
    if name == "mnn" and count == 2:
        sys.exit("it has run out of memory")
    say([0.01] * int(line))
"""


def test_engines_that_fail_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One hangs, one dies in its runs, and one says more than a pipe holds."""
    module = importlib.import_module("edgecompress.bench.peers.compare")
    (tmp_path / "program.py").write_text(ENGINES)
    monkeypatch.setattr(module, "PROGRAM", tmp_path / "program.py")
    monkeypatch.setattr(module, "_ANSWER_S", 5.0)
    names = ["edgecompress", "onnxruntime", "ncnn", "mnn"]
    rows = {row.engine: row for row in module._time_all(tmp_path, names, {}, 1, 4)}
    assert set(rows) == set(names)
    assert rows["ncnn"].reason == "failed: no answer in 5 s"
    assert rows["mnn"].reason == "failed: it has run out of memory"
    assert rows["mnn"].ms is None and rows["mnn"].difference is None
    assert rows["edgecompress"].ratio == rows["onnxruntime"].ratio == (1.0, 1.0, 1.0)
    assert rows["edgecompress"].ms == pytest.approx(10)


@pytest.mark.parametrize(
    ("reference", "ours"),
    [("[1.0, 2.0]", "[1.0, NaN]"), ("[1.0, 2.0]", "[Infinity, 2.0]"), ("[0.0, 0.0]", "[0.0, 0.0]")],
)
def test_outputs_that_have_no_difference(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reference: str,
    ours: str,
) -> None:
    """Half precision overflows where single precision does not."""
    module = importlib.import_module("edgecompress.bench.peers.compare")
    own = f"json.loads('{reference}' if name == 'onnxruntime' else '{ours}')"
    (tmp_path / "program.py").write_text(ENGINES.replace("say([1.0, 2.0])", f"say({own})"))
    monkeypatch.setattr(module, "PROGRAM", tmp_path / "program.py")
    rows = module._time_all(tmp_path, ["onnxruntime", "edgecompress-float16"], {}, 1, 2)
    half = next(row for row in rows if row.engine == "edgecompress-float16")
    assert (half.difference, half.reason) == (None, "") and half.ms is not None
    whole = Comparison("small", "host", 1000, 1.0, tuple(rows))
    show.document(asdict(whole))  # which no number that is not finite goes into
    assert json.loads(capsys.readouterr().out)["rows"]
    _show("small", whole)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "float16" in line)
    assert line.rstrip(" │").endswith("-")


def test_another_precision_is_a_row_of_its_own(onnx: Path) -> None:
    found = compare(onnx, load_board("host"), [1], rounds=2, precisions=["int8"])
    rows = {row.engine: row for row in found.rows}
    whole = rows["edgecompress-int8"]
    assert (whole.title, whole.reason) == ("EdgeCompress int8", "")
    assert whole.ms is not None
    assert whole.difference is not None
    assert 1e-5 < whole.difference < 0.3, "eight bits are near, and not the same"


@pytest.mark.board
@pytest.mark.parametrize("board", virtual_names())
def test_counting_finds_the_same_output(onnx: Path, board: str, virtual_board: object) -> None:
    from edgecompress.bench.emulated import why_not

    if why_not():
        pytest.skip(f"{why_not()}: make counting")
    found = compare(onnx, load_board(board), [1])
    ours = next(row for row in found.rows if row.engine == "edgecompress")
    assert ours.reason == ""
    assert ours.difference is not None and ours.difference < 1e-4
    # Four multiply-adds an instruction are the most that NEON has.
    assert ours.instructions is not None
    assert 0.25 < ours.instructions / found.macs < 1.0
    assert ours.ms is None and ours.cycles["cortex-a55"] > ours.cycles["cortex-a76"] > 0
    assert next(iter(ours.cycles)) == load_board(board).fast.core


def test_layers_of_a_network_are_timed_in_order(onnx: Path) -> None:
    rows = profile_layers(onnx, load_board("host"))
    assert rows[0].kernel.startswith("conv2d_7x7s2") and rows[-1].kernel.startswith("conv2d")
    assert all(row.ms is not None and row.ms > 0 for row in rows)
    # Counted as plain sums: squares do four times fewer multiplications at best.
    assert all(row.peak is not None and 0 < row.peak < 6 for row in rows if row.macs)
    assert sum(row.macs for row in rows) == compare_macs(onnx)
    named = [name for row in rows for name in row.sources]
    assert len(named) == len(set(named))


def test_layers_beside_what_the_schedules_predict(onnx: Path) -> None:
    rows = profile_layers(onnx, load_board("host"))
    clock = load_board("host").fast.mhz * 1e3  # cycles a millisecond
    predicted = [row for row in rows if row.schedule in ("conv2d", "winograd")]
    assert predicted and all(row.predicted for row in predicted)
    assert not any(row.predicted for row in rows if row.schedule == "window")
    for row in predicted:
        assert row.ms is not None and row.predicted is not None
        assert row.ratio == pytest.approx(row.ms * clock / row.predicted)
    found = agreement(rows)
    assert found is not None and found.layers == len(predicted)
    low, middle, high = found.ratio
    assert 0 < low <= middle <= high
    assert found.rank is not None and -1 <= found.rank <= 1


@pytest.mark.parametrize(
    ("ratios", "rank"), [([1.0, 1.0, 1.0], 1.0), ([9.0, 2.0, 0.5], -1.0), ([1.0, 0.5, 1.0], 0.866)]
)
def test_ranks_of_measured_and_predicted(ratios: list[float], rank: float) -> None:
    rows = [
        LayerCost("", (), "", "", (), False, 0, predicted=predicted, ratio=ratio)
        for predicted, ratio in zip([1.0, 2.0, 4.0], ratios, strict=True)
    ]
    found = agreement(rows)
    assert found is not None and found.rank == pytest.approx(rank, abs=1e-3)
    assert agreement(rows[:1]) is None


@pytest.mark.parametrize(
    ("predicted", "ratios"), [([2.0, 2.0], [1.0, 3.0]), ([2.0, 4.0], [2.0, 1.0])]
)
def test_layers_that_are_all_alike_have_no_rank(
    predicted: list[float], ratios: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """As predicted, or as measured."""
    rows = [
        LayerCost("", (), "", "", (), False, 0, predicted=one, ratio=ratio)
        for one, ratio in zip(predicted, ratios, strict=True)
    ]
    found = agreement(rows)
    assert found is not None and found.rank is None
    show.document(asdict(found))
    _show_agreement(found)
    assert "rank correlation none" in capsys.readouterr().out


def compare_macs(onnx: Path) -> int:
    """Counted by PyTorch's own hooks."""
    from edgecompress.compress.networks.network import NetworkSpec

    assert onnx.name == "small.onnx"
    return NetworkSpec("resnet18", 0.25, 1.0, 64, 10).macs


def test_names_that_are_no_model() -> None:
    with pytest.raises(UsageError, match="unknown model 'resnet5'") as refused:
        find_model("resnet5")
    assert "resnet50" in refused.value.hint
    with pytest.raises(InputError, match="no such ONNX file"):
        find_model("missing.onnx")


def test_the_half_resnet_is_the_one_that_is_documented() -> None:
    import torch

    from edgecompress.compress.networks.macs import count_macs

    with torch.device("meta"):
        network, side = MODELS["half-resnet50"]()
        macs = count_macs(network.eval(), torch.empty(1, 3, side, side))
    assert round(macs / 1e9, 3) == 0.589


def test_bench_takes_a_job_or_one_of_its_verbs(tmp_path: Path) -> None:
    """`bench JOB.toml` stays what it was."""
    command = [sys.executable, "-m", "edgecompress.cli.main", "bench"]
    environment = {**os.environ, "EDGECOMPRESS_CONFIG": str(tmp_path)}

    def said(*words: str) -> tuple[int, dict[str, dict[str, str]]]:
        done = subprocess.run(
            [*command, *words, "--json"],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    code, told = said(str(tmp_path / "none.toml"))
    assert code == 3 and "none.toml" in told["error"]["message"]
    code, told = said("peers", "nothing")
    assert code == 2 and "unknown model" in told["error"]["message"]
