"""The whole way from photos to a cascade folder, on a set small enough for seconds."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgecompress import events
from edgecompress.compress.cascading.evaluate import evaluate, read_cascade, read_predictions
from edgecompress.compress.config import CompressConfig
from edgecompress.compress.data.photos import image_folder
from edgecompress.compress.plan import compress_photos
from edgecompress.compress.shrinking.law import DIMENSIONS
from edgecompress.compress.training.workbook import Workbook
from edgecompress.errors import InputError, UsageError

TABLE = {
    "held_out": 0.25,
    "base": {"family": "resnet18", "width": 0.125, "resolution": 32},
    "train": {"epochs": 6, "batch": 16, "rate": 0.02, "decay": 0.01, "scale": 0.6},
    "predictor": {"resolution": 32, "width": 0.5, "cam_resolution": 64, "epochs": 2},
    "shrink": {"epochs": 1, "shares": [0.5], "search": 0},
    "members": {"budgets": [0.4, 1.0], "epochs": 2, "tune_epochs": 1},
    "quick": {"train": {"epochs": 3}, "members": {"epochs": 1}},
}


def _compress(shapes, root: Path, table: dict | None = None, quick: bool = True) -> Path:
    config = CompressConfig.model_validate({**TABLE, **(table or {})})
    train, val = (image_folder(path) for path in shapes)
    return compress_photos(config, train, val, root / "work", root / "cascade", quick)


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("job")
    _compress(shapes, root, {"crop": "always"})
    return root


def _trainings(seen: list[events.Event]) -> list[str]:
    return [e.task for e in seen if e.kind == "begin" and e.task.startswith("training")]


def test_the_folder_is_complete_and_runs(finished: Path, shapes) -> None:
    out = finished / "cascade"
    names = {path.name for path in out.iterdir()}
    assert {"cascade.json", "compression.json", "predictor.onnx"} <= names
    predictions = evaluate(out, image_folder(shapes[1]))
    compression = json.loads((out / "compression.json").read_text())
    told = compression["validation"]["cascade"]
    # One photo at a time through the runner, or in batches: the same answers.
    assert predictions.top1 == pytest.approx(told["top1"], abs=1e-4)
    assert predictions.mean_macs == pytest.approx(told["mean_macs"], abs=1)
    assert predictions.hit_rates == pytest.approx(told["hit_rates"], abs=1e-4)
    # And once more out of the file, with nothing but the cascade's description beside it.
    predictions.write(finished / "predictions.jsonl")
    again = read_predictions(
        finished / "predictions.jsonl", read_cascade(out), image_folder(shapes[1])
    )
    stages = [outcome.stage for outcome, _ in again.answered]
    costs = [stage["macs"] for stage in json.loads((out / "cascade.json").read_text())["stages"]]
    predictor = compression["variants"]["crop"]["predictor_macs"]
    macs = [predictor + sum(costs[: stage + 1]) for stage in stages]
    assert told["mean_macs"] == pytest.approx(sum(macs) / len(macs), abs=1)
    right = [outcome.top5[0][0] == target for outcome, target in again.answered]
    assert told["top1"] == pytest.approx(sum(right) / len(right), abs=1e-4)
    hits = [stages.count(k) / len(stages) for k in range(len(costs))]
    assert told["hit_rates"] == pytest.approx(hits, abs=1e-4)
    crop = compression["variants"]["crop"]
    assert crop["cross_fitted"]["photos"] == compression["photos"]["held_out"]
    assert {way["alpha"] for way in crop["ways"] if not way["learned"]} >= {1.0, 1.6}
    assert [name for name in names if name.endswith(".onnx")] and all(
        f"{name}.onnx" in names for name in compression["cascade"]["networks"]
    )
    assert compression["crop"] == "crop"
    assert compression["steps"]["predictor"]["held_out"] > 0
    points = compression["steps"]["shrink"]["points"]
    assert [point["dimension"] for point in points] == [None, *DIMENSIONS]
    for point in points:
        assert point["lost"] == pytest.approx(points[0]["chance"] - point["chance"], abs=2e-6)
        assert (point["error"] > 0) == (point["dimension"] is not None)
    assert compression["variants"]["crop"]["curve"]


def test_a_second_run_trains_nothing(finished: Path, shapes) -> None:
    before = (finished / "cascade" / "cascade.json").read_bytes()
    seen: list[events.Event] = []
    with events.listening(seen.append):
        _compress(shapes, finished, {"crop": "always"})
    assert _trainings(seen) == []
    assert not any("ONNX" in event.task or "reading" in event.task for event in seen)
    assert (finished / "cascade" / "cascade.json").read_bytes() == before


def test_only_what_depends_on_a_change_is_done_again(finished: Path, shapes) -> None:
    seen: list[events.Event] = []
    members = {**TABLE["members"], "tune_rate": 0.2}
    with events.listening(seen.append):
        _compress(shapes, finished, {"crop": "always", "members": members})
    assert _trainings(seen) == ["training member40-crop", "training member100-crop"]


def test_a_member_above_the_base_teaches_the_others(shapes, tmp_path: Path) -> None:
    """It is trained first, and with the base as teacher only the others are other networks."""
    begun = []
    for teacher in ("largest", "base"):
        members = {**TABLE["members"], "budgets": [0.4, 1.5625], "teacher": teacher}
        # From 32 px there is no larger side within 1.5625 times the MACs.
        table = {"base": {**TABLE["base"], "resolution": 48}, "crop": "never", "members": members}
        seen: list[events.Event] = []
        with events.listening(seen.append):
            out = _compress(shapes, tmp_path, table)
        begun.append([task for task in _trainings(seen) if "member" in task])
        whole = json.loads((out / "compression.json").read_text())["variants"]["whole"]
        assert [member["network"] for member in whole["members"]] == ["member40", "member156"]
    large, small = "training member156", "training member40"
    assert begun == [[large, small, f"{large}-whole", f"{small}-whole"], [small, f"{small}-whole"]]


def test_another_name_of_a_class_is_written(finished: Path, shapes, tmp_path: Path) -> None:
    """And nothing is trained for it."""
    seen: list[events.Event] = []
    train, val = (image_folder(path) for path in shapes)
    config = CompressConfig.model_validate({**TABLE, "crop": "always"})
    _compress(shapes, finished, {"crop": "always"})
    for labels in (("round", "square"), train.labels):
        sets = (replace(photos, labels=labels) for photos in (train, val))
        with events.listening(seen.append):
            compress_photos(config, *sets, finished / "work", finished / "cascade", True)
        told = json.loads((finished / "cascade" / "cascade.json").read_text())
        assert tuple(told["labels"]) == labels
    assert _trainings(seen) == []


def test_one_photo_of_each_class_is_too_few(shapes, tmp_path: Path) -> None:
    train, val = (image_folder(path) for path in shapes)
    few = train.take([train.targets.index(0), train.targets.index(1)])
    config = CompressConfig.model_validate(TABLE)
    with pytest.raises(InputError, match="one photo of each class") as caught:
        compress_photos(config, few, val, tmp_path / "work", tmp_path / "cascade")
    assert "two photos" in caught.value.hint


def test_without_crops_there_is_no_predictor(shapes, finished: Path) -> None:
    # The same work folder: what both ways share is not trained again.
    seen: list[events.Event] = []
    with events.listening(seen.append):
        out = _compress(shapes, finished, {"crop": "never"})
    assert _trainings(seen) == ["training member40-whole", "training member100-whole"]
    assert json.loads((out / "cascade.json").read_text())["predictor"] is None
    assert not (out / "predictor.onnx").exists()
    assert json.loads((out / "compression.json").read_text())["crop"] == "whole"


def test_auto_says_what_it_compared(shapes, finished: Path) -> None:
    told: list[events.Event] = []
    with events.listening(told.append):
        out = _compress(shapes, finished, {"crop": "auto"})
    compression = json.loads((out / "compression.json").read_text())
    assert set(compression["variants"]) == {"whole", "crop"}
    switch = compression["switch"]
    assert compression["crop"] == ("crop" if switch["crop"] else "whole")
    for test in switch["tests"].values():
        assert test["gained"] - test["lost"] == round(
            test["top1"] * compression["photos"]["held_out"]
        )
    same = switch["tests"].get("same_cost")
    if same is not None and (same["top1"] <= 0 or same["p"] > switch["level"]):
        cheaper = switch["tests"].get("same_top1")
        assert not switch["crop"] or cheaper["cost"] < 0
    assert any(switch["why"] in event.text for event in told if event.kind == "note")
    assert any("cropping" in event.text for event in told if event.kind == "note")


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import torch
torch.set_num_threads(1)
from test_compress_job import _compress
_compress(({train!r} and Path({train!r}), Path({val!r})), Path({root!r}), {{"crop": "never"}})
"""


