"""The method beside its baselines: real trainings on a set small enough for seconds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from edgecompress import events
from edgecompress.bench import compression
from edgecompress.bench.compression_page import page_values, plot, write_compression
from edgecompress.compress.comparing import comparison
from edgecompress.compress.comparing.baselines import TITLES, only_resolution, only_width
from edgecompress.compress.comparing.comparison import (
    Answers,
    ComparisonTable,
    Row,
    compare,
    in_order,
)
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.errors import InputError, UsageError
from edgecompress.runner.cascade import combine, confidence


@pytest.fixture
def photos(compared):
    return compared.photos


@pytest.fixture
def work(compared) -> Path:
    return compared.work


@pytest.fixture
def rows(compared) -> list[Row]:
    return compared.rows


def test_every_method_has_a_row_a_seed(rows: list[Row]) -> None:
    at = {(row.method, row.budget, row.seed) for row in rows}
    for seed in (0, 1):
        bases = {"base", "base-longer", "base-larger"}
        assert {m for m, b, s in at if b == 1.0 and s == seed} == bases
        assert {m for m, b, s in at if b == 0.5 and s == seed} == set(TITLES) - bases
    assert len(at) == len(rows)


def test_no_method_is_above_its_budget(rows: list[Row]) -> None:
    base = next(row.macs for row in rows if row.method == "base")
    for row in rows:
        if row.method == "base-larger":
            assert row.macs >= base  # no method: what the last members are, alone
            continue
        # A cascade's thresholds are chosen on other photos than it is measured on.
        slack = 1.0 if row.point is None else 1.4
        assert row.macs <= base * row.budget * slack + 1e-6


def test_rows_follow_from_the_kept_answers(rows: list[Row], photos, work: Path) -> None:
    """Accuracy, hit rates and MACs once more, photo by photo, from the networks' logits."""
    targets = np.array(photos[1].targets)
    for row in rows:
        folder = work / f"seed{row.seed}"
        logits = [Answers.read(folder / f"{name}.npz").val for name in row.networks]
        if row.point is None:
            right = logits[0].argmax(1) == targets
            assert row.top1 == pytest.approx(right.mean())
            continue
        thresholds = (*row.point["thresholds"], -math.inf)
        stages, right = [], []
        for photo, target in enumerate(targets):
            running = None
            for stage, own in enumerate(logits):
                one = own[photo : photo + 1]
                running = combine(running, one, row.point["alpha"], row.point["accumulate"])
                sure = confidence(running, "margin", row.point["temperatures"][stage])
                if sure[0] >= thresholds[stage]:
                    stages.append(stage)
                    right.append(running.argmax() == target)
                    break
        assert row.top1 == pytest.approx(np.mean(right))
        hits = [np.mean(np.array(stages) == stage) for stage in range(len(logits))]
        assert row.point["hit_rates"] == pytest.approx(hits)


def test_cropping_is_chosen_only_where_it_pays(compared, rows: list[Row], monkeypatch) -> None:
    """By more than the noise of the photos held out, however lucky it was on them."""
    ours = [row for row in rows if row.method == "edgecompress"]
    for row in ours:
        rivals = [r for r in rows if (r.seed, r.budget) == (row.seed, row.budget)]
        whole = [r for r in rivals if r.method in ("member", "cascade")]
        if not row.cropped:
            assert replace(row, method="") in [replace(r, method="") for r in whole]
            assert row.chance == max(r.chance for r in whole)
    monkeypatch.setattr(comparison, "BEYOND", math.inf)
    again = compare(compared.config, compared.table, compared.photos, compared.work)
    assert not any(row.cropped for row in again if row.method == "edgecompress")
    monkeypatch.setattr(comparison, "BEYOND", -math.inf)
    again = compare(compared.config, compared.table, compared.photos, compared.work)
    assert all(row.cropped for row in again if row.method == "edgecompress")


def test_a_second_run_trains_nothing(compared) -> None:
    seen: list[events.Event] = []
    with events.listening(seen.append):
        again = compare(compared.config, compared.table, compared.photos, compared.work)
    assert again == compared.rows
    assert not [e for e in seen if e.kind == "begin" and e.task.startswith("training")]


def test_seeds_side_by_side_give_the_same_rows(compared) -> None:
    table = compared.table.model_copy(update={"workers": 2})
    assert compare(compared.config, table, compared.photos, compared.work) == compared.rows


