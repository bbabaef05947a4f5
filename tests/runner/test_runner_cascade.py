"""Dynamic inference: combining, confidence, stopping, and records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecompress.runner.cascade import classify, combine, confidence, softmax
from edgecompress.runner.errors import RunnerError
from edgecompress.runner.records import (
    Record,
    drop_torn_line,
    iter_records,
    photo_id,
    read_records,
    record_from_json,
)
from edgecompress.runner.spec import Cascade, Predictor, Preprocess, Stage, cascade_from_json

PHOTO = Image.new("RGB", (200, 100), "gray")


def _cascade(predictor: bool = False, accumulate: bool = True) -> Cascade:
    return Cascade(
        name="test",
        labels=("a", "b", "c"),
        preprocess=Preprocess((0, 0, 0), (1, 1, 1)),
        predictor=Predictor("box", 16, (0.25, 0.5, 1.0), 5, 5) if predictor else None,
        stages=(
            Stage("small", 24, 0.8, 0.5, 1.0, 10, 10),
            Stage("big", 32, 0.9, None, 1.0, 20, 20),
        ),
        criterion="margin",
        accumulate=accumulate,
        alpha=1.6,
        origin={},
    )


def _network(small: list[float], box: tuple[float, ...] = (0.1, 0.1, 0.2, 0.3)):
    asked: list[tuple[str, tuple[int, ...]]] = []

    def run(name: str, tensor: np.ndarray) -> np.ndarray:
        asked.append((name, tensor.shape))
        row = {"box": list(box), "small": small, "big": [0.0, 2.0, 1.0]}[name]
        return np.array([row], np.float32)

    return run, asked


def test_softmax_and_confidence_by_hand() -> None:
    probabilities = softmax(np.log([0.7, 0.2, 0.1]))
    np.testing.assert_allclose(probabilities, [0.7, 0.2, 0.1])
    logits = np.log([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]])
    np.testing.assert_allclose(confidence(logits, "margin", 1.0), [0.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(confidence(logits, "max_softmax", 1.0), [0.7, 0.4])
    assert confidence(logits, "max_softmax", 10.0)[0] < 0.4
    assert softmax(np.array([1e9, 0.0]))[0] == 1.0


def test_combine_adds_or_replaces() -> None:
    one, two = np.array([1.0, 2.0], np.float32), np.array([3.0, 5.0], np.float32)
    np.testing.assert_array_equal(combine(None, two, 1.6, True), two)
    np.testing.assert_allclose(combine(one, two, 1.6, True), [5.8, 10.0], rtol=1e-6)
    np.testing.assert_array_equal(combine(one, two, 1.6, False), two)


def test_a_sure_member_answers_and_the_next_does_not_run() -> None:
    network, asked = _network([5.0, 0.0, 0.0])
    outcome = classify(_cascade(), PHOTO, network)
    assert (outcome.stage, outcome.top5[0][0]) == (0, 0)
    assert asked == [("small", (1, 24, 24, 3))]
    assert outcome.box == (60, 10, 140, 90)
    assert set(outcome.timings_ms) == {"crop", "small", "total"}
    assert outcome.predicted is None


def test_an_unsure_member_passes_on_and_logits_accumulate() -> None:
    network, asked = _network([0.3, 0.2, 0.1])
    outcome = classify(_cascade(), PHOTO, network)
    assert (outcome.stage, outcome.top5[0][0]) == (1, 1)
    np.testing.assert_allclose(outcome.logits, [0.3, 0.2 + 3.2, 0.1 + 1.6], rtol=1e-6)
    assert [name for name, _ in asked] == ["small", "big"]
    assert outcome.stage_top1 == (0, 1)
    assert sum(share for _, share in outcome.top5) == pytest.approx(1)


def test_every_stage_changes_no_answer() -> None:
    network, asked = _network([5.0, 0.0, 0.0])
    outcome = classify(_cascade(), PHOTO, network, every_stage=True)
    assert (outcome.stage, outcome.top5[0][0]) == (0, 0)
    assert [name for name, _ in asked] == ["small", "big"]
    assert len(outcome.confidences) == 2


def test_the_predictor_sees_the_whole_photo_and_decides_the_crop() -> None:
    network, asked = _network([5.0, 0.0, 0.0])
    outcome = classify(_cascade(predictor=True), PHOTO, network)
    assert asked[0] == ("box", (1, 16, 16, 3))
    assert (outcome.size, outcome.box) == (0, (18, 8, 43, 33))
    assert outcome.predicted == pytest.approx((0.1, 0.1, 0.2, 0.3))


def test_a_box_that_is_not_finite_widens_the_crop() -> None:
    network, _ = _network([5.0, 0.0, 0.0], box=(float("nan"), 0, 1, 1))
    outcome = classify(_cascade(predictor=True), PHOTO, network)
    assert (outcome.predicted, outcome.size, outcome.box) == (None, 2, (50, 0, 150, 100))


@pytest.mark.parametrize("small", [[1.0, 2.0], [float("nan"), 0.0, 0.0]])
def test_a_broken_network_is_an_error(small: list[float]) -> None:
    network, _ = _network(small)
    with pytest.raises(RunnerError) as caught:
        classify(_cascade(), PHOTO, network)
    assert caught.value.kind == "model"


def test_timings_come_from_the_clock() -> None:
    network, _ = _network([0.3, 0.2, 0.1])
    ticks = iter(range(100))
    outcome = classify(_cascade(), PHOTO, network, clock=lambda: next(ticks) / 1000)
    assert outcome.timings_ms["total"] == pytest.approx(
        sum(value for part, value in outcome.timings_ms.items() if part != "total"), abs=1.01
    )


def test_records_survive_their_line() -> None:
    network, _ = _network([0.3, 0.2, 0.1])
    outcome = classify(_cascade(predictor=True), PHOTO, network)
    record = Record("ab" * 32, outcome)
    back = record_from_json(json.loads(record.to_line()))
    assert back.outcome is not None
    np.testing.assert_array_equal(back.outcome.logits, outcome.logits)
    assert back.outcome.logits.dtype == np.float32
    assert (back.outcome.top5, back.outcome.box) == (outcome.top5, outcome.box)
    assert set(back.outcome.timings_ms) == set(outcome.timings_ms)
    failed = Record("x", None, "cannot decode", "input")
    assert record_from_json(json.loads(failed.to_line())) == failed


def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    whole = Record("one", None, "a", "input").to_line()
    path.write_text(whole + Record("two", None, "b" * 200_000, "input").to_line()[:-1])
    assert list(read_records(path)) == ["one"]
    drop_torn_line(path)
    assert path.read_text() == whole
    drop_torn_line(path)
    assert path.read_text() == whole


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text("{}\n" + Record("one", None, "a", "input").to_line())
    with pytest.raises(RunnerError, match="line 1"):
        list(iter_records(path))


def test_photo_id_is_the_content_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    assert photo_id(tmp_path / "a") == photo_id(tmp_path / "b")
    with pytest.raises(RunnerError):
        photo_id(tmp_path / "c")


def test_cascade_json_round_trip() -> None:
    cascade = _cascade(predictor=True)
    assert cascade_from_json(json.loads(json.dumps(cascade.to_json()))) == cascade


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 99),
        (("stages",), []),
        (("stages", 0, "threshold"), None),
        (("stages", 0, "network"), "../evil"),
        (("stages", 0, "network"), "total"),
        (("stages", 1, "network"), "small"),
        (("stages", 0, "resolution"), 10**9),
        (("stages", 0, "temperature"), float("nan")),
        (("predictor", "sizes"), [1.0, 0.5]),
        (("preprocess", "std"), [0, 0, 0]),
        (("criterion",), "guess"),
        (("alpha",), "1"),
        (("labels",), "abc"),
    ],
)
def test_bad_descriptions_are_refused(path: tuple[str | int, ...], value: object) -> None:
    top = json.loads(json.dumps(_cascade(predictor=True).to_json()))
    inner = top
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(RunnerError) as caught:
        cascade_from_json(top)
    assert caught.value.kind == "bundle"