def test_crops_that_are_never_smaller_are_left_out(finished: Path, shapes) -> None:
    """Nothing is trained for them, and the cascade has no predictor that would cost something."""
    seen: list[events.Event] = []
    whole = {"predictor": {**TABLE["predictor"], "sizes": [1.0]}, "crop": "auto"}
    with events.listening(seen.append):
        out = _compress(shapes, finished, whole)
    assert not [task for task in _trainings(seen) if task.endswith("-crop")]
    assert any("cropping is left out" in event.text for event in seen)
    assert json.loads((out / "cascade.json").read_text()).get("predictor") is None
    assert json.loads((out / "compression.json").read_text())["crop"] == "whole"


def test_a_killed_job_goes_on(shapes, tmp_path: Path) -> None:
    script = CHILD.format(
        folder=str(Path(__file__).parent),
        train=str(shapes[0]),
        val=str(shapes[1]),
        root=str(tmp_path),
    )
    child = subprocess.Popen([sys.executable, "-c", script], env=dict(os.environ))
    deadline = time.monotonic() + 90
    record = tmp_path / "work" / "trial-depth.json"
    while not record.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "cascade").exists()
    seen: list[events.Event] = []
    with events.listening(seen.append):
        out = _compress(shapes, tmp_path, {"crop": "never"})
    trained = _trainings(seen)
    assert "training base" not in trained
    assert "training trial-depth" not in trained
    assert "training member40-whole" in trained
    assert (out / "cascade.json").exists()
    assert not list((tmp_path / "work").glob("*.checkpoint"))


