"""The fuzz program, for some seconds every day; `make fuzz` runs it for an hour."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.errors import EdgeCompressError
from edgecompress.rpc.deadline import Deadline
from edgecompress.runner.errors import RunnerError
from tests.fuzz.__main__ import _crash, case  # pyright: ignore[reportPrivateUsage]
from tests.fuzz.mutate import mutate
from tests.fuzz.seeds import ROOT, seeds_folder
from tests.fuzz.subjects import Subject, subjects


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    return subjects(seeds_folder())


def test_some_seconds_find_nothing(known: dict[str, Subject], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "6", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = int(done.stdout.splitlines()[-1].split()[0])
    assert cases > 5, "it reads files at all"
    assert not list(tmp_path.iterdir())


def test_every_seed_is_good(
    known: dict[str, Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seed that is refused at once would test nothing behind that."""
    for name in ("EDGECOMPRESS_INVENTORY", "EDGECOMPRESS_CONFIG", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    refused = []
    for name, subject in known.items():
        assert subject.seeds, name
        for index, seed in enumerate(subject.seeds):
            path, folder = tmp_path / "file", tmp_path / f"{name}{index}"
            path.write_bytes(seed)
            folder.mkdir()
            try:
                subject.read(path, folder)
            except (EdgeCompressError, RunnerError) as error:
                refused.append(f"{name}: {error}")
    assert not refused


def test_a_case_is_the_same_file_each_time(known: dict[str, Subject]) -> None:
    cases = [case(known, 3, number) for number in range(200)]
    assert cases == [case(known, 3, number) for number in range(200)]
    assert len({name for name, _ in cases}) == len(known)
    assert [content for _, content in cases] != [case(known, 4, n)[1] for n in range(200)]


def test_what_a_crash_is(tmp_path: Path) -> None:
    def crash(work: object) -> str:
        assert callable(work)
        told = _crash(Subject("bytes", (b"",), lambda path, folder: work()), b"")
        return told["what"] if told else ""

    def refuse() -> None:
        raise RunnerError("input", "no\nway\x1b[2J")

    def fail() -> None:
        raise KeyError("x")

    assert crash(lambda: 1) == ""
    assert crash(refuse) == "", "an error of ours is on one line whatever it quotes"
    assert crash(fail) == "KeyError"
    assert crash(lambda: bytes(1 << 62)) == "MemoryError"


def test_forms_of_damage_keep_their_form() -> None:
    """Most damaged JSON is JSON still: it gets past the parser."""
    seed = b'{"a": [1, 2, {"b": "c"}], "d": null}'
    good = 0
    for number in range(200):
        try:
            json.loads(mutate(Random(number), seed, "json"))
            good += 1
        except (ValueError, RecursionError):
            pass
    assert good > 100


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
_CONTENT = (
    st.binary(max_size=300)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
    | _JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.from_regex(r"[a-z_.]{1,9}", fullmatch=True), _JSON, max_size=4).map(
        lambda value: "\n".join(f"{k} = {json.dumps(v)}" for k, v in value.items()).encode()
    )
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_content_is_a_value_or_an_error_of_ours(known: dict[str, Subject], data: Any) -> None:
    """Manifests, reports, inventories, boards' files and answers, and all else that is read."""
    name = data.draw(st.sampled_from(sorted(known)))
    assert _crash(known[name], data.draw(_CONTENT)) is None


@pytest.mark.slow
def test_a_case_that_ends_the_process_is_found(tmp_path: Path) -> None:
    """It is the case that was being read, and reading goes on behind it."""
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "12", "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        parent = psutil.Process(running.pid)
        for _ in Deadline(120).attempts():
            readers = [one for one in parent.children() if "--worker" in one.cmdline()]
            if readers and Path("/proc", str(readers[0].pid), "limits").exists():
                at = Path(readers[0].cmdline()[readers[0].cmdline().index("--worker") + 1])
                if at.exists() and int(at.read_text()) > 3:
                    readers[0].kill()
                    break
        assert running.stdout is not None
        told = running.stdout.read()
    assert running.returncode == 1, told
    assert told.count("CRASH") == 1
    assert "ended or stopped the process" in told
    (kept,) = tmp_path.iterdir()
    assert int(told.splitlines()[-1].split()[0]) >= int(kept.name.split("-")[-1])
