"""What cannot be done is refused in two lines and a code, and with --json in one document."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecompress.cli import steps
from edgecompress.cli.job import load_job
from edgecompress.cli.run import Run
from edgecompress.cli.state import Workspace
from edgecompress.cli.verb import writable
from edgecompress.errors import InputError, UsageError
from edgecompress.targets import BoardEntry
from edgecompress.targets.inventory import add, inventory_path

JOB = """
name = "j"
board = "host"
[data]
photos = {photos}
[pretrained]
members = ["efficientnet_lite0.in1k"]
thresholds = []
"""


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def job(tmp_path: Path, shapes: tuple[Path, Path]) -> Path:
    """A job that is right."""
    path = tmp_path / "job.toml"
    path.write_text(JOB.format(photos=json.dumps(str(shapes[1]))))
    return path


def refused(*argv: str | Path, code: int) -> str:
    """What is said on stderr, after a look at its form."""
    shown = _edgecompress(*argv)
    assert shown.returncode == code, shown.stderr
    assert shown.stdout == ""
    assert "Traceback" not in shown.stderr
    cause, hint = shown.stderr.splitlines()[-2:]
    assert cause.startswith("error: ")
    assert hint.startswith("try: ")
    return f"{cause}\n{hint}"


def refused_twice(*argv: str | Path, code: int) -> str:
    """As `refused`; and with --json one document says the same."""
    said = refused(*argv, code=code)
    as_json = _edgecompress(*argv, "--json")
    assert as_json.returncode == code, as_json.stderr
    told = json.loads(as_json.stdout)  # one document, or this fails
    assert told["error"]["exit_code"] == code
    assert f"error: {told['error']['message']}\ntry: {told['error']['hint']}" == said
    assert "error" not in as_json.stderr
    return said


def _edgecompress(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgecompress.cli.main", *map(str, argv)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _lab(port: int | None = None) -> None:
    add(BoardEntry("lab-pi", "rpi4b", "127.0.0.1", port, "pi"))


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_unknown_board_of_mine(job: Path, tmp_path: Path) -> None:
    _lab()
    told = refused_twice("run", job, "--board", "lab-py", "--out", tmp_path / "out", code=4)
    assert "unknown board 'lab-py'" in told
    assert "did you mean lab-pi" in told


def test_a_board_that_cannot_be_reached() -> None:
    _lab(_closed_port())
    told = refused_twice("doctor", "--board", "lab-pi", code=4)
    assert "cannot reach 'lab-pi'" in told


def test_a_sort_of_board_has_no_address() -> None:
    told = refused("doctor", "--board", "rpi4b", code=4)
    assert "boards add my-rpi4b --board rpi4b" in told


def test_a_job_for_a_sort_of_board_ends_before_it_begins(job: Path, tmp_path: Path) -> None:
    told = refused("run", job, "--out", tmp_path / "out", "--board", "rpi4b", code=4)
    assert "has no address" in told
    assert not (tmp_path / "out" / "cascade").exists()


def test_a_damaged_inventory() -> None:
    inventory_path().parent.mkdir(parents=True)
    inventory_path().write_text('[boards.lab]\nboard = "rpi4b"\nhost = "-oProxyCommand=x"\n')
    told = refused_twice("boards", "list", code=3)
    assert "host" in told
    assert "boards.toml" in told


def test_a_configuration_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "config").touch()
    told = refused_twice("boards", "add", "shelf", "--host", "192.0.2.1", code=3)
    assert f"{tmp_path / 'config'}: " in told
    assert "another place" in told


def test_an_output_that_is_a_folder_is_seen_before_the_work(tmp_path: Path) -> None:
    # Neither the network nor the cascade is there: what is said first is what was looked at first.
    for argv in (["export", "none.pt"], ["bench", "crops", tmp_path / "none"]):
        told = refused(*argv, "--out", tmp_path, code=3)
        assert f"cannot write {tmp_path}: it is a folder" in told
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        writable(tmp_path / "file" / "x.onnx")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("[pretrained]", "[bench.latency]\nruns = 0\n[pretrained]", "bench.latency.runs"),
        ("name =", "name ==", "not valid TOML"),
    ],
)
def test_a_wrong_field(job: Path, tmp_path: Path, old: str, new: str, named: str) -> None:
    job.write_text(job.read_text().replace(old, new, 1))
    told = refused_twice("compress", job, "--out", tmp_path / "out", code=2)
    assert named in told


def test_a_job_that_is_no_text(job: Path, tmp_path: Path) -> None:
    job.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused("run", job, "--out", tmp_path / "out", code=2)
    refused("run", tmp_path, "--out", tmp_path / "out", code=3)


def test_a_budget_that_is_no_time(job: Path, tmp_path: Path) -> None:
    told = refused_twice("tune", job, "--budget", "soon", "--out", tmp_path / "out", code=2)
    assert "'soon' is not a time" in told


def test_photos_that_are_not_there(job: Path, tmp_path: Path) -> None:
    job.write_text(JOB.format(photos=json.dumps(str(tmp_path / "none"))))
    _pretend(job, tmp_path / "out", "compress", compress=_nothing)
    told = refused("compress", job, "--out", tmp_path / "out", code=3)
    assert "none" in told


def test_an_unknown_file_to_export(tmp_path: Path) -> None:
    refused("export", tmp_path / "none.pt", "--out", tmp_path / "x.onnx", code=3)
    assert not (tmp_path / "x.onnx").exists()


def _pretend(job: Path, out: Path, last: str, **made: Callable[[Run], object]) -> Run:
    """Have a job's steps done up to `last`, each by writing what is `made` instead."""

    class Pretended(Workspace):
        def step(
            self, name: str, inputs: Any, outputs: list[Path], work: Callable[[], None]
        ) -> bool:
            return super().step(name, inputs, outputs, lambda: made[name](run) and None)

    run = Run(load_job(job), Pretended(out), "host")
    out.mkdir()
    for name in list(steps.STEPS)[: list(steps.STEPS).index(last) + 1]:
        steps.STEPS[name](run)
    return run