def test_a_lost_artefact_is_made_again(tmp_path: Path) -> None:
    book = Workbook(tmp_path)
    runs: list[str] = []

    def work(fingerprint: str) -> dict:
        runs.append(fingerprint)
        book.path("file").write_text("x")
        return {"n": len(runs)}

    first = book.step("one", {"a": 1}, work, ("file",))
    assert book.step("one", {"a": 1}, work, ("file",)) == first
    book.path("file").unlink()
    assert book.step("one", {"a": 1}, work, ("file",)).result == {"n": 2}
    assert book.step("one", {"a": 2}, work, ("file",)).fingerprint != first.fingerprint
    assert len(runs) == 3


def test_no_record_vouches_for_what_other_inputs_left(tmp_path: Path) -> None:
    book = Workbook(tmp_path)

    def step(rate: float, killed: bool = False) -> str:
        def work(_: str) -> dict:
            with book.writing("one.pt") as temporary:
                temporary.write_text(f"weights of {rate}")
            if killed:
                raise KeyboardInterrupt
            return {}

        book.step("one", {"rate": rate}, work, ("one.pt",))
        return book.path("one.pt").read_text()

    assert step(0.1) == "weights of 0.1"
    with pytest.raises(KeyboardInterrupt):
        step(0.2, killed=True)
    assert step(0.1) == "weights of 0.1"
    assert step(0.2) == "weights of 0.2"


def test_a_record_stays_while_other_inputs_have_left_nothing(tmp_path: Path) -> None:
    book = Workbook(tmp_path)

    def work(_: str) -> dict:
        with book.writing("one.pt") as temporary:
            temporary.write_text("weights")
        return {}

    def stopped(_: str) -> dict:
        with book.writing("one.pt"):
            raise KeyboardInterrupt

    done = book.step("one", {"rate": 0.1}, work, ("one.pt",))
    with pytest.raises(KeyboardInterrupt):
        book.step("one", {"rate": 0.2}, stopped, ("one.pt",))
    assert book.kept("one", {"rate": 0.1}, ("one.pt",)) == done


