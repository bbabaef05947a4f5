"""What the fuzz program found, each in the least that shows it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgecompress.bench.deploy import manifest_sha256, read_manifest, runner_error
from edgecompress.bench.report import read_report
from edgecompress.bench.schema import RunFacts
from edgecompress.bench.text import cpus
from edgecompress.cli.job import load_job
from edgecompress.compile.records import read_records as tuning_records
from edgecompress.errors import BoardError, InputError, UsageError
from edgecompress.files import read_json
from edgecompress.rpc.process import Completed
from edgecompress.rpc.ssh_config import resolve
from edgecompress.runner.errors import RunnerError
from edgecompress.runner.records import read_records
from edgecompress.runner.spec import cascade_from_json
from edgecompress.targets import BoardEntry
from edgecompress.targets.board import parse_board
from tests.fuzz.seeds import probe_answer, seeds_folder

HUGE = 10**400  # an integer that no float holds
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def seeds() -> Path:
    return seeds_folder()


def test_integers_that_no_float_holds(seeds: Path, tmp_path: Path) -> None:
    cascade = json.loads((seeds / "cascade.json").read_text())
    with pytest.raises(RunnerError, match="alpha"):
        cascade_from_json({**cascade, "alpha": HUGE})
    line = json.loads((seeds / "board/predictions.jsonl").read_text().splitlines()[0])
    path = tmp_path / "predictions.jsonl"
    # The last two would be the length of an array.
    for wrong in ({"confidences": [HUGE]}, {"stage": 2**31}, {"size": 2**31}):
        path.write_text(json.dumps({**line, **wrong}) + "\n")
        with pytest.raises(RunnerError, match="line 1"):
            read_records(path)


def test_an_answer_with_infinity_is_a_boards_mistake() -> None:
    from edgecompress.rpc import probe

    told = json.dumps({**json.loads(probe_answer()), "cores": float("inf")})
    board = SimpleNamespace(telemetry=SimpleNamespace(temperature="", throttled=()), kind="host")
    session: Any = SimpleNamespace(
        name="x", workdir="/x", board=board, run=lambda *_, **__: Completed(0, told, "")
    )
    with pytest.raises(BoardError, match="makes no sense"):
        probe(session)


def test_text_that_is_too_deep_for_python(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(DEEP)
    with pytest.raises(InputError, match="cannot read file"):
        read_json(path)
    path.write_text(DEEP + "\n")
    with pytest.raises(InputError, match="no JSON"):
        tuning_records(path)
    path.write_text(f"a = {DEEP}")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_job(path)
    with pytest.raises(InputError, match="is not TOML"):
        parse_board(f"a = {'9' * 5000}", "x")


def test_a_runner_that_says_what_is_no_text() -> None:
    session: Any = SimpleNamespace(name="x")
    for told in ('{"kind": "bundle", "error": "e", "hint": null}', '{"kind": []}', DEEP):
        assert str(runner_error(session, Completed(4, "", told)))


def test_a_report_that_contradicts_itself(seeds: Path, tmp_path: Path) -> None:
    report = json.loads((seeds / "report.json").read_text())
    path = tmp_path / "report.json"
    for place, value in ((("photos", 0, "stage"), 9), (("stages", 0, "macs"), HUGE)):
        changed = json.loads(json.dumps(report))
        changed[place[0]][place[1]][place[2]] = value
        path.write_text(json.dumps(changed))
        with pytest.raises(InputError):
            read_report(path)


def test_cpus_that_are_named_twice_or_out_of_order() -> None:
    facts = RunFacts.model_construct(cpus=[5, 4, 4, 7], core="")
    assert cpus(facts) == "CPUs 4-5, 7"


def test_a_manifest_that_is_a_link(tmp_path: Path) -> None:
    import tarfile

    path = tmp_path / "b.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("manifest.json")
        member.type, member.linkname = tarfile.LNKTYPE, ""
        archive.addfile(member)
    for read in (manifest_sha256, read_manifest):
        with pytest.raises(InputError, match="not a plain file"):
            read(path)


def test_names_that_no_file_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    odd = f"Host x\n IdentityFile ~nobody-here/{'y' * 300}\n UserKnownHostsFile {'z' * 5000}\n"
    (tmp_path / ".ssh/config").write_text(odd)
    assert resolve(BoardEntry("x", "rpi4b", "x")).identity_files == ()
