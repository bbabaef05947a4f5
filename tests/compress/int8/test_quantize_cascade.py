"""Cascade folders in int8: the gate, what falls back, few photos, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgecompress.compress.data.photos import PhotoSet, image_folder
from edgecompress.compress.int8.gate import Loss, answers, fewest_kept, loss
from edgecompress.compress.int8.quantize import RECORD, Settings, quantize_cascade
from edgecompress.compress.int8.simulate import compare
from edgecompress.compress.int8.views import MOST_VIEWS, record_inputs, split, view
from edgecompress.errors import GateError, InputError
from edgecompress.files import write_json
from edgecompress.runner.cascade import classify, softmax
from edgecompress.runner.photo import decode
from edgecompress.runner.spec import Cascade, Predictor, Preprocess, Stage

SIDE = 16
PREPROCESS = Preprocess((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
FEW = Settings(calibration=12, gate=16)


def write_network(path: Path, layers: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """1x1 convolutions with a Relu between them, and the mean of the last one's outputs."""
    nodes, constants, last = [], [], "input"
    for index, (weights, bias) in enumerate(layers):
        pairs = ((f"w{index}", weights[:, :, None, None]), (f"b{index}", bias))
        constants += [numpy_helper.from_array(np.float32(value), name) for name, value in pairs]
        inputs = [last, f"w{index}", f"b{index}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{index}"], name=f"conv{index}"))
        last = f"c{index}"
        if index < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"r{index}"]))
            last = f"r{index}"
    constants.append(numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
    nodes.append(helper.make_node("ReduceMean", [last, "axes"], ["output"], keepdims=0))
    classes = len(layers[-1][1])
    shapes = {"input": [1, 3, SIDE, SIDE], "output": [1, classes]}
    graph = helper.make_graph(
        nodes,
        "made",
        *(
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name])]
            for name in ("input", "output")
        ),
        constants,
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


# What tells a red disc (class 0) from a blue square (class 1).
_REDNESS = np.array([[1, 0, -1], [-1, 0, 1]], float)


def good_network(path: Path) -> None:
    """Two layers that int8 does not hurt."""
    first = (_REDNESS, np.zeros(2))
    write_network(path, [first, (np.array([[400, -400], [-400, 400]], float), np.zeros(2))])


def outlying_activation(path: Path) -> None:
    """The second layer's input has a channel, not used, that is 100,000 times the others."""
    first = (np.vstack([_REDNESS, np.zeros((1, 3))]), np.array([0, 0, 1e5]))
    second = (np.array([[400, -400, 0], [-400, 400, 0]], float), np.zeros(2))
    third = (np.eye(2), np.zeros(2))
    write_network(path, [first, second, third])