def test_so_far_shows_what_is_there_and_trains_nothing(compared, tmp_path: Path) -> None:
    wider = {"seeds": (0, 1, 7), "budgets": (0.5, 0.65), "members": (0.3, 0.45, 1.0, 1.5625)}
    table = compared.table.model_copy(update=wider)
    seen: list[events.Event] = []
    with events.listening(seen.append):
        rows = compare(compared.config, table, compared.photos, compared.work, so_far=True)
    assert not [e for e in seen if e.kind == "begin" and e.task.startswith("training")]
    assert [row for row in rows if row.budget != 0.65] == compared.rows
    # Members that are there make cascades within any budget.
    assert {row.method for row in rows if row.budget == 0.65} >= {"member", "cascade"}
    assert any("seed 7: base has not been trained" in e.text for e in seen)
    with pytest.raises(UsageError, match="nothing has been trained") as caught:
        compare(compared.config, table, compared.photos, tmp_path, so_far=True)
    assert "--so-far" in caught.value.hint


def test_another_law_leaves_what_does_not_follow_from_it(compared) -> None:
    """Only members below the base do: trials that have not been trained hide nothing else."""
    shrink = compared.config.shrink.model_copy(update={"epochs": 2})
    config = compared.config.model_copy(update={"shrink": shrink})
    rows = compare(config, compared.table, compared.photos, compared.work, so_far=True)
    assert [row for row in rows if row.budget == 1] == [
        row for row in compared.rows if row.budget == 1
    ]
    others = {row.method for row in rows if row.budget == 0.5}
    assert others >= {"resolution", "width", "hrank", "depgraph"}
    assert not others & {"member", "member-crop"}


def test_what_no_network_of_a_method_meets_is_left_out(compared, tmp_path: Path) -> None:
    """Everything else goes on."""
    changed = {"seeds": (0,), "methods": ("resolution", "width", "member"), "members": (1.0,)}
    table = compared.table.model_copy(update={**changed, "budgets": (0.001, 0.5)})
    told: list[events.Event] = []
    with events.listening(told.append):
        rows = compare(compared.config, table, compared.photos, tmp_path)
    warned = [event.text for event in told if event.kind == "warning"]
    assert any("resolution-0001 is left out: no input side" in text for text in warned)
    assert {row.method for row in rows if row.budget == 0.5} == {"resolution", "width"}


def test_without_crops_no_boxes_are_drawn(compared, tmp_path: Path) -> None:
    table = compared.table.model_copy(update={"seeds": (0,), "methods": ("member-crop",)})
    config = compared.config.model_copy(update={"crop": "never"})
    rows = compare(config, table, compared.photos, tmp_path)
    assert not list(tmp_path.rglob("boxes*"))
    assert {row.method for row in rows} == {"base"}


def test_members_ascend() -> None:
    with pytest.raises(ValueError, match="ascend"):
        ComparisonTable(members=(1.0, 0.5))


@pytest.mark.parametrize(
    "twice",
    [{"seeds": (0, 0)}, {"budgets": (0.25, 0.2502)}, {"members": (0.25, 0.2502)}],
    ids=["seeds", "budgets", "members"],
)
def test_nothing_is_asked_for_twice(twice: dict) -> None:
    """Their trainings would have one name, and a seed would count for two."""
    with pytest.raises(ValueError, match=f"{next(iter(twice))}: must differ"):
        ComparisonTable.model_validate(twice)


def test_a_table_needs_no_weights(compared, rows: list[Row], tmp_path: Path) -> None:
    """What was trained elsewhere comes home as records and answers."""
    for path in compared.work.rglob("*"):
        if path.suffix in (".json", ".npz"):
            there = tmp_path / path.relative_to(compared.work)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(path.read_bytes())
    read = compare(compared.config, compared.table, compared.photos, tmp_path, so_far=True)
    assert read == rows


def test_members_come_first_and_then_what_is_near_the_headline() -> None:
    table = ComparisonTable(budgets=(0.25, 0.5, 0.75), members=(0.25, 1.0))
    order = in_order(table)
    assert order[:4] == [
        ("member", 0.25), ("member", 1.0), ("member-crop", 0.25), ("member-crop", 1.0)
    ]  # fmt: skip
    assert [budget for _, budget in order[4:]] == [0.5] * 4 + [0.75] * 4 + [0.25] * 4
    assert {method for method, _ in order[4:8]} == {"resolution", "width", "hrank", "depgraph"}


def test_the_member_above_the_base_comes_before_those_that_it_teaches() -> None:
    table = ComparisonTable(members=(0.25, 1.0, 1.2, 1.5), methods=("member",))
    assert [share for _, share in in_order(table)] == [1.5, 0.25, 1.0, 1.2]


