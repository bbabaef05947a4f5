"""Packaged weights: the logits of the package's own network, and real photos named rightly."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError

from edgecompress.compress.cascading.evaluate import evaluate, read_cascade, read_predictions
from edgecompress.compress.data.loader import runner_inputs
from edgecompress.compress.data.photos import PhotoSet, find_photos, foolbox_photos
from edgecompress.compress.networks.pretrained import PRETRAINED, load_pretrained, pretrained_names
from edgecompress.compress.plan import PretrainedConfig, pretrained_cascade
from edgecompress.compress.training.tasks import run_batched
from edgecompress.errors import InputError, UsageError
from edgecompress.runner.photo import Box, centre_box
from edgecompress.wheels import Wheel, extract, read

REFERENCE = Wheel(
    "efficientnet-lite-pytorch==0.1.0",
    "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
)
PAIR = ("efficientnet_lite0.in1k", "efficientnet_lite2.in1k")


@pytest.fixture(scope="module")
def cascade_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "cascade"
    return pretrained_cascade(PretrainedConfig(members=PAIR), out)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory):
    """The package that the weights were published for."""
    folder = tmp_path_factory.mktemp("reference")
    extract(REFERENCE, lambda member: member.endswith(".py"), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("efficientnet_lite_pytorch")


@pytest.mark.parametrize("number", [0, 2])
def test_logits_are_those_of_the_weights_own_package(
    number: int, reference, tmp_path: Path
) -> None:
    weights = PRETRAINED[f"efficientnet_lite{number}.in1k"]
    (tmp_path / "weights.pth").write_bytes(read(weights.wheel, weights.member))
    published = reference.EfficientNet.from_name(f"efficientnet-lite{number}")
    published.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    spec, network = load_pretrained(f"efficientnet_lite{number}.in1k")
    images = torch.randn(2, 3, spec.resolution, spec.resolution)
    with torch.no_grad():
        want = published.eval()(images)
        got = network(images)
    assert (want - got).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.parametrize("name", PAIR)
def test_each_lite_names_eighteen_of_twenty_photos(name: str) -> None:
    photos = foolbox_photos()
    weights = PRETRAINED[name]
    spec, network = load_pretrained(name)

    def crop(_: int, width: int, height: int) -> Box:
        return centre_box(width, height, weights.crop)

    inputs = runner_inputs(photos, range(20), crop, spec.resolution)
    answers = run_batched(network, inputs, weights.preprocess).argmax(1)
    assert (answers == torch.tensor(photos.targets)).sum() == 18


def test_the_cascade_on_twenty_photos(cascade_folder: Path, tmp_path: Path) -> None:
    photos = foolbox_photos()
    predictions = evaluate(cascade_folder, photos)
    assert predictions.top1 >= 0.9
    assert predictions.failed == 0
    assert sum(predictions.hit_rates) == pytest.approx(1)
    assert 385e6 < predictions.mean_macs < 860e6
    assert predictions.logits.shape == (20, 1000)
    # What is written is read back as the same answers.
    predictions.write(tmp_path / "predictions.jsonl")
    again = read_predictions(tmp_path / "predictions.jsonl", predictions.cascade, photos)
    assert again.top1 == predictions.top1
    assert (again.logits == predictions.logits).all()


def test_the_folder_says_how_exact_the_export_is(cascade_folder: Path) -> None:
    compression = json.loads((cascade_folder / "compression.json").read_text())
    checks = compression["export"]
    assert set(checks) == {"efficientnet_lite0", "efficientnet_lite2"}
    assert all(0 < check["max_rel_error"] < 1e-4 for check in checks.values())
    assert all(check["inputs"] == 6 for check in checks.values())


def test_exported_shapes_are_static_and_padding_is_folded(cascade_folder: Path) -> None:
    for path in cascade_folder.glob("*.onnx"):
        graph = onnx.load(path).graph
        assert {node.op_type for node in graph.node} == {
            "Add",
            "Clip",
            "Conv",
            "Gemm",
            "ReduceMean",
        }
        (entry,) = graph.input
        assert [one.dim_value for one in entry.type.tensor_type.shape.dim][:2] == [1, 3]
        assert entry.name == "input"
        assert graph.output[0].name == "output"
        assert b"site-packages" not in path.read_bytes()


def test_damaged_photos_are_counted(cascade_folder: Path, tmp_path: Path) -> None:
    photos = foolbox_photos()
    truncated = tmp_path / "half.jpg"
    content = photos.paths[0].read_bytes()
    truncated.write_bytes(content[: len(content) // 2])
    paths = (photos.paths[0], truncated, tmp_path / "missing.jpg")
    mixed = PhotoSet("mixed", paths, photos.targets[:1] * 3, photos.labels)
    predictions = evaluate(cascade_folder, mixed)
    assert (predictions.n, predictions.failed) == (1, 2)
    assert predictions.records[1].error_kind == "input"


def test_onnx_runtime_answers_as_pytorch(cascade_folder: Path) -> None:
    photos = foolbox_photos().take(range(4))
    pytorch = evaluate(cascade_folder, photos)
    onnx = evaluate(cascade_folder, photos, engine="ONNX Runtime")
    np.testing.assert_allclose(onnx.logits, pytorch.logits, rtol=1e-3, atol=1e-3)
    assert onnx.hit_rates == pytorch.hit_rates


def test_photos_of_other_classes_are_refused(cascade_folder: Path, shapes) -> None:
    with pytest.raises(InputError, match="classes"):
        evaluate(cascade_folder, find_photos(str(shapes[1])))


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_cascade(tmp_path)
    (tmp_path / "cascade.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="labels"):
        read_cascade(tmp_path)


def test_unknown_members_offer_near_names(tmp_path: Path) -> None:
    assert pretrained_names("*lite2*") == ["efficientnet_lite2.in1k"]
    config = PretrainedConfig(members=("efficientnet_lite3.in1k",), thresholds=())
    with pytest.raises(UsageError) as caught:
        pretrained_cascade(config, tmp_path / "out")
    assert "efficientnet_lite2.in1k" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_one_threshold_stands_for_all_and_counts_are_checked() -> None:
    config = PretrainedConfig.model_validate({"members": ["a", "b", "c"], "thresholds": 0.5})
    assert config.thresholds == (0.5, 0.5)
    with pytest.raises(ValidationError):
        PretrainedConfig(members=("a", "b"), thresholds=(0.5, 0.5))
    with pytest.raises(ValidationError, match="must differ"):
        PretrainedConfig(members=("a", "a"), thresholds=(0.5,))
    with pytest.raises(ValidationError):
        PretrainedConfig.model_validate({"members": ["a", "b"], "treshold": 0.5})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("members", "accumulate", "top1", "macs"),
    [
        (PAIR[:1], False, 0.750, 385e6),
        (PAIR[1:], False, 0.754, 860e6),
        (PAIR, False, 0.760, 585e6),
        (PAIR, True, 0.774, 585e6),
    ],
)
def test_accuracy_on_ilsvrc_validation_photos(
    members, accumulate: bool, top1: float, macs: float, *, data_root: Path, tmp_path: Path
) -> None:
    """The table of docs/method.md."""
    thresholds = (0.4,) * (len(members) - 1)
    config = PretrainedConfig(members=members, thresholds=thresholds, accumulate=accumulate)
    folder = pretrained_cascade(config, tmp_path / "cascade")
    predictions = evaluate(folder, find_photos("imagenet-val", data_root))
    assert predictions.top1 == pytest.approx(top1, abs=0.003)
    assert predictions.mean_macs == pytest.approx(macs, rel=0.002)