def test_scratch_of_a_process_killed_after_its_record_goes(tmp_path: Path) -> None:
    book, scratch = Workbook(tmp_path), tmp_path / "one.checkpoint"

    def step(book: Workbook) -> None:
        book.step("one", {"a": 1}, lambda _: {"n": 1}, scratch=(scratch.name,))

    step(book)
    scratch.write_text("x")
    step(replace(book, reading=True))
    assert scratch.exists()
    step(book)
    assert not scratch.exists()


def test_sets_of_different_classes_are_refused(shapes, tmp_path: Path) -> None:
    train, val = (image_folder(path) for path in shapes)
    other = type(val)(val.name, val.paths, val.targets, ("disc", "cube"))
    with pytest.raises(InputError, match="different classes"):
        compress_photos(CompressConfig(), train, other, tmp_path / "w", tmp_path / "c", True)


def test_photos_that_are_trained_on_are_not_reported_on(shapes, tmp_path: Path) -> None:
    train, val = (image_folder(path) for path in shapes)
    linked = tmp_path / "renamed.png"
    linked.symlink_to(train.paths[3])
    mixed = replace(val, paths=(linked, *val.paths[1:]))
    with pytest.raises(InputError, match=f"1 of the {len(val)} photos of val are trained on"):
        compress_photos(CompressConfig(), train, mixed, tmp_path / "w", tmp_path / "c", True)
    assert not (tmp_path / "w").exists()


def test_a_diverging_job_says_what_to_change(shapes, tmp_path: Path) -> None:
    table = {"train": {**TABLE["train"], "optimizer": "sgd", "rate": 1e30}}
    with pytest.raises(UsageError) as caught:
        _compress(shapes, tmp_path, table)
    assert "learning rate" in caught.value.hint
    assert not (tmp_path / "cascade").exists()


@pytest.mark.parametrize(
    "table",
    [
        {"base": {"famly": "resnet18"}},
        {"crop": "sometimes"},
        {"members": {"budgets": [0.5, 0.25]}},
        {"predictor": {"sizes": [0.5]}},
        {"cascade": {"macs": 0.5, "top1": 0.9}},
        {"quick": {"train": {"epochs": 0}}},
        {"held_out": 1.0},
        {"seed": -1},
        {"seed": 2**31},
        {"train": {"clip": math.inf}},
        {"train": {"decay": math.inf}},
        {"cascade": {"macs": math.inf}},
        {"cascade": {"alphas": [150]}},
        {"predictor": {"sizes": [0.005, 1]}},
        {"base": {"family": "module:models:make", "weights": "mine.pth"}},
    ],
)
def test_mistakes_in_the_table_are_found_before_anything_runs(table: dict) -> None:
    with pytest.raises(ValidationError):
        CompressConfig.model_validate(table)


def test_quick_lays_over() -> None:
    config = CompressConfig.model_validate(TABLE)
    assert config.resolved(quick=True).train.epochs == 3
    assert config.resolved(quick=True).train.batch == 16
    assert config.resolved(quick=False).train.epochs == 6


def test_an_own_module_is_not_narrowed_unless_the_job_says_so() -> None:
    own, named = {"family": "module:models:make"}, {"family": "resnet50"}
    for base, width in [(own, 1.0), (own | {"width": 0.7}, 0.7), (named, 0.5), ({}, 0.5)]:
        config = CompressConfig.model_validate({"base": base})
        for quick in (True, False):
            assert config.resolved(quick).base.width == width
    switched = CompressConfig.model_validate({"base": named, "quick": {"base": own}})
    assert switched.resolved(quick=True).base.width == 1.0
    assert switched.resolved(quick=False).base.width == 0.5


def test_what_a_job_resolves_to_has_every_field() -> None:
    table = CompressConfig.model_validate({"base": {"width": 0.5}}).resolved(quick=False)
    assert table.model_dump() == CompressConfig().resolved(quick=False).model_dump()
    base = {"family": "resnet18", "width": 0.5, "depth": 1.0, "resolution": 128}
    assert table.model_dump(mode="json")["base"] == base | {
        "multiple": 8,
        "inner": 1.0,
        "weights": None,
    }


def test_the_example_is_valid() -> None:
    path = Path(__file__).parents[2] / "examples" / "imagenette.toml"
    config = CompressConfig.model_validate(tomllib.loads(path.read_text())["compress"])
    assert config.resolved(quick=True).base.spec(10).macs < config.base.spec(10).macs