def test_the_largest_member_teaches_the_others(compared, tmp_path: Path) -> None:
    """With the base as teacher those, and nothing else, are other networks."""
    copytree(compared.work / "seed0", tmp_path / "seed0")
    members = compared.config.members.model_copy(update={"teacher": "base"})
    config = compared.config.model_copy(update={"members": members})
    table = compared.table.model_copy(update={"seeds": (0,)})
    seen: list[events.Event] = []
    with events.listening(seen.append):
        compare(config, table, compared.photos, tmp_path)
    begun = {e.task for e in seen if e.kind == "begin" and e.task.startswith("training")}
    pupils = {f"{kind}-{share}" for kind in ("member", "member-crop") for share in ("0300", "1000")}
    assert begun == {f"training {name}" for name in pupils}
    for name in pupils:
        here, there = (
            Answers.read(folder / "seed0" / f"{name}.npz") for folder in (tmp_path, compared.work)
        )
        assert not np.array_equal(here.held, there.held)


def test_another_budget_trains_only_what_is_new(compared) -> None:
    seen: list[events.Event] = []
    table = compared.table.model_copy(update={"seeds": (0,), "budgets": (0.5, 0.7)})
    with events.listening(seen.append):
        compare(compared.config, table, compared.photos, compared.work)
    begun = [e.task for e in seen if e.kind == "begin" and e.task.startswith("training")]
    assert sorted(begun) == [
        f"training {method}-0700" for method in ("depgraph", "hrank", "resolution", "width")
    ]


def test_means_over_seeds(rows: list[Row]) -> None:
    for line in compression.lines(rows):
        own = [row.top1 for row in rows if (row.method, row.budget) == (line.method, line.budget)]
        assert (line.seeds, line.top1) == (2, pytest.approx(np.mean(own)))
        assert line.spread == pytest.approx(np.std(own, ddof=1))


def _row(method: str, budget: float, seed: int, top1: float) -> Row:
    return Row(method, budget, seed, 100.0 * budget, top1, top1, 50, ("x",))


def test_gains_are_paired_by_seed() -> None:
    rows = [_row("base", 1.0, seed, 0.8 + seed / 10) for seed in (0, 1)]
    rows += [_row("edgecompress", 0.512, seed, 0.81 + seed / 10) for seed in (0, 1)]
    rows += [_row("edgecompress", 0.5, 0, 0.8), _row("hrank", 0.5, 0, 0.75)]
    rows += [replace(_row("base-longer", 1.0, 1, 0.93), macs=100.0)]
    over_base, over_longer, over_hrank = compression.gains(rows, 0.512)
    assert (over_base.mean, over_base.spread) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))
    assert (over_hrank.mean, over_hrank.spread, over_hrank.seeds) == (pytest.approx(5.0), None, 1)
    assert "reached" in compression.sentence(over_base)
    assert "With 48.8 % less" in compression.sentence(over_base)
    assert "on these photos" not in compression.sentence(over_base)
    assert (over_longer.mean, over_longer.seeds) == (pytest.approx(-2.0), 1)
    assert "paper" not in compression.sentence(over_longer)


def test_what_the_budget_did_not_hold_for_is_said() -> None:
    rows = [_row("base", 1.0, 0, 0.8), replace(_row("edgecompress", 0.512, 0, 0.9), macs=52.7)]
    (gain,) = compression.gains(rows, 0.512)
    # A smaller budget that kept within the larger one, on these photos as well.
    rows += [replace(_row("edgecompress", budget, 0, 0.85), macs=51.0) for budget in (0.25, 0.5)]
    assert [one.budget for one in compression.gains(rows, 0.512)] == [0.512, 0.5]
    assert gain.spent == pytest.approx(0.527)
    assert "reached; 47.3 % less on these photos" in compression.sentence(gain)
    # A document of before that was told.
    assert "on these photos" not in compression.sentence(replace(gain, spent=None))


def test_what_lies_above_the_full_method_is_marked() -> None:
    rows = [_row("base", 1.0, 0, 0.9), _row("width", 0.5, 0, 0.8)]
    rows += [_row("edgecompress", 0.5, 0, 0.7)]
    beaten = {line.method: line.beaten for line in compression.lines(rows)}
    assert beaten == {"base": False, "width": True, "edgecompress": False}
    told = compression.document(rows, 0.512, {"text": "few | photos", "job": "x"})
    assert "uniform width (above EdgeCompress)" in compression.markdown(told)


