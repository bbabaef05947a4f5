"""The history: only added to, by several processes at once, and never in a job's way."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgecompress.bench import history
from edgecompress.bench.history import Entry, append, entry_of, failure, read, remember, sparkline
from edgecompress.bench.history_page import plot, render_history, write_history
from edgecompress.bench.schema import Report
from edgecompress.errors import InputError, UsageError

from .test_page import HOSTILE, Page

WRITER = """
import sys
from pathlib import Path
from edgecompress.bench.history import Entry, append
for number in range(20):
    append(Path(sys.argv[1]), Entry(f"{sys.argv[2]}-{number}", "2026-01-01T00:00:00", "m", "b"))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "history.sqlite"


def entry(day: int, p50: float, **others: object) -> Entry:
    made = Entry(f"{day} {others}", f"2026-01-{day:02d}T10:00:00+00:00", "demo", "host")
    return dataclasses.replace(made, metrics={"p50": p50, "top1": 80.0}, **others)


RUNS = [
    entry(1, 10.0),
    entry(2, 12.0),
    entry(3, 11.0),
    entry(4, 900.0, board="virtual", emulated=True),
]


def test_a_report_is_one_row(report: Report, path: Path) -> None:
    assert append(path, entry_of(report, "host"))
    later = report.model_copy(update={"created": "2030-01-01T00:00:00+00:00"})
    assert not append(path, entry_of(later, "host")), "the same run, told again"
    assert append(path, entry_of(report, "kitchen"))
    (first, second) = read(path)
    assert first == entry_of(report, "host")
    assert first.metrics["p50"] == report.latency_ms["total"].p50
    assert first.metrics["top1"] == pytest.approx(100 * (report.accuracy.top1 or 0))
    assert second.board == "kitchen"


def test_rows_are_only_added(path: Path) -> None:
    append(path, RUNS[0])
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        for statement in ("UPDATE runs SET model = 'x'", "DELETE FROM runs"):
            with pytest.raises(sqlite3.IntegrityError, match="only added to"):
                connection.execute(statement)


def test_processes_write_at_once_into_a_new_file(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, str(number)]) for number in range(6)]
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 6
    assert len(read(path)) == 120


def test_chosen_and_limited(path: Path) -> None:
    for one in RUNS:
        append(path, one)
    assert [one.at[8:10] for one in read(path, limit=2)] == ["03", "04"]
    assert len(read(path, board="host")) == 3
    assert read(path, model="other") == []
    append(path, entry(5, 1.0, model="other", members=("net",)))
    assert [one.model for one in read(path, model="net")] == ["other"]


def test_failures_are_rows(path: Path) -> None:
    append(path, failure("demo", "kitchen", "int8", "the board was lost"))
    append(path, failure("demo", "kitchen", "int8", "the board was lost"))
    found = read(path)
    assert [one.error for one in found] == ["the board was lost"] * 2
    assert found[0].number("p50") is None


def test_a_file_that_is_not_there_is_empty(path: Path) -> None:
    assert read(path) == []
    assert not path.exists()


def _later(path: Path) -> None:
    append(path, RUNS[0])
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")


def _strange(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")


def _text(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("no database at all, and long enough to look at" * 50)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [(_later, "later release"), (_strange, "not a history"), (_text, "not a database")],
)
def test_files_that_are_not_ours(path: Path, spoil: object, cause: str) -> None:
    spoil(path)  # type: ignore[operator]
    before = path.read_bytes()
    for work in (lambda: append(path, RUNS[1]), lambda: read(path)):
        with pytest.raises(InputError, match=cause):
            work()
    assert cause in remember(path, RUNS[1])
    assert path.read_bytes()[100:] == before[100:]


def test_what_cannot_be_written_is_a_warning() -> None:
    assert "not in the history" in remember(Path("/dev/null/history.sqlite"), RUNS[0])


def test_the_variable_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert history.default_path() == Path(os.environ["EDGECOMPRESS_HISTORY"])
    monkeypatch.delenv("EDGECOMPRESS_HISTORY")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert history.default_path() == tmp_path / "edgecompress" / "history.sqlite"


def test_an_unknown_metric() -> None:
    with pytest.raises(UsageError, match="'p51'") as caught:
        history.require_metric(RUNS, "p51")
    assert "p50" in caught.value.hint
    history.require_metric([], "p51")


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([None], ""), ([3], "▅"), ([1, 2, 3], "▁▅█"), ([1, None, 8], "▁·█")],
)
def test_sparklines(values: list[float | None], line: str) -> None:
    assert sparkline(values) == line


def test_emulated_and_throttled_times_are_in_no_trend() -> None:
    assert RUNS[3].number("p50") is None
    assert RUNS[3].number("top1") == 80.0
    assert entry(1, 5.0, throttled=True).number("decode.p90") is None
    page = Page(render_history(RUNS, "p50"))
    assert "Emulated times are not drawn." in page.text
    assert page.tags.count("circle") == 3
    assert "900 ms" in page.text, "in the table, with a note"


def test_the_page(tmp_path: Path) -> None:
    runs = [*RUNS, failure("demo", "host", "float32", HOSTILE), entry(6, 2.0, model=HOSTILE)]
    write_history(runs, "p50", tmp_path / "history.html")
    page = Page((tmp_path / "history.html").read_text())
    assert not {"script", "link", "iframe", "img", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href")]
    assert page.tags.count("h2") == 2
    assert "failed: " + HOSTILE in page.text
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert any("host, float32: 3 runs, last 11 ms; 1 failed" in label for label in labels)
    assert "No run yet." in Page(render_history([], "p50")).text


@pytest.mark.parametrize(
    "runs", [RUNS[:1], RUNS, [entry(d, d * 1e5, board=f"b{d % 9}") for d in range(1, 29)]]
)
def test_the_plot_stays_inside(runs: list[Entry]) -> None:
    root = ElementTree.fromstring(str(plot(runs, "p50")))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for one in root.iter("circle"):
        assert 0 < float(one.attrib["cx"]) < width and 0 < float(one.attrib["cy"]) < height
    for one in root.iter("text"):
        assert 0 < float(one.attrib["y"]) < height


def test_no_share_is_above_all() -> None:
    whole = [dataclasses.replace(one, metrics={"top1": 100.0}) for one in RUNS]
    root = ElementTree.fromstring(str(plot(whole, "top1")))
    ticks = [one.text or "" for one in root.iter("text")]
    assert "100.0 %" in ticks and not any(
        tick.startswith("10") and tick > "100.0 %" for tick in ticks
    )