def outlying_weight(path: Path) -> None:
    """One layer, each of whose channels has a weight 10,000 times the ones that matter."""
    write_network(path, [(200 * _REDNESS + np.array([[0, 2e6, 0]]), np.zeros(2))])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cascade of two networks, the second of which falls back in part, with a predictor."""
    root = tmp_path / "cascade"
    root.mkdir()
    good_network(root / "small.onnx")
    outlying_activation(root / "big.onnx")
    write_network(root / "box.onnx", [(np.zeros((4, 3)), np.array([0.0, 0.0, 1.0, 1.0]))])
    for name in ("small", "big", "box"):
        (root / f"{name}.pt").write_bytes(name.encode())
    describe(root, ("small", "big"), predictor=True)
    write_json(root / "compression.json", {"kind": "made"})
    return root


def describe(root: Path, members: tuple[str, ...], predictor: bool = False) -> None:
    stages = [Stage(name, SIDE, 0.875, 0.5, 1.0, 1, 1) for name in members[:-1]]
    stages.append(Stage(members[-1], SIDE, 0.875, None, 1.0, 1, 1))
    box = Predictor("box", SIDE, (0.5, 1.0), 1, 1) if predictor else None
    cascade = Cascade(
        "made", ("disc", "square"), PREPROCESS, box, tuple(stages), "margin", True, 1.0, {}
    )
    write_json(root / "cascade.json", cascade.to_json())


@pytest.fixture
def photos(shapes: tuple[Path, Path]) -> tuple[PhotoSet, PhotoSet]:
    """Photos for the ranges, and others for the gate."""
    return split(image_folder(shapes[0]), FEW.calibration, FEW.gate)


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_a_sensitive_layer_stays_float32(
    folder: Path, photos: tuple[PhotoSet, PhotoSet], tmp_path: Path
) -> None:
    out = tmp_path / "quantized"
    out.mkdir()
    (out / "of before").touch()
    record = quantize_cascade(folder, out, *photos, settings=FEW, measured=photos[1].take([0, 1]))
    assert json.loads((out / RECORD).read_text()) == record
    small, big = record["networks"]["small"], record["networks"]["big"]
    assert (small["int8"], small["float32"], small["sensitivity"]) == (2, [], None)
    # What reads the outlier is kept, and nothing else.
    assert (big["layers"], big["int8"], big["float32"]) == (3, 2, ["conv1"])
    assert big["all_int8"]["expected_drop"] > 0.2
    assert big["expected_drop"] <= record["allowed_drop"] == 0.005
    assert big["sensitivity"]["conv1"] > 10 * big["sensitivity"]["conv0"]
    assert big["top1"] == {"float32": 1.0, "int8": 1.0}
    assert big["agreement"] == 1.0
    assert record["cascade"]["top1"] == {"float32": 1.0, "int8": 1.0}
    assert record["cascade"]["same_stage"] == 1.0
    # The folder is the same one but for the members' files.
    assert {path.name for path in out.iterdir()} == {RECORD, *(p.name for p in folder.iterdir())}
    changed = [p.name for p in folder.iterdir() if (out / p.name).read_bytes() != p.read_bytes()]
    assert sorted(changed) == ["big.onnx", "small.onnx"]
    assert list(record["float32"]) == ["box"]
    assert operators(out / "small.onnx").count("QuantizeLinear") == 2
    assert operators(out / "big.onnx").count("QuantizeLinear") == 2
    assert record["photos"]["ranges"] == {
        "name": "train",
        "photos": 12,
        "views": 12,
        "unreadable": 0,
    }
    assert record["photos"]["measured"] == 2
    # And once more, byte for byte.
    again = tmp_path / "again"
    assert quantize_cascade(folder, again, *photos, settings=FEW)["networks"] == record["networks"]
    assert (again / "big.onnx").read_bytes() == (out / "big.onnx").read_bytes()


def test_both_precisions_are_compared(
    folder: Path, photos: tuple[PhotoSet, PhotoSet], shapes: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "quantized"
    quantize_cascade(folder, out, *photos, settings=FEW)
    found = image_folder(shapes[1])
    gone = PhotoSet("val", (tmp_path / "gone.png", *found.paths), (0, *found.targets), found.labels)
    told = compare(folder, out, gone)
    assert list(told) == ["small", "big", "cascade"]
    for one in told.values():
        assert one.top1 == (1.0, 1.0)
        assert (one.loss.agreement, one.loss.n) == (1.0, 16)
    with pytest.raises(InputError, match="can be read"):
        compare(folder, out, gone.take([0]))


def test_a_gate_that_cannot_be_met_leaves_what_was(
    folder: Path, photos: tuple[PhotoSet, PhotoSet], tmp_path: Path
) -> None:
    outlying_weight(folder / "big.onnx")
    out = tmp_path / "quantized"
    out.mkdir()
    (out / "of before").touch()
    with pytest.raises(GateError, match=r"big more than the allowed drop of 0\.50%") as caught:
        quantize_cascade(folder, out, *photos, settings=FEW)
    assert caught.value.exit_code == 6
    assert "drop" in caught.value.hint
    assert [path.name for path in out.iterdir()] == ["of before"]
    # Who allows it, gets it.
    record = quantize_cascade(
        folder, out, *photos, settings=Settings(calibration=12, gate=16, drop=0.9)
    )
    assert record["networks"]["big"]["int8"] == 1


def test_few_photos_are_looked_at_in_more_views(
    folder: Path, shapes: tuple[Path, Path], tmp_path: Path
) -> None:
    found = image_folder(shapes[1]).take([0, 8, 1])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no photo")
    found = PhotoSet("three", (*found.paths, broken), (*found.targets, 0), found.labels)
    ranges, gate = split(found, 30, 30)
    record = quantize_cascade(folder, tmp_path / "out", ranges, gate, settings=Settings(30, 30))
    told = record["photos"]
    assert [told[use]["photos"] for use in ("ranges", "gate")] == [2, 1]
    assert [told[use]["unreadable"] for use in ("ranges", "gate")] == [0, 1]
    assert [told[use]["views"] for use in ("ranges", "gate")] == [30, 30]


def test_views_differ_and_are_always_the_same(shapes: tuple[Path, Path]) -> None:
    image = decode(image_folder(shapes[1]).paths[0])
    views = [view(image, number) for number in range(MOST_VIEWS)]
    assert len({(one.size, one.tobytes()) for one in views}) == MOST_VIEWS
    assert view(image, 0) is image
    assert view(image, 1).size == image.size
    assert view(image, 7).tobytes() == views[7].tobytes()


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 40))
def test_ranges_and_gate_share_no_photo(have: int, calibration: int, gate: int) -> None:
    paths = tuple(Path(str(i)) for i in range(have))
    one, other = split(PhotoSet("some", paths, (0,) * have, ("a",)), calibration, gate)
    assert len(one) >= 1
    assert len(other) >= 1
    if have > 1:
        assert not set(one.paths) & set(other.paths)
        assert len(one) + len(other) == min(have, calibration + gate) or calibration + gate == 1
    if have >= calibration + gate > 1:
        assert (len(one), len(other)) == (calibration, gate)


def test_no_photo_can_be_read(folder: Path, tmp_path: Path) -> None:
    gone = PhotoSet("gone", (tmp_path / "a.jpg", tmp_path / "b.jpg"), (0, 1), ("disc", "square"))
    with pytest.raises(InputError, match="no photo of gone"):
        quantize_cascade(folder, tmp_path / "out", gone, gone, settings=FEW)


def test_what_is_no_float_cascade_is_refused(
    folder: Path, photos: tuple[PhotoSet, PhotoSet], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    describe(folder, ("small",))
    quantize_cascade(folder, out, *photos, settings=FEW)
    with pytest.raises(InputError, match="quantised already"):
        quantize_cascade(out, tmp_path / "twice", *photos, settings=FEW)
    (folder / "small.onnx").write_bytes((folder / "small.onnx").read_bytes()[:200])
    with pytest.raises(InputError, match="cannot read"):
        quantize_cascade(folder, tmp_path / "twice", *photos, settings=FEW)
    (folder / "small.onnx").unlink()
    with pytest.raises(InputError, match="no such ONNX file"):
        quantize_cascade(folder, tmp_path / "twice", *photos, settings=FEW)
    assert not (tmp_path / "twice").exists()


def test_networks_see_what_the_runner_gives_them(
    folder: Path, photos: tuple[PhotoSet, PhotoSet]
) -> None:
    from edgecompress.compress.cascading.evaluate import read_cascade

    cascade = read_cascade(folder)
    seen = record_inputs(cascade, folder, photos[0], 5)
    assert set(seen.tensors) == {"box", "small", "big"}
    assert all(one.shape == (5, SIDE, SIDE, 3) for one in seen.tensors.values())
    assert all(one.dtype == np.uint8 for one in seen.tensors.values())
    # The predictor's box is the whole photo: the members see its middle square, not the squash.
    assert (seen.tensors["small"] == seen.tensors["big"]).all()
    assert (seen.tensors["small"] != seen.tensors["box"]).any()
    assert (seen.logits["small"].argmax(axis=1) == seen.targets).all()


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_cascade_answers_as_the_runner_has_it(seed: int, accumulate: bool) -> None:
    rng = np.random.default_rng(seed)
    stages = [
        Stage(f"n{i}", SIDE, 1.0, threshold, 1.5, 1, 1)
        for i, threshold in enumerate((0.4, 0.3, None))
    ]
    cascade = Cascade(
        "c", ("a", "b", "c"), PREPROCESS, None, tuple(stages), "margin", accumulate, 1.6, {}
    )
    logits = {stage.network: rng.normal(size=(6, 3)).astype(np.float32) for stage in stages}
    found, answering = answers(cascade, logits)
    image = Image.new("RGB", (20, 20))
    for row in range(6):
        outcome = classify(cascade, image, lambda name, _, row=row: logits[name][row : row + 1])
        assert outcome.stage == answering[row]
        np.testing.assert_array_equal(outcome.logits, found[row])


def test_the_loss_is_what_the_float_network_expects() -> None:
    reference = np.log(np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]], np.float32))
    got = np.array([[0, 5, 0], [5, 0, 0]], np.float32)
    told = loss(reference, got)
    assert told.expected_drop == pytest.approx(0.25)
    assert (told.agreement, told.n) == (0.5, 2)
    assert told.divergence > 0
    same = loss(reference, reference)
    assert (same.expected_drop, same.agreement) == (0, 1)
    assert same.divergence == pytest.approx(0, abs=1e-12)
    assert math.isfinite(loss(reference, np.full_like(got, np.nan)).divergence)


@given(st.integers(0, 2**32 - 1))
def test_a_loss_is_never_negative(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, got = rng.normal(size=(2, 20, 7)).astype(np.float32) * 4
    told = loss(reference, got)
    assert 0 <= told.expected_drop <= 1
    assert told.divergence >= -1e-12
    assert told.expected_drop <= (softmax(reference).max(axis=1)).mean()


@given(st.integers(1, 120), st.integers(0, 130))
def test_the_fewest_layers_are_found_in_few_tries(count: int, needed: int) -> None:
    order = [f"layer{i}" for i in range(count)]
    tries = []

    def measure(kept: frozenset[str]) -> Loss:
        tries.append(len(kept))
        assert kept == set(order[: len(kept)])
        return Loss(0.0 if len(kept) >= needed else 1.0, 0.0, 1.0, 0.0, 1)

    found = fewest_kept(order, measure, 0.5)
    most = count - max(1, round(0.1 * count))
    if max(needed, 1) > most:
        assert found is None
    else:
        assert found is not None
        assert len(found[0]) == max(needed, 1)
        assert found[1].expected_drop == 0
    assert len(tries) == len(set(tries)) <= 2 * math.log2(count + 1) + 2