def test_the_verdict_is_of_every_budget_at_which_others_were_trained() -> None:
    rows = [_row("base", 1.0, 0, 0.9), _row("edgecompress", 0.512, 0, 0.8)]
    assert compression.verdict_of(compression.lines(rows)) == ""
    for budget in (0.25, 0.5, 0.75):
        rows += [_row("width", budget, 0, 0.8), _row("edgecompress", budget, 0, 0.8)]
    told = compression.verdict_of(compression.lines(rows))
    assert told == (
        "At 75 %, 50 % and 25 % of the MACs EdgeCompress lies on or above every other method."
    )
    rows += [_row("hrank", 0.25, 0, 0.81), _row("depgraph", 0.25, 0, 0.79)]
    told = compression.verdict_of(compression.lines(rows))
    assert "does not lie on or above" in told and told.endswith(": HRank at 25 %.")
    written = compression.document(rows, 0.512, {"text": "", "job": ""})
    assert compression.sentences(written)[-1] == told
    assert f"- {told}" in compression.markdown(written)


def test_a_mean_over_fewer_seeds_says_so() -> None:
    rows = [_row("base", 1.0, seed, 0.8) for seed in (0, 1)] + [_row("hrank", 0.5, 0, 0.7)]
    told = compression.rows_of(compression.document(rows, 0.512, {"text": "", "job": ""}))
    assert [row[1] for row in told] == ["uncompressed", "HRank (1 of 2 seeds)"]


