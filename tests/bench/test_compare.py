"""Two reports beside each other: what is compared, what is not, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edgecompress.bench import gates
from edgecompress.bench.compare import Comparison, compare, throttled
from edgecompress.bench.compare_page import DRAWN, picture, render_comparison, write_comparison
from edgecompress.bench.markdown import comparison_markdown
from edgecompress.bench.report import read_report, write_report
from edgecompress.bench.schema import Report
from edgecompress.errors import UsageError

from .test_page import HOSTILE, Page

FILES = (Path("a/report.json"), Path("b/report.json"))


def held(first: Report, second: Report) -> Comparison:
    return compare(first, second, FILES)


def changed(report: Report, **parts: Any) -> Report:
    """The report with other values; parts of parts are given as dictionaries."""
    document = report.model_dump()
    for name, value in parts.items():
        document[name] = {**document[name], **value} if isinstance(value, dict) else value
    return Report.model_validate(document)


def photos_of(count: int, right: int, ms: Callable[[int], float]) -> list[dict[str, Any]]:
    return [
        {
            "photo": f"{index:016x}",
            "target": 1,
            "answer": int(index < right),
            "rank": int(index < right),
            "stage": int(index % 4 == 0),
            "ms": {"total": [ms(index)], "decode": [1.0]},
            "confidences": [],
            "right": [],
        }
        for index in range(count)
    ]


def larger(report: Report, count: int, right: int, ms: Callable[[int], float]) -> Report:
    """The report as if it were of so many photos."""
    times = sorted(ms(index) for index in range(count))
    part = {"p50": times[count // 2], "p90": times[-count // 10], "p99": times[-1]}
    return changed(
        report,
        accuracy={"top1": right / count, "top5": right / count, "n": count},
        latency_ms={"total": {**part, "mean": sum(times) / count, "n": count}},
        photos=photos_of(count, right, ms),
    )


@pytest.fixture
def before(report: Report) -> Report:
    return larger(report, 200, 160, lambda index: 10.0 + index % 7)


def test_a_report_against_itself(report: Report) -> None:
    comparison = held(report, report)
    assert {note.kind for note in comparison.notes} == {"doubtful"}, "16 runs are few"
    assert comparison.pairing == ""
    compared = [row for row in comparison.rows if row.change is not None]
    assert {row.verdict for row in compared} == {"same"}
    assert {"top1", "p50", "macs", "memory", "bundle", "hits.small"} <= {
        row.key for row in compared
    }
    assert any(row.group == "layers" for row in compared), "operators were timed"


def test_a_number_next_to_nothing_has_no_relative_change(before: Report) -> None:
    memory = before.memory.model_copy(update={"peak_rss_mib": 1e-320})
    row = held(before.model_copy(update={"memory": memory}), before).row("memory")
    assert row and row.change and row.relative is None


def test_a_slower_and_worse_run(before: Report) -> None:
    after = larger(before, 200, 148, lambda index: 1.2 * (10.0 + index % 7))
    comparison = held(before, after)
    top1, p50, p99 = (comparison.row(key) for key in ("top1", "p50", "p99"))
    assert top1 and p50 and p99
    assert (top1.change, top1.verdict) == (pytest.approx(-6.0), "worse")
    assert "McNemar" in top1.basis and "12 photos only in A, 0 only in B" in top1.basis
    assert (p50.relative, p50.verdict) == (pytest.approx(0.2), "worse")
    assert p50.interval == (pytest.approx(0.2), pytest.approx(0.2))
    assert (p99.verdict, p99.significant) == ("changed", None)
    assert "500" in p99.basis


def test_chance_of_few_photos_is_not_known(before: Report) -> None:
    """A hundred runs of nine photos are nine photos."""
    few = [larger(before, 9, 8, lambda index, k=k: k * (10.0 + index % 7)) for k in (1.0, 1.2)]
    often = [
        changed(
            one,
            photos=[
                {**photo.model_dump(), "ms": {"total": photo.ms["total"] * 100}}
                for photo in one.photos or []
            ],
        )
        for one in few
    ]
    p50, macs = (held(*often).row(key) for key in ("p50", "macs"))
    for row in (p50, macs):
        assert row and row.significant is None and row.interval is None
        assert row.basis == "not known: an interval needs 10 photos in each, and one has 9"
    assert p50 and p50.verdict == "changed"


def test_a_part_that_other_photos_reached_is_not_paired(before: Report) -> None:
    photos = [photo.model_dump() for photo in before.photos or []]
    for one in photos[:5]:
        one["ms"] = {"total": one["ms"]["total"]}
    comparison = held(before, changed(before, photos=photos))
    assert comparison.pairing == ""
    whole, part = comparison.row("p50"), comparison.row("decode.p50")
    assert whole and whole.basis == "bootstrap of the ratio, the same photos"
    assert part and part.basis == "bootstrap of the ratio, other photos in each"


def test_other_photos_are_not_paired(before: Report) -> None:
    after = larger(before, 150, 120, lambda index: 10.0 + index % 7)
    comparison = held(before, after)
    assert comparison.pairing == "150 photos are in both, 50 only in A, 0 only in B"
    top1 = comparison.row("top1")
    assert top1 and top1.p is None and "two-proportion" in top1.basis
    relabelled = [{**photo.model_dump(), "target": 2} for photo in before.photos or []]
    assert "labels" in held(before, changed(before, photos=relabelled)).pairing


def test_a_report_of_an_older_release(before: Report) -> None:
    document = before.model_dump()
    del document["photos"]
    comparison = held(before, Report.model_validate(document))
    p50, top1 = comparison.row("p50"), comparison.row("top1")
    assert p50 and p50.change == 0 and p50.significant is None
    assert "B has percentiles only" in p50.basis
    assert top1 and top1.interval is not None, "the interval needs only the counts"
    assert "older release" in comparison.pairing


@pytest.mark.parametrize("which", [0, 1])
def test_emulated_times_are_never_compared(before: Report, which: int) -> None:
    both = [before, before]
    both[which] = before.model_copy(update={"emulated": True})
    comparison = held(*both)
    assert comparison.notes[0].kind == "blocks"
    assert "emulated" in comparison.notes[0].text
    for row in comparison.rows:
        if row.unit == "ms" or row.key == "memory":
            assert row.change is None and row.relative is None and row.interval is None
            assert "not comparable" in row.why
    macs = comparison.row("macs")
    assert macs and macs.change == 0
    bars = [one for one in picture(comparison).split("<rect ") if 'class="bar ' in one]
    drawn = [row for row in comparison.rows if row.key in DRAWN and row.change is not None]
    assert len(bars) == 2 * len(drawn) + 2, "and those of the key"
    page = Page(render_comparison(comparison))
    assert "Not all can be compared." in page.text
    assert "not comparable" in comparison_markdown(comparison)


def test_throttled_times_are_not_compared(before: Report) -> None:
    def state(*flags: str) -> dict[str, Any]:
        return {**before.board.after.model_dump(), "throttled": list(flags)}

    old = ("throttling has occurred",)
    before = before.model_copy(update={"measurement": None})  # of an older release
    slow = changed(before, board={"before": state(), "after": state(*old)})
    assert throttled(slow) == [*old]
    p50 = held(before, slow).row("p50")
    assert p50 and p50.change is None and "B's board was throttled" in p50.why
    long_ago = changed(before, board={"before": state(*old), "after": state(*old)})
    assert throttled(long_ago) == []
    assert throttled(changed(before, board={"before": state("throttled now"), "after": state()}))


def test_the_pass_that_counts_says_whether_times_are_throttled(before: Report) -> None:
    assert before.measurement is not None
    one = before.measurement.passes[0].model_dump()
    passes = [{**one, "throttled": ["throttled now"]}, {**one, "throttled": []}]
    repeated = changed(before, measurement={"passes": passes, "counted": 2})
    assert throttled(repeated) == []
    hot = changed(before, measurement={"passes": passes, "counted": 1})
    assert throttled(hot) == ["throttled now"]
    p50 = held(before, hot).row("p50")
    assert p50 and p50.change is None


def test_doubtful_times_are_compared_with_a_warning(before: Report) -> None:
    good = changed(before, measurement={"trust": "good", "doubts": []})
    told = [{"kind": "load", "text": "other programs had 40 % of the cores", "advice": ""}]
    busy = changed(before, measurement={"trust": "doubtful", "doubts": told})
    assert not [note for note in held(good, good).notes if note.kind == "doubtful"]
    comparison = held(good, busy)
    (note,) = [note for note in comparison.notes if note.kind == "doubtful"]
    assert note.text == "B's times are doubtful: other programs had 40 % of the cores."
    assert note.text in Page(render_comparison(comparison)).text
    assert f"**{note.text}**" in comparison_markdown(comparison)
    timed, counted = gates.check(comparison, [gates.parse("p50 > +5%"), gates.parse("macs > 1")])
    assert "B's times are doubtful" in timed.reason
    assert "doubtful" not in counted.reason


def test_layers_are_shown_where_both_were_timed(before: Report) -> None:
    layers = [{**one.model_dump(), "p50_ms": None, "share": None} for one in before.layers or []]
    reasons = {**before.not_measured, "layers": "operators: not asked for"}
    untimed = changed(before, layers=layers, not_measured=reasons)
    page = Page(render_comparison(held(before, untimed)))
    assert f"None of {len(layers)} can be compared: B: operators: not asked for." in page.text
    page = Page(render_comparison(held(before, before)))
    assert f"{len(layers)} of {len(layers)} layers" in page.text


def test_what_differs_is_said_first(before: Report) -> None:
    after = changed(before, run={"threads": 9}, versions={"tvm": "9"}, board={"title": "Other"})
    texts = [note.text for note in held(before, after).notes]
    assert f"Threads: {before.run.threads} in A, 9 in B." in texts
    assert any(text.startswith("tvm: ") for text in texts)
    assert "Board: This machine in A, Other in B." in texts


def test_nulls_and_other_members(before: Report) -> None:
    renamed = [
        {**stage.model_dump(), "network": f"new_{i}"} for i, stage in enumerate(before.stages)
    ]
    comparison = held(before, changed(before, stages=renamed))
    old, new = comparison.row("hits.small"), comparison.row("hits.new_0")
    assert old and (old.b, old.why) == (None, "B has no such number")
    assert new and (new.a, new.why) == (None, "A has no such number")
    unknown = {"top1": None, "top1_interval": None}
    reasons = {**before.not_measured, "accuracy": "no photo today"}
    top1 = held(before, changed(before, accuracy=unknown, not_measured=reasons)).row("top1")
    assert top1 and top1.why == "B: no photo today"


def test_a_member_that_is_elsewhere_in_the_cascade(before: Report) -> None:
    """B is A's last member alone: it answers all photos, as the first of its cascade."""
    alone = {**before.stages[-1].model_dump(), "hits": before.accuracy.n, "hit_rate": 1.0}
    rows = [{**photo.model_dump(), "stage": 0} for photo in before.photos or []]
    reasons = {**before.not_measured, "trade_off": "one member"}
    for photos in (rows, None):
        parts = {"stages": [alone], "photos": photos, "trade_off": None, "not_measured": reasons}
        after = changed(before, **parts)
        comparison = held(before, after)
        row = comparison.row("hits.big")
        assert row and (row.a, row.b) == (50.0, 100.0)
        assert row.interval and row.interval[0] > 0 and row.significant
        gone = comparison.row("hits.small")
        assert gone and gone.why == "B has no such number"