def _nothing(run: Run) -> None:
    run.cascade.mkdir()


def _one_sine(run: Run) -> None:
    """A cascade of a network with an operator that no schedule knows."""
    from onnx import TensorProto, helper, save

    photo = helper.make_tensor_value_info("photo", TensorProto.FLOAT, [1, 3, 8, 8])
    wave = helper.make_tensor_value_info("wave", TensorProto.FLOAT, [1, 3, 8, 8])
    node = helper.make_node("Sin", ["photo"], ["wave"], name="the_wave")
    model = helper.make_model(helper.make_graph([node], "net", [photo], [wave]))
    run.cascade.mkdir()
    save(model, run.cascade / "net.onnx")
    stage = {
        "network": "net", "resolution": 8, "crop": 1.0, "threshold": None, "temperature": 1.0,
        "macs": 1, "params": 1,
    }  # fmt: skip
    cascade = {
        "format": 1, "name": "waves", "labels": ["a", "b"], "predictor": None, "stages": [stage],
        "preprocess": {"mean": [0, 0, 0], "std": [1, 1, 1]}, "criterion": "margin",
        "accumulate": False, "alpha": 1.0, "origin": {},
    }  # fmt: skip
    (run.cascade / "cascade.json").write_text(json.dumps(cascade))


def _no_reference(run: Run) -> None:
    run.reference.parent.mkdir()
    run.reference.touch()


def test_an_operator_that_cannot_be_compiled(job: Path, tmp_path: Path) -> None:
    _pretend(job, tmp_path / "out", "reference", compress=_one_sine, reference=_no_reference)
    told = refused("compile", job, "--out", tmp_path / "out", code=5)
    assert "the ONNX operator Sin of node 'the_wave' cannot be compiled" in told
    assert "supported operators: " in told
    assert not (tmp_path / "out/bundle.tar").exists()


def test_a_truncated_bundle_to_deploy(job: Path, tmp_path: Path, tiny: Any) -> None:
    def half(run: Run) -> None:
        run.space.path("compiled").mkdir()
        content = tiny.bundle.read_bytes()
        run.bundle.write_bytes(content[: len(content) // 2])

    _pretend(
        job, tmp_path / "out", "compile",
        compress=_nothing, reference=_no_reference, compile=half,
    )  # fmt: skip
    told = refused_twice("deploy", job, "--out", tmp_path / "out", code=3)
    assert "host: " in told
    assert "edgecompress compile" in told


def test_boards_that_do_not_tune_together(job: Path, tmp_path: Path) -> None:
    for name, sort in (("pi-a", "rpi4b"), ("pi-b", "rpi5")):
        add(BoardEntry(name, sort, "192.0.2.1", user="pi"))
    run = Run(load_job(job), Workspace(tmp_path), "pi-a", tuned_on=("pi-a", "pi-b"))
    tuned = run.job.tune.model_copy(update={"trials": 5})
    run = replace(run, job=run.job.model_copy(update={"tune": tuned}))
    with pytest.raises(UsageError, match="'pi-a' is a rpi4b, 'pi-b' a rpi5") as refused:
        steps.tune(run)
    assert "mcpu cortex-a72, not cortex-a76; mattr +neon, not +neon +dotprod" in str(
        refused.value.message
    )
    with pytest.raises(UsageError, match="'pi-a' is named twice"):
        steps.tune(replace(run, tuned_on=("pi-a", "pi-a")))
    # Also where kernels would be measured on another sort than they are for.
    with pytest.raises(UsageError, match="'pi-a' is a rpi4b, 'pi-b' a rpi5"):
        steps.tune(replace(run, tuned_on=("pi-b",)))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["boards", "add"], "Missing argument 'name'."),
        (["boards", "nonsense"], "No such command 'nonsense'."),
        (["run", "a.toml", "--nonsense"], "No such option: --nonsense"),
        (["run", "a.toml", "--threads", "many"], "Invalid value for '--threads'"),
        (["boards", "list", "--inventory"], "needs a file"),
    ],
)
def test_what_the_parser_refuses_is_json_too(argv: list[str], said: str) -> None:
    shown = _edgecompress(*argv[:1], "--json", *argv[1:])
    assert (shown.returncode, shown.stderr) == (2, "")
    told = json.loads(shown.stdout)["error"]
    assert said in told["message"]
    assert told["exit_code"] == 2
    assert told["hint"].endswith("--help")


def test_an_inventory_is_named_anywhere(tmp_path: Path) -> None:
    lab = str(tmp_path / "lab.toml")
    words = ["boards", "add", "shelf", "--host", "10.0.0.1", "--json"]
    assert _edgecompress("--inventory", lab, *words).returncode == 0
    for argv in (["boards", "--inventory", lab], ["boards", "list", f"--inventory={lab}"]):
        listed = _edgecompress(*argv, "--json")
        assert [one["name"] for one in json.loads(listed.stdout)["yours"]] == ["shelf"]
    assert json.loads(_edgecompress("boards", "--json").stdout)["yours"] == []


@pytest.mark.parametrize("way", ["option", "variable"])
def test_an_inventory_in_the_home_of_nobody(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named = "~nobody-of-that-name/lab.toml"
    argv = ["boards", "list", "--inventory", named]
    if way == "variable":
        monkeypatch.setenv("EDGECOMPRESS_INVENTORY", named)
        argv = argv[:2]
    said = refused_twice(*argv, code=2)
    assert named in said and "home" in said
    assert "--inventory /" in said