def test_the_document_is_read_back(rows: list[Row], tmp_path: Path) -> None:
    told = compression.document(rows, 0.6, {"text": "<b>", "job": "shapes"})
    path = tmp_path / "comparison.json"
    compression.write_document(told, path)
    kept = compression.read_document(path)
    assert compression.told_lines(kept) == compression.lines(rows)
    write_compression(kept, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<svg" in page and "&lt;b&gt;" in page and "<b>" not in page
    assert page_values(kept)["comparison_rows"]
    for old, new in (('"spread"', '"scatter"'), ('"seeds": 2', '"seeds": "2"'), ("0.6", "1e300")):
        path.write_text(json.dumps(told).replace(old, new))
        with pytest.raises(InputError, match="damaged"):
            compression.read_document(path)


def test_seeds_of_elsewhere_are_part_of_the_table(compared, tmp_path: Path) -> None:
    about = {
        "job": "mine",
        "text": "two seeds",
        "photos": "val",
        "compress": compared.config.model_dump(mode="json"),
        "comparison": compared.table.model_dump(mode="json"),
    }
    elsewhere = [replace(row, seed=row.seed + 7) for row in compared.rows]
    path = tmp_path / "comparison.json"
    compression.write_document(compression.document(elsewhere, 0.5, about), path)
    # Which seeds there are, where they ran and on how many cores is no difference.
    here = json.loads(json.dumps(about))
    here["comparison"] |= {"seeds": [0], "workers": 3, "budgets": [0.1]}
    here["compress"] |= {"seed": 3}
    others = compression.read_rows(path, here)
    again = json.loads(json.dumps(compression.document(others, 0.5, about)))
    assert again == json.loads(path.read_text())
    rows = compare(compared.config, compared.table, compared.photos, compared.work, others=others)
    assert rows == [*compared.rows, *others]
    counts = {line.seeds for line in compression.lines(rows)}
    assert counts == {4}
    # They are enough where nothing has been trained yet.
    table = compared.table.model_copy(update={"seeds": (3,)})
    alone = {"so_far": True, "others": others}
    assert compare(compared.config, table, compared.photos, tmp_path / "n", **alone) == others
    with pytest.raises(UsageError, match="seed 0 was trained here and elsewhere"):
        compare(
            compared.config, compared.table, compared.photos, compared.work, others=compared.rows
        )
    fewer = [replace(row, n=row.n - 1) for row in elsewhere]
    with pytest.raises(UsageError, match="reports on other photos"):
        compare(compared.config, compared.table, compared.photos, compared.work, others=fewer)
    here["compress"]["train"]["epochs"] += 1
    with pytest.raises(InputError, match=r"its compress\.train\.epochs is \d+ and not"):
        compression.read_rows(path, here)


ABOUT = {"job": "mine", "text": "", "photos": "val", "compress": {}, "comparison": {}}


def _written(path: Path, rows: list[Row], **changed: Any) -> Path:
    """A comparison.json; `changed` are fields of its last row as they never are."""
    told = compression.document(rows, 0.5, ABOUT)
    told["rows"][-1] |= changed
    path.write_text(json.dumps(told))
    return path


@pytest.mark.parametrize(
    "changed",
    [
        *({"top1": value} for value in (math.nan, -0.1, 1.1)),
        *({"macs": value} for value in (math.inf, 0, -1, 1e300)),
        *({"held_out": math.nan}, {"point": {"alpha": math.nan}}, {"budget": 0}, {"n": 0}),
        *({"networks": []}, {"seed": "first"}),
    ],
)
def test_damaged_rows_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    rows = [_row("base", 1.0, 0, 0.8), _row("hrank", 0.5, 0, 0.7)]
    with pytest.raises(InputError, match="rows are damaged") as refused:
        compression.read_rows(_written(tmp_path / "comparison.json", rows, **changed), ABOUT)
    assert "--add" in refused.value.hint


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = _written(tmp_path / "comparison.json", [_row("base", 1.0, 0, 0.8)])
    value = json.loads(path.read_text())
    for damaged in ([], [{}], None):
        path.write_text(json.dumps(value | {"rows": damaged}))
        with pytest.raises(InputError, match="rows are damaged"):
            compression.read_rows(path, ABOUT)


def test_rows_that_no_table_can_be_made_of_are_refused(tmp_path: Path) -> None:
    rows = [_row("base", 1.0, 0, 0.8), _row("hrank", 0.5, 0, 0.7)]
    for changed, cause in (
        ({"method": "magic"}, "method that is unknown here: 'magic'"),
        ({"seed": 4}, "seed 4 has no row of the base"),
    ):
        path = _written(tmp_path / "comparison.json", rows, **changed)
        with pytest.raises(InputError, match=cause) as refused:
            compression.read_all_rows([path], ABOUT)
        assert str(path) in refused.value.message and "--add" in refused.value.hint


def test_a_seed_counts_once(tmp_path: Path) -> None:
    of = [[_row("base", 1.0, seed, 0.8), _row("hrank", 0.5, seed, 0.7)] for seed in (0, 1)]
    first, second = (_written(tmp_path / f"{n}.json", rows) for n, rows in enumerate(of))
    both = _written(tmp_path / "both.json", [*of[0], *of[1]])
    assert compression.read_all_rows([first, second], ABOUT) == [*of[0], *of[1]]
    for given, cause in (
        ([first, first], r"seed 0 is in .*0\.json twice"),
        ([first, both], r"seed 0 is both in .*0\.json and in .*both\.json"),
        ([both, second], r"seed 1 is both in .*both\.json and in .*1\.json"),
        ([_written(tmp_path / "twice.json", [*of[0], of[0][1]])], r"seed 0 is in .*twice"),
    ):
        with pytest.raises(InputError, match=cause) as refused:
            compression.read_all_rows(given, ABOUT)
        assert "--add" in refused.value.hint


def test_the_plot_has_a_mark_for_each_line(rows: list[Row]) -> None:
    lines = [line for line in compression.lines(rows) if line.method != "base-longer"]
    methods = len({line.method for line in lines})
    drawn = str(plot([replace(line, spread=None) for line in lines]))
    marks = drawn.count("<circle") + drawn.count('class="run') + drawn.count(' Z"')
    assert marks >= len(lines) + methods


def test_the_plot_has_a_line_at_the_bases_accuracy(rows: list[Row]) -> None:
    lines = compression.lines(rows)
    others = [line for line in lines if line.method != "base"]
    root = ElementTree.fromstring(str(plot([line for line in lines if line not in others])))
    (mark, *_) = root.iter("circle")
    (guide,) = (one for one in root if one.attrib["class"] == "guide")
    left, right = (part.split() for part in guide.attrib["d"][1:].split("L"))
    assert left[1] == right[1] == mark.attrib["cy"]
    assert float(left[0]) < float(mark.attrib["cx"]) < float(right[0])
    assert "guide" not in str(plot(others))


def test_the_spread_between_seeds_has_its_methods_colour(rows: list[Row]) -> None:
    lines = [replace(line, spread=0.01) for line in compression.lines(rows)]
    ours = [line for line in lines if line.method == "edgecompress"]
    assert ours
    assert str(plot(lines)).count('class="run full"') == 3 * len(ours)  # the bar and its ends


def test_only_one_dimension_is_shrunk() -> None:
    base = NetworkSpec("resnet18", 0.5, 1.0, 128, 10)
    for budget in (0.25, 0.5, 0.75):
        small = only_resolution(base, budget)
        assert replace(small, resolution=128) == base
        # Nothing makes up for a side that is too small: it is not kept to multiples of 8.
        assert budget * 0.85 * base.macs < small.macs <= budget * base.macs
        assert replace(small, resolution=small.resolution + 2).macs > budget * base.macs
        narrow = only_width(base, budget)
        assert replace(narrow, width=0.5) == base
        assert narrow.macs <= budget * base.macs
    with pytest.raises(UsageError, match="no input side"):
        only_resolution(base, 0.001)