def test_a_file_that_lies_in_the_set_twice(before: Report) -> None:
    photos = before.photos or []
    twice = changed(before, photos=[one.model_dump() for one in [*photos, photos[0]]])
    assert held(twice, twice).pairing == ""
    assert held(before, twice).pairing == "200 photos are in both, 0 only in A, 1 only in B"


@pytest.mark.parametrize(
    ("condition", "failed"),
    [
        ("p50 > +5%", True),
        ("p50 > 20.1%", False),
        ("p50>=20%", True),
        ("p50 < 0", False),
        ("p50 > 2.5", True),
        ("top1 < -0.5", True),
        ("top1 < -6", False),
        ("top1 <= -6", True),
        ("top1 < -1e1", False),
        ("hits.small < -1", False),
        ("macs > 0", False),
    ],
)
def test_conditions(before: Report, condition: str, failed: bool) -> None:
    after = larger(before, 200, 148, lambda index: 1.2 * (10.0 + index % 7))
    verdict = gates.check(held(before, after), [gates.parse(condition)])[0]
    assert verdict.failed is failed, verdict


@pytest.mark.parametrize(
    "text",
    ["", "p50", "p50 5%", "> 5%", "p50 == 5", "p50 > five", "p50 > 5%%", "p50 > 5 ms", "p50 > inf"],
)
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(UsageError, match="is not a condition"):
        gates.parse(text)


