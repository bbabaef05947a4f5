"""The local search: its steps along the budget, its judgement, and its record."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecompress import events
from edgecompress.compress.cascading.evaluate import evaluate
from edgecompress.compress.config import CompressConfig
from edgecompress.compress.data.photos import image_folder
from edgecompress.compress.data.pixels import normalise
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.plan import compress_photos
from edgecompress.compress.shrinking.proposal import Price, measure_shrinking, propose_members
from edgecompress.compress.shrinking.search import (
    LEAST_USED,
    Point,
    better,
    first_round,
    front,
    kept,
    neighbours,
)
from edgecompress.compress.shrinking.searching import search_members
from edgecompress.compress.training.classifiers import train_base
from edgecompress.compress.training.learn import Compression
from edgecompress.compress.training.material import centred, gather
from edgecompress.compress.training.workbook import Done, Workbook
from edgecompress.errors import UsageError

BASE = NetworkSpec("resnet18", 1.0, 1.0, 128, 10)


def _macs(spec: NetworkSpec) -> float:
    return spec.macs


def _point(chances: np.ndarray, cost: float) -> Point:
    return Point(BASE, cost, 0.5, chances, 1, 0.0, True, "")


@pytest.mark.parametrize(("width", "depth", "side"), [(0.83, 0.7, 120)])
def test_neighbours_keep_the_budget_and_use_it(width: float, depth: float, side: int) -> None:
    spec = NetworkSpec("resnet18", width, depth, side, 10)
    found = list(islice(neighbours(spec, BASE, spec.macs, _macs), 2))
    assert found
    assert len({(one.macs, one.params, one.resolution) for one in [spec, *found]}) == 1 + len(found)
    for one in found:
        assert LEAST_USED * spec.macs <= one.macs <= spec.macs
        assert abs(one.resolution - spec.resolution) in (0, 8)
        assert one.depth <= 1
        assert one.width <= 1
        assert one.resolution <= 128


def test_what_was_cut_makes_up_for_a_step() -> None:
    inside = replace(BASE, inner=0.5)
    found = list(neighbours(inside, BASE, inside.macs, _macs))
    smaller = [one for one in found if one.width == 1]
    assert {(one.depth < 1, one.resolution < 128) for one in smaller} >= {(False, True)}
    assert all(one.inner >= 0.5 for one in smaller) and any(one.inner > 0.5 for one in smaller)
    # An eighth of the inner width, against all channels.
    exchanged = [one for one in found if one.width < 1]
    assert [one.inner for one in exchanged] == [0.625]
    assert all(LEAST_USED * inside.macs <= one.macs <= inside.macs for one in found)
    # What is no wider than its channels has no inner width of its own to give.
    predictor = NetworkSpec("foreground_predictor", 1.0, 1.0, 64, 4)
    limit = 0.9 * predictor.macs
    assert {one.inner for one in neighbours(predictor, predictor, limit, _macs)} <= {1.0}


@given(st.integers(0, 200), st.booleans())
def test_a_round_takes_what_is_left(left: int, fresh: bool) -> None:
    count = first_round(left, fresh)
    used = 2 * fresh + count + kept(count)
    assert count == 0 or used <= left
    assert 2 * fresh + count + 1 + kept(count + 1) > left


def test_noise_is_no_reason_to_change() -> None:
    chances = np.tile([0.6, 0.7, 0.9], 100)
    hand = _point(chances, 100)
    apart = 0.3 * np.resize([1, -1], 300)  # photo by photo: a standard error of 1.7 points
    assert not better(_point(chances + 0.01 + apart, 100), hand)
    told = better(_point(chances + 0.02 + apart, 100), hand)
    assert "2.0 points" in told and "standard error 1.7" in told
    # Photos that all gain alike leave no doubt, however few of them change sides.
    assert better(_point(chances + 0.001, 100), hand)
    assert "10.0 % cheaper" in better(_point(chances, 90), hand)
    assert "10.0 % cheaper" in better(_point(chances + 0.01 + apart, 90), hand)
    assert not better(_point(chances - 0.001, 50), hand)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    chosen = [points[i] for i in front(points)]
    assert chosen == sorted(set(chosen))
    for cost, accuracy in points:
        assert any(c <= cost and a >= accuracy for c, a in chosen)
    for cost, accuracy in chosen:
        others = [one for one in points if one != (cost, accuracy)]
        assert not any(c <= cost and a >= accuracy for c, a in others)


CONFIG = CompressConfig.model_validate(
    {
        "held_out": 0.25,
        "base": {"family": "resnet18", "width": 0.125, "resolution": 40},
        "train": {"epochs": 2, "batch": 16, "rate": 0.02, "scale": 0.6},
        "shrink": {"epochs": 1, "shares": [0.5], "search": 6},
        "members": {"budgets": [0.5, 1.0, 1.5]},
    }
)


def _opened(shapes, folder: Path, config: CompressConfig = CONFIG) -> Compression:
    folder.mkdir(exist_ok=True)
    train, val = (image_folder(path) for path in shapes)
    return Compression(config, gather(config, train, val, folder), Workbook(folder))


def _searched(one: Compression) -> Done:
    base = train_base(one)
    proposals = propose_members(one, measure_shrinking(one, base), Price())
    return search_members(one, base, proposals, Price())


def _right(one: Compression, name: str) -> np.ndarray:
    """The probabilities of the held-out photos' classes, at the likeliest of many temperatures."""
    spec, network = one.load(name)
    held = one.material.held_inputs(spec.resolution, centred)
    with torch.no_grad():
        logits = network(normalise(held.inputs, one.material.preprocess))
    tried = [(logits / t).softmax(1) for t in np.geomspace(0.05, 20, 4000)]
    right = [chances.gather(1, held.wanted[:, None])[:, 0] for chances in tried]
    return max(right, key=lambda one: one.log().mean().item()).numpy()


