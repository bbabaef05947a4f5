"""The command line as a user meets it: help, JSON, and two lines instead of a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgecompress.bench.peers.models import MODELS

ROOT = Path(__file__).parents[2]
VERBS = ["run", "compress", "export", "quantize", "tune", "compile", "deploy", "doctor"]


@pytest.fixture(autouse=True)
def _own_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path / "config"))


def edgecompress(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgecompress.cli.main", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


SUB_VERBS = ["keys new", "keys trust", "boards add", "boards start", "data", "data get"]
SUB_VERBS += [
    "bench peers",
    "bench layers",
    "bench tune",
    "bench compression",
    "bench crops",
    "report compare",
    "report history",
    "report export",
]


@pytest.mark.parametrize("verb", [*VERBS, *SUB_VERBS])
def test_help_teaches_with_an_example(verb: str) -> None:
    shown = edgecompress(*verb.split(), "--help")
    assert shown.returncode == 0
    assert f"edgecompress {verb}" in shown.stdout.split("Example")[1]
    assert "--json" in shown.stdout


def test_bench_takes_a_job_and_has_verbs_of_its_own() -> None:
    shown = edgecompress("bench", "--help")
    assert shown.returncode == 0
    assert "edgecompress bench examples/demo.toml" in shown.stdout.split("Example")[1]
    assert "--json" in edgecompress("bench", "job", "--help").stdout


def test_bench_peers_names_its_models() -> None:
    shown = "".join(
        one.strip(" │\n") + " "
        for one in edgecompress("bench", "peers", "--help").stdout.splitlines()
    )
    assert f"all of these: {', '.join(MODELS)}." in " ".join(shown.split())


def test_names_of_tables_are_not_lost_as_markup() -> None:
    assert "[pretrained]" in edgecompress("bench", "compression", "--help").stdout


def test_boards_as_one_json_document() -> None:
    shown = edgecompress("boards", "--json")
    boards = {board["name"]: board for board in json.loads(shown.stdout)["boards"]}
    assert {"host", "virtual-pi4", "rpi4b", "rpi5"} <= boards.keys()
    assert not boards["rpi2b"]["supported"]
    assert boards["rpi2b"]["reason"]


@pytest.mark.parametrize(
    ("argv", "code", "cause", "hint"),
    [
        (["run", "none.toml"], 3, "none.toml", "examples/demo.toml"),
        (["run", "examples/demo.toml", "--board", "rpi4"], 4, "'rpi4'", "rpi4b"),
        (["run", "examples/demo.toml", "--board", "rpi2b"], 4, "32-bit", "boards list"),
        (["tune", "examples/demo.toml", "--budget", "soon"], 2, "soon", ""),
        (["run", "examples/demo.toml", "--quick"], 2, "trains nothing", "leave it out"),
        (["run", "examples/imagenette-90.toml", "--quick"], 2, "compress.quick", "imagenette.toml"),
        (["bench", "compression", "examples/imagenette-90.toml", "--quick"], 2, "quick", "leave"),
        (["data", "get", "imagenet"], 2, "imagenet", "imagenette"),
        (["boards", "start", "host"], 2, "host", "virtual-pi4"),
        (["boards", "remove", "kitchen"], 4, "kitchen", "boards list"),
        (["export", "efficientnet_lite9.in1k", "--out", "x.onnx"], 2, "lite9", "lite0"),
    ],
)
def test_mistakes_are_two_lines_and_a_code(
    argv: list[str], code: int, cause: str, hint: str, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "out")] if argv[0] in ("run", "tune") else []
    shown = edgecompress(*argv, *out)
    assert shown.returncode == code, shown.stderr
    assert "Traceback" not in shown.stderr
    assert cause in shown.stderr
    assert hint in shown.stderr
    assert not (ROOT / "x.onnx").exists()


def test_options_of_a_group_count_for_its_verbs(tmp_path: Path) -> None:
    assert "boards" in json.loads(edgecompress("boards", "--json", "list").stdout)
    for name in ("n1", "n2"):
        (tmp_path / "imagenette160/val" / name).mkdir(parents=True)
        (tmp_path / "imagenette160/val" / name / "a.jpg").touch()
    shown = edgecompress("data", "--json", "--data", str(tmp_path), "get", "imagenette")
    assert json.loads(shown.stdout)["folder"] == str(tmp_path / "imagenette160")


def test_an_error_as_json() -> None:
    shown = edgecompress("run", "none.toml", "--json")
    assert shown.returncode == 3
    assert json.loads(shown.stdout)["error"]["exit_code"] == 3


def test_a_board_of_mine_is_listed_until_removed() -> None:
    argv = ["boards", "add", "kitchen", "--board", "rpi4b", "--host", "192.0.2.1", "--user", "pi"]
    assert edgecompress(*argv).returncode == 0
    shown = json.loads(edgecompress("boards", "--json").stdout)
    assert [board["name"] for board in shown["yours"]] == ["kitchen"]
    assert edgecompress("boards", "remove", "kitchen").returncode == 0
    assert json.loads(edgecompress("boards", "--json").stdout)["yours"] == []