def test_an_unknown_metric_lists_the_known(before: Report) -> None:
    with pytest.raises(UsageError, match="unknown metric 'p51'") as caught:
        gates.check(held(before, before), [gates.parse("p51 > 0")])
    assert "did you mean p50" in caught.value.hint
    assert "top1" in caught.value.hint and "bundle" in caught.value.hint


def test_a_condition_on_what_is_not_compared_fails(before: Report) -> None:
    emulated = before.model_copy(update={"emulated": True})
    verdict = gates.check(held(before, emulated), [gates.parse("p50 > +5%")])[0]
    assert verdict.failed and "emulated" in verdict.reason
    zero = changed(
        before, latency_ms={"total": {**before.latency_ms["total"].model_dump(), "p50": 0}}
    )
    verdict = gates.check(held(zero, before), [gates.parse("p50 > +5%")])[0]
    assert verdict.failed and "A is zero" in verdict.reason


def test_the_page_has_nothing_outside_it(before: Report, tmp_path: Path) -> None:
    hostile = before.model_copy(update={"name": HOSTILE})
    comparison = held(hostile, larger(before, 200, 148, lambda index: 30.0 + index))
    verdicts = gates.check(comparison, [gates.parse("p50 > +5%"), gates.parse("macs > 0")])
    write_comparison(comparison, tmp_path / "compare.html", verdicts)
    page = Page((tmp_path / "compare.html").read_text())
    assert not {"script", "link", "iframe", "img", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href")]
    assert HOSTILE.replace("&amp;", "&amp;") in page.text
    assert "1 of 2 failed" in page.text
    assert page.tags.count("h1") == 1
    assert ("lang", "en") in page.attributes
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert any(label.startswith("A beside B") for label in labels)


@pytest.mark.parametrize("factor", [0.01, 1.0, 1000.0])
def test_the_picture_stays_inside(before: Report, factor: float) -> None:
    after = larger(before, 200, 0, lambda index: factor * (10.0 + index % 7))
    root = ElementTree.fromstring(str(picture(held(before, after))))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for one in root.iter("rect"):
        x, y, w, h = (float(one.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + w <= width and 0 <= y <= y + h <= height
    for one in root.iter("circle"):
        assert 0 < float(one.attrib["cx"]) < width


def test_markdown_is_not_broken_by_names(before: Report) -> None:
    named = before.model_copy(update={"name": "a|b\n<script>`*x*", "created": "<b>|[x](y)"})
    told = comparison_markdown(held(named, before))
    assert "\\<b\\>\\|\\[x\\](y) UTC" in told
    assert "a\\|b \\<script\\>\\`\\*x\\*" in told
    rows = [line for line in told.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {8}


def test_rows_of_photos_survive_the_file(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.json")
    again = read_report(tmp_path / "report.json")
    assert again == report
    assert again.photos and len(again.photos) == report.accuracy.n
    lines = (tmp_path / "report.json").read_text().splitlines()
    assert sum('"photo":' in line for line in lines) == report.accuracy.n
    photo = again.photos[0]
    assert len(photo.photo) == 16
    assert len(photo.ms["total"]) == report.run.repeat
    assert sum(one.rank == 1 for one in again.photos) / len(again.photos) == report.accuracy.top1
    assert all(len(one.confidences) == len(report.stages) for one in again.photos)