class _Stop(BaseException):
    """As sudden as a kill, and of this process."""


def test_without_a_teacher_nobody_is_asked(shapes, tmp_path: Path) -> None:
    table = CONFIG.model_dump(exclude_unset=True)
    for distil, asked in ((0.5, True), (0.0, False)):
        members = {**table["members"], "distil": distil}
        config = CompressConfig.model_validate(table | {"members": members})
        _searched(_opened(shapes, tmp_path / f"{distil}", config))
        assert bool(list((tmp_path / f"{distil}").glob("taught-*"))) == asked


def _until_one_is_trained(one: Compression, trained: list[str]) -> Done | None:
    """Search until a second training begins."""
    first: list[str] = []

    def listen(event: events.Event) -> None:
        if event.kind == "begin" and event.task.startswith("training search"):
            if first:
                raise _Stop
            first.append(event.task)

    try:
        with events.listening(listen):
            return _searched(one)
    except _Stop:
        return None
    finally:
        trained += first


def test_a_search_that_is_stopped_at_every_trial(shapes, tmp_path: Path) -> None:
    trained: list[str] = []
    while (done := _until_one_is_trained(_opened(shapes, tmp_path), trained)) is None:
        assert len(trained) < 10
    assert 4 <= len(trained) == len(set(trained)) <= 6  # each once, however often it was stopped
    half, whole, grown = done.result["members"]
    points = half["points"]
    assert all(point["epochs"] == (3 if point["long"] else 1) for point in points)
    for place, point in enumerate(points):
        # Only who had a few epochs gets more.
        briefly = [one["spec"] for one in points[:place] if not one["long"]]
        assert point["long"] == (point["spec"] in briefly)
    assert sorted(f"training {point['step']}" for point in half["points"]) == sorted(trained)
    for point in half["points"][1:]:
        assert point["cost"] == point["macs"] <= half["limit"]
    # The judgement, by hand.
    right = {point["step"]: _right(_opened(shapes, tmp_path), point["step"]) for point in points}
    for point in points:
        assert point["chance"] == pytest.approx(right[point["step"]].mean(), abs=1e-3)
    reached, *challengers = [point for point in points if point["long"]]
    assert reached["spec"] == half["start"] and len(challengers) in (1, 2)  # one a round
    for challenger in challengers:
        more = right[challenger["step"]] - right[reached["step"]]
        cheaper = challenger["cost"] < reached["cost"]
        if more.mean() > more.std() / math.sqrt(len(more)) or (more.mean() >= 0 and cheaper):
            reached = challenger
    assert half["chosen"] == reached["spec"]
    assert whole["points"] == []
    assert whole["chosen"] == _opened(shapes, tmp_path).settings.base.spec(2).to_json()
    assert grown["points"] == []
    assert grown["chosen"] == whole["chosen"] | {"resolution": 48}
    assert done.result["specs"] == [half["chosen"], whole["chosen"], grown["chosen"]]
    # Done is done.
    again: list[str] = []
    assert _until_one_is_trained(_opened(shapes, tmp_path), again) == done
    assert not again


