"""report.html: one file with nothing outside it, and nothing of a stranger's running in it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgecompress.bench.accuracy import match
from edgecompress.bench.examples import BUDGET_BYTES, Example, choose
from edgecompress.bench.page import page_examples, render_page, write_page
from edgecompress.bench.report import Material
from edgecompress.bench.schema import Report

VOID = {"meta", "image", "rect", "path", "circle", "br", "hr", "img", "input", "link"}
LINKS = {"src", "href", "xlink:href", "action", "data", "srcset", "poster", "background"}
HOSTILE = """<script>alert('x')</script>"><img src=x onerror="alert(1)">&amp;"""


class Page(HTMLParser):
    """Tags and texts of a page; every tag that is opened must be closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.style = ""
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            self.style += data
        elif self._open[-1:] == ["script"]:
            self.scripts.append(data)
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def examples(material: Material) -> list[Example]:
    return page_examples(material)


@pytest.fixture(scope="module")
def page(report: Report, examples: list[Example]) -> Page:
    return Page(render_page(report, examples))


def test_nothing_is_fetched(page: Page) -> None:
    links = [value for name, value in page.attributes if name in LINKS]
    assert links, "the example photos are data URIs"
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not re.search(r"url\s*\(|@import", page.style)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not [value for _, value in page.attributes if re.match(r"(https?:)?//", value)]


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_policy_forbids_what_is_not_there(report: Report, page: Page) -> None:
    def policy(of: Page) -> list[str]:
        return [value for _, value in of.attributes if value.startswith("default-src")]

    plain = Page(render_page(report.model_copy(update={"photos": None})))
    assert (policy(plain), plain.scripts) == ([POLICY], [])
    _, script = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy(page) == [f"{POLICY}; script-src 'sha256-{digest}'"]


def test_all_texts_are_escaped(compared: Report, examples: list[Example]) -> None:
    report = compared
    closed = {("board", "kind"), ("run", "cluster"), ("trade_off", "source"), ("peers", "measured")}
    closed |= {("measurement", "trust")}

    def spoilt(value: Any, *path: str) -> Any:
        if isinstance(value, dict):
            return {key: spoilt(one, *path, key) for key, one in value.items()}
        if isinstance(value, list):
            return [spoilt(one, *path) for one in value]
        fixed = path in closed or path[-1:] == ("where",) or not isinstance(value, str)
        return value if fixed else HOSTILE + value

    told = Report.model_validate(spoilt(report.model_dump()))
    worded = [dataclasses.replace(one, said=HOSTILE + one.said, truth=HOSTILE) for one in examples]
    clean, hostile = Page(render_page(report, examples)), Page(render_page(told, worded))
    # The same page, tag for tag: what the texts hold has become no element and no attribute.
    assert set(hostile.tags) <= set(clean.tags)
    assert {name for name, _ in hostile.attributes} == {name for name, _ in clean.attributes}
    assert hostile.text.count("<script>alert('x')</script>") > 50


def test_failures_and_reasons_are_shown(page: Page, report: Report) -> None:
    for failure in report.failures:
        assert failure.subject in page.text
        assert failure.error in page.text
    for path, reason in report.not_measured.items():
        assert path in page.text
        assert reason in page.text
    assert "2 more could not be read" in page.text


def test_a_run_without_failures_says_so(report: Report) -> None:
    shown = Page(render_page(report.model_copy(update={"failures": []})))
    assert "None: every photo was read and answered." in shown.text


def test_sections_that_have_nothing_say_why(report: Report) -> None:
    document = report.model_dump() | {"trade_off": None, "layers": None, "latency_ms": {}}
    document["not_measured"] |= {"trade_off": "no curve today", "layers": "no layers today"}
    shown = Page(render_page(Report.model_validate(document)))
    assert "No curve: no curve today" in shown.text
    assert "None: no layers today" in shown.text
    assert "not measured" in shown.text


def test_emulated_times_are_marked(report: Report, page: Page) -> None:
    mark = "emulated: not comparable"
    assert mark not in page.text
    shown = Page(render_page(report.model_copy(update={"emulated": True})))
    assert shown.text.count(mark) >= 3


def test_examples_are_of_each_stage_and_small(examples: list[Example], report: Report) -> None:
    assert {one.stage for one in examples} == {0, 1}
    assert {one.right for one in examples} == {True, False}
    assert sum(len(one.uri) for one in examples) < BUDGET_BYTES
    for one in examples:
        content = base64.b64decode(one.uri.removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(content)).size == (one.width, one.height)
        x, y, width, height = one.crop
        assert -0.5 <= x <= x + width <= one.width + 0.5
        assert -0.5 <= y <= y + height <= one.height + 0.5


def test_a_photo_that_has_gone_is_left_out(material: Material, tmp_path: Path) -> None:
    """A report can be made again long after the run."""
    answers = match(material.photos, material.run.records)
    gone = [dataclasses.replace(one, path=tmp_path / one.path.name) for one in answers]
    assert choose(gone, 2, [f"class {i}" for i in range(10)]) == []


def test_written_whole(report: Report, examples: list[Example], tmp_path: Path) -> None:
    write_page(report, tmp_path / "report.html", examples)
    assert (tmp_path / "report.html").read_text() == render_page(report, examples)


def test_the_page_shows_each_engine(compared: Report) -> None:
    assert compared.peers is not None
    shown = Page(render_page(compared))
    assert "Beside other engines" in shown.text
    for row in (row for network in compared.peers.networks for row in network.rows):
        assert row.title in shown.text
        assert row.reason in shown.text
    numbers = {
        "time": ["8 ms", "0.80 (0.75 to 0.85)", "12.5 ms", "1.25"],
        "cycles": ["120 M", "0.300", "60 M", "estimated for a cortex-a76"],
        "nothing": [],
    }
    for number in numbers[compared.peers.measured]:
        assert number in shown.text


def test_a_page_without_them_says_nothing(report: Report) -> None:
    assert "other engines" not in Page(render_page(report)).text