def test_the_search_can_be_left_out_or_be_too_small() -> None:
    for search in (0, 4, 50):
        assert CompressConfig.model_validate({"shrink": {"search": search}})
    for wrong in ({"search": 3}, {"shares": [0.5, 0.5]}, {"workers": 0}, {"workers": "many"}):
        with pytest.raises(ValueError, match="shrink"):
            CompressConfig.model_validate({"shrink": wrong})


def test_what_a_cut_loses_is_counted_photo_by_photo(shapes, tmp_path: Path) -> None:
    """In probabilities at the temperature of the largest likelihood: that is found once more here,
    by looking at many."""
    one = _opened(shapes, tmp_path / "w")
    points = measure_shrinking(one, train_base(one)).result["points"]
    given = []
    for point in points:
        name = "trial-" + (point["dimension"] or "reference")
        assert one.load(name)[0].to_json() == point["spec"]
        given.append(_right(one, name))
        lost = given[0] - given[-1]
        assert point["chance"] == pytest.approx(given[-1].mean(), abs=1e-3)
        assert point["lost"] == pytest.approx(lost.mean(), abs=2e-3)
        error = lost.std() / math.sqrt(len(lost))
        assert point["error"] == pytest.approx(error, abs=1e-3)


@pytest.mark.slow
def test_budgets_of_three_kinds_make_one_cascade(shapes, tmp_path: Path) -> None:
    def milliseconds(spec: NetworkSpec) -> float:
        return 1.0 + spec.macs / 1e6  # a fixed cost that MACs do not show

    members = {"budgets": ["0.7x", "250KMACs", "1.4ms"], "epochs": 1, "tune_epochs": 1}
    shrink = {"epochs": 1, "search": 4, "shares": [0.7, 0.5]}
    table = CONFIG.model_dump(exclude_unset=True) | {"members": members, "shrink": shrink}
    config = CompressConfig.model_validate(table | {"crop": "never"})
    train, val = (image_folder(path) for path in shapes)
    priced = {"cost": milliseconds, "cost_name": "ms on pi"}
    out = compress_photos(config, train, val, tmp_path / "w", tmp_path / "c", **priced)
    steps = json.loads((out / "compression.json").read_text())["steps"]
    shrunk = Counter(point["dimension"] for point in steps["shrink"]["points"])
    # Sides are multiples of 8: 32 is the nearest to both shares.
    assert shrunk == {None: 1, "depth": 2, "width": 2, "resolution": 1, "inner": 2}
    assert steps["shrink"]["cost"] == "ms on pi"
    # A halving of MACs saves less than half of the time.
    assert 0 < steps["shrink"]["rates"]["resolution"] < 1
    limits = {"member70": 0.7 * milliseconds(config.base.spec(2)), "member250K": 250e3}
    limits["member1.4ms"] = 1.4
    for one in steps["search"]["members"]:
        assert one["limit"] == pytest.approx(limits[one["name"]])
        assert all(point["cost"] <= one["limit"] for point in one["points"])
        assert any(point["spec"] == one["chosen"] for point in one["points"])
    cascade = json.loads((out / "cascade.json").read_text())
    macs = [stage["macs"] for stage in cascade["stages"]]
    assert macs == sorted(macs)
    names = {stage["network"] for stage in cascade["stages"]}
    assert names <= limits.keys()
    assert {path.stem for path in out.glob("*.onnx")} == names
    assert evaluate(out, val).n == len(val)
    # One network alone is a cascade too.
    single = config.members.model_copy(update={"budgets": ("250KMACs",)})
    alone = config.model_copy(update={"members": single})
    again = compress_photos(alone, train, val, tmp_path / "w", tmp_path / "d", **priced)
    assert len(json.loads((again / "cascade.json").read_text())["stages"]) == 1
    with pytest.raises(UsageError, match="needs a board"):
        compress_photos(config, train, val, tmp_path / "w", tmp_path / "e")
