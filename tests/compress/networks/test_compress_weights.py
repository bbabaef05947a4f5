"""Trained weights from files and packages: published names, what does not fit, what is told."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgecompress.compress.cascading.evaluate import normalise
from edgecompress.compress.config import CompressConfig
from edgecompress.compress.data.imagenet import CLASSES, class_names, places_of
from edgecompress.compress.data.loader import load_cache
from edgecompress.compress.data.photos import image_folder
from edgecompress.compress.networks import weights
from edgecompress.compress.networks.export import load_network, save_network
from edgecompress.compress.networks.families import Network
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.networks.pretrained import find_weights
from edgecompress.compress.networks.weights import load_weights, weights_identity
from edgecompress.compress.plan import compress_photos
from edgecompress.compress.training.material import IMAGENET_PIXELS
from edgecompress.compress.training.tasks import run_batched
from edgecompress.errors import EdgeCompressError, InputError, UsageError
from edgecompress.files import read_json

SPEC = NetworkSpec("resnet18", 0.125, 0.5, 32, 5)

# The first 16 digits of the SHA-256 of the published networks' lists of tensors, a line
# "name shape" each, sorted: torchvision 0.28.0 and timm 1.0.31.
TORCHVISION = {
    "resnet18": "f0e35161599236f3",
    "resnet34": "c1372162bc2e8e86",
    "resnet50": "fe1d335c3c7786ff",
    "mobilenet_v2": "2a196dc04125b8ce",
    "regnet_x_400mf": "9be77a4f2be89474",
    "regnet_x_800mf": "5ee1258bb874b3ef",
    "regnet_x_1_6gf": "cbc03f4166d2728e",
    "regnet_y_400mf": "fc765d9c4b299bfd",
    "regnet_y_800mf": "2f0a75226b9da7ce",
    "regnet_y_1_6gf": "e3b03fde7e1ea9f0",
}
TIMM = {
    "resnet18": "f0e35161599236f3",
    "resnet50": "fe1d335c3c7786ff",
    "resnet18d": "30f711358857da3c",
    "resnet34d": "0d604138f5659d8d",
    "resnet50d": "1e44704a9c81a3b3",
    "mobilenet_v2": "026fcf850fd3006a",  # mobilenetv2_100
    "efficientnet_lite0": "c848caa45204bd67",  # tf_efficientnet_lite0
    "efficientnet_lite2": "59aabfeee8cc665b",
    "regnet_x_200mf": "0acb68667a48f988",  # regnetx_002
    "regnet_x_400mf": "3e8fd3d7b2bda11e",  # regnetx_004_tv
    "regnet_x_600mf": "f84bffc1d056db47",
    "regnet_x_800mf": "39fab645d81d305c",
    "regnet_x_1_6gf": "f67d18b61b56fcd9",
    "regnet_y_200mf": "17b30361be86e3d5",
    "regnet_y_400mf": "18035e66be3a4e78",
    "regnet_y_600mf": "02d77a766aab2d4f",
    "regnet_y_800mf": "67b22345634d83d1",  # regnety_008_tv
    "regnet_y_1_6gf": "31819fa96b51a238",
}


def _digest(state: dict[str, Tensor]) -> str:
    lines = sorted(f"{name} {'x'.join(map(str, one.shape))}" for name, one in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _timm_regnet(name: str) -> str:
    """timm's name of one of our tensors."""
    parts = name.split(".")
    part = ("conv", "bn")
    if parts[0] == "stem":
        return f"stem.{part[int(parts[1])]}.{parts[2]}"
    if parts[0] == "fc":
        return f"head.{name}"
    stage, step = map(int, re.findall(r"\d+", parts[2]))
    where = f"s{stage}.b{step + 1}"
    if parts[3] == "proj":
        return f"{where}.downsample.{part[int(parts[4])]}.{parts[5]}"
    if parts[4] == "se":
        return ".".join([where, *parts[4:]])
    layer = {"a": "conv1", "b": "conv2", "c": "conv3"}[parts[4]]
    return f"{where}.{layer}.{part[int(parts[5])]}.{parts[6]}"


def _timm_mobilenet(name: str) -> str:
    """timm's name of one of our tensors, at the published depth."""
    parts = name.split(".")
    if parts[0] == "classifier":
        return f"classifier.{parts[2]}"
    index, last = int(parts[1]), 18
    if index in (0, last):
        layers = ("conv_head", "bn2") if index else ("conv_stem", "bn1")
        return f"{layers[int(parts[2])]}.{parts[3]}"
    places = [
        (stage, at) for stage, count in enumerate((1, 2, 3, 4, 3, 3, 1)) for at in range(count)
    ]
    stage, at = places[index - 1]
    order = [("conv_dw", "bn1"), ("conv_pw",), ("bn2",)]
    if stage:
        order = [("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl",), ("bn3",)]
    unit = order[int(parts[3])]
    return f"blocks.{stage}.{at}.{unit[int(parts[4])] if len(unit) > 1 else unit[0]}.{parts[-1]}"


def _shaken(spec: NetworkSpec, seed: int = 3) -> Network:
    """A network of which no two tensors are alike."""
    network = spec.build()
    generator = torch.Generator().manual_seed(seed)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return network


def _same(left: nn.Module, right: nn.Module) -> None:
    other = right.state_dict()
    for name, value in left.state_dict().items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(("family", "digest"), TORCHVISION.items())
def test_tensors_are_those_of_torchvision(family: str, digest: str) -> None:
    with torch.device("meta"):
        assert _digest(NetworkSpec(family, 1.0, 1.0, 224, 1000).build().state_dict()) == digest


@pytest.mark.parametrize(("family", "digest"), TIMM.items())
def test_weights_with_timms_names_are_taken(family: str, digest: str, tmp_path: Path) -> None:
    rename = {"regnet": _timm_regnet, "mobilenet": _timm_mobilenet}.get(
        family.partition("_")[0], str
    )

    def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
        named = {rename(name): value for name, value in state.items()}
        assert len(named) == len(state)
        return named

    with torch.device("meta"):
        full = NetworkSpec(family, 1.0, 1.0, 224, 1000).build().state_dict()
    assert _digest(published(full)) == digest
    # What is renamed does not depend on the width: a narrow one is faster.
    spec = NetworkSpec(family, 0.25, 1.0, 32, 5)
    given, network = _shaken(spec), spec.build()
    torch.save(published(given.state_dict()), tmp_path / "timm.pth")
    assert load_weights(network, spec, str(tmp_path / "timm.pth")) == ()
    _same(network, given)


@pytest.mark.parametrize("kind", ["pth", "wrapped", "parallel", "safetensors", "ours"])
def test_files_of_all_kinds_are_read(kind: str, tmp_path: Path) -> None:
    given, network = _shaken(SPEC), SPEC.build()
    state = given.state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "ours":
        save_network(path, SPEC, given)
    elif kind == "wrapped":
        torch.save({"epoch": 3, "model": state}, path)
    else:
        torch.save({f"module.{k}" if kind == "parallel" else k: v for k, v in state.items()}, path)
    assert load_weights(network, SPEC, str(path)) == ()
    _same(network, given)


def test_a_head_of_other_classes_stays_fresh(tmp_path: Path) -> None:
    given = _shaken(NetworkSpec("resnet18", 0.125, 0.5, 32, 1000))
    torch.save(given.state_dict(), tmp_path / "w.pth")
    network = SPEC.build()
    fresh = network.get_parameter("fc.weight").clone()
    assert load_weights(network, SPEC, str(tmp_path / "w.pth")) == ("fc.weight", "fc.bias")
    assert torch.equal(network.get_parameter("fc.weight"), fresh)
    taken = network.get_parameter("layer4.0.conv2.weight")
    assert torch.equal(taken, given.get_parameter("layer4.0.conv2.weight"))


def test_a_file_without_head_or_counters_will_do(tmp_path: Path) -> None:
    state = {
        name: value
        for name, value in _shaken(SPEC).state_dict().items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    torch.save(state, tmp_path / "w.pth")
    assert load_weights(SPEC.build(), SPEC, str(tmp_path / "w.pth")) == ("fc.weight", "fc.bias")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"layer9.conv.weight": torch.zeros(3)}, r"layer9\.conv\.weight \(no place for it\)"),
        ({"conv1.weight": torch.zeros(16, 3, 7, 7)}, r"conv1\.weight \(16x3x7x7 instead of 8x3"),
        ({"bn1.weight": None}, r"bn1\.weight \(missing\)"),
        ({"fc.weight": torch.zeros(7, 9)}, r"fc\.weight \(7x9 instead of 5x64\)"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(
    change: dict[str, Tensor | None], told: str, tmp_path: Path
) -> None:
    state = {**_shaken(SPEC).state_dict(), **change}
    kept = {name: value for name, value in state.items() if value is not None}
    torch.save(kept, tmp_path / "w.pth")
    network, untouched = _shaken(SPEC, 1), _shaken(SPEC, 1)
    with pytest.raises(InputError, match=told) as caught:
        load_weights(network, SPEC, str(tmp_path / "w.pth"))
    assert "width" in caught.value.hint
    _same(network, untouched)


def test_a_wider_networks_weights_are_counted_not_listed(tmp_path: Path) -> None:
    wide = NetworkSpec("resnet18", 0.25, 0.5, 32, 5)
    torch.save(_shaken(wide).state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"and \d+ more$"):
        load_weights(SPEC.build(), SPEC, str(tmp_path / "w.pth"))


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path("trapped").touch, ()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_files_and_traps_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    with pytest.raises(InputError, match="no such weights"):
        load_weights(SPEC.build(), SPEC, str(path))
    path.write_bytes(b"half a fi")
    with pytest.raises(InputError, match=r"cannot read|more than weights"):
        load_weights(SPEC.build(), SPEC, str(path))
    if path.suffix == ".pth":
        path.write_bytes(pickle.dumps({"conv1.weight": _Trap()}, protocol=2))
        with pytest.raises(InputError):
            load_weights(SPEC.build(), SPEC, str(path))
        assert not (tmp_path / "trapped").exists()
        torch.save({"conv1.weight": 3}, path)
        with pytest.raises(InputError, match=r"conv1\.weight is no tensor"):
            load_weights(SPEC.build(), SPEC, str(path))
        torch.save([], path)
        with pytest.raises(InputError, match="no state dict"):
            load_weights(SPEC.build(), SPEC, str(path))


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_a_missing_package_is_told_with_the_command(package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(UsageError, match=f"{package} is not installed") as caught:
        load_weights(SPEC.build(), SPEC, f"{package}:resnet18")
    assert f"pip install 'edgecompress[{package}]'" in caught.value.hint


def _put(folder: Path, package: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name, first on the path."""
    for name in [one for one in sys.modules if one.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    # What is imported now is forgotten afterwards.
    monkeypatch.setitem(sys.modules, package, None)
    del sys.modules[package]


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_a_broken_package_is_told(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(tmp_path, package, "raise RuntimeError('operator nms does not exist')", monkeypatch)
    with pytest.raises(UsageError, match="cannot be imported: operator nms") as caught:
        load_weights(SPEC.build(), SPEC, f"{package}:resnet18")
    assert f"edgecompress[{package}]" in caught.value.hint


STAND_IN = """
import enum, torch
class _Weights(enum.Enum):
    V1 = "w.pth"
    V2 = "absent.pth"
    def get_state_dict(self, progress):
        return torch.load(FOLDER + "/" + self.value, weights_only=True)
class models:
    @staticmethod
    def get_model_weights(name):
        if name != "resnet18":
            raise ValueError("Unknown model")
        return _Weights
"""


def test_torchvisions_tags_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, network = _shaken(SPEC), SPEC.build()
    torch.save(given.state_dict(), tmp_path / "w.pth")
    _put(tmp_path, "torchvision", f"FOLDER = {str(tmp_path)!r}\n{STAND_IN}", monkeypatch)
    assert load_weights(network, SPEC, "torchvision:V1") == ()
    _same(network, given)
    with pytest.raises(UsageError, match="no weights V3 for resnet18") as caught:
        load_weights(network, SPEC, "torchvision:V3")
    assert "V1, V2" in caught.value.hint
    with pytest.raises(InputError, match="cannot fetch the weights torchvision:V2"):
        load_weights(network, SPEC, "torchvision:V2")
    other = NetworkSpec("efficientnet_lite0", 1.0, 1.0, 32, 5)
    with pytest.raises(UsageError, match="no weights for efficientnet_lite0"):
        load_weights(other.build(), other, "torchvision:V1")


def _thousand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """Stands in for a network that torchvision has trained on ImageNet-1K."""
    given = _shaken(NetworkSpec("resnet18", 0.125, 0.5, 32, CLASSES))
    torch.save(given.state_dict(), folder / "w.pth")
    _put(folder, "torchvision", f"FOLDER = {str(folder)!r}\n{STAND_IN}", monkeypatch)
    return given


def test_the_rows_of_known_classes_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, network = _thousand(tmp_path, monkeypatch), SPEC.build()
    labels = ("Tench", "n02102040", "golf_ball", "gas pump", "goldfish")
    assert load_weights(network, SPEC, "torchvision:V1", labels=labels) == ()
    places = [0, 217, 574, 571, 1]
    images = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        kept = network.eval()(images)
        torch.testing.assert_close(kept, given.eval()(images)[:, places])


def test_classes_that_nobody_knows_stay_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = _thousand(tmp_path, monkeypatch)
    head = ("fc.weight", "fc.bias")
    some, none = SPEC.build(), SPEC.build()
    before = some.get_parameter("fc.weight").clone()
    labels = ("tench", "my cat", "my dog", "my bird", "my fish")
    assert load_weights(some, SPEC, "torchvision:V1", labels=labels) == head
    after, published = some.get_parameter("fc.weight"), given.get_parameter("fc.weight")
    torch.testing.assert_close(after[0], published[0])
    torch.testing.assert_close(after[1:], before[1:])
    before = none.get_parameter("fc.weight").clone()
    assert load_weights(none, SPEC, "torchvision:V1", labels=("my fish",) * 5) == head
    torch.testing.assert_close(none.get_parameter("fc.weight"), before)


def test_a_thousand_other_classes_get_no_rows_by_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, names = _thousand(tmp_path, monkeypatch), class_names()
    spec = NetworkSpec("resnet18", 0.125, 0.5, 32, CLASSES)
    published = given.get_parameter("fc.weight")

    def loaded(labels: Sequence[str]) -> tuple[tuple[str, ...], Tensor]:
        network = spec.build()
        fresh = load_weights(network, spec, "torchvision:V1", labels=labels)
        return fresh, network.get_parameter("fc.weight")

    fresh, rows = loaded(names)
    assert fresh == () and torch.equal(rows, published)
    fresh, rows = loaded(names[::-1])
    assert fresh == () and torch.equal(rows, published.flip(0))
    fresh, rows = loaded([f"bird {number}" for number in range(CLASSES)])
    assert fresh == ("fc.weight", "fc.bias") and not torch.equal(rows, published)


def test_a_class_is_known_by_its_capitals_first() -> None:
    assert places_of(class_names()) == tuple(range(CLASSES))
    assert places_of(["Cardigan", "cardigan", "TENCH"]) == (264, 474, 0)


def test_a_file_of_a_thousand_classes_is_not_taken_for_imagenets(tmp_path: Path) -> None:
    given, network = _shaken(NetworkSpec("resnet18", 0.125, 0.5, 32, CLASSES)), SPEC.build()
    torch.save(given.state_dict(), tmp_path / "w.pth")
    before = network.get_parameter("fc.weight").clone()
    labels = ("tench", "goldfish", "golf ball", "gas pump", "church")
    fresh = load_weights(network, SPEC, str(tmp_path / "w.pth"), labels=labels)
    assert fresh == ("fc.weight", "fc.bias")
    torch.testing.assert_close(network.get_parameter("fc.weight"), before)


def test_weights_expect_what_the_job_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first layers give is what they gave with the preprocessing of the packaged weights,
    but at the photo's border."""
    spec = NetworkSpec("efficientnet_lite0", 1.0, 1.0, 32, 5)
    given, network = _shaken(spec).eval(), spec.build()
    monkeypatch.setattr(weights, "read_state", lambda name: given.state_dict())
    load_weights(network, spec, "efficientnet_lite0.in1k", preprocess=IMAGENET_PIXELS)
    photos = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    packaged = find_weights("efficientnet_lite0.in1k").preprocess
    with torch.inference_mode():
        first, second = (list(one.eval().children())[:2] for one in (given, network))
        wanted = nn.Sequential(*first)(normalise(photos, packaged))
        found = nn.Sequential(*second)(normalise(photos, IMAGENET_PIXELS))
    torch.testing.assert_close(found[..., :-1, :-1], wanted[..., :-1, :-1], atol=1e-4, rtol=1e-4)


def test_weights_that_would_fit_but_answer_otherwise_are_refused() -> None:
    spec = NetworkSpec("efficientnet_lite0", 1.0, 1.0, 32, 5)
    with pytest.raises(UsageError) as caught:
        load_weights(spec.build(), spec, "timm:efficientnet_lite0.ra_in1k")
    assert "timm:tf_efficientnet_lite0" in caught.value.hint


def test_packaged_weights_of_another_family_are_refused() -> None:
    with pytest.raises(UsageError, match="efficientnet_lite0, not of resnet18"):
        load_weights(SPEC.build(), SPEC, "efficientnet_lite0.in1k")


def test_flat_names_of_another_network_are_refused(tmp_path: Path) -> None:
    spec = NetworkSpec("efficientnet_lite0", 0.25, 0.3, 32, 5)
    torch.save({"_blocks.40._bn1.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"_blocks\.40\._bn1\.weight"):
        load_weights(spec.build(), spec, str(tmp_path / "w.pth"))


@pytest.mark.slow
def test_packaged_weights_are_taken() -> None:
    spec = NetworkSpec("efficientnet_lite0", 1.0, 1.0, 64, 5)
    network = spec.build()
    fresh = load_weights(network, spec, "efficientnet_lite0.in1k")
    assert fresh == ("classifier.weight", "classifier.bias")
    assert network.get_buffer("bn1.running_var").std() > 0


@pytest.mark.slow
def test_a_published_network_knows_imagenettes_classes(data_root: Path) -> None:
    """EfficientNet-Lite0 at 160 pixels, without any training."""
    photos = image_folder(data_root / "imagenette160" / "val")
    photos = photos.take(range(0, len(photos), 10))
    spec = NetworkSpec("efficientnet_lite0", 1.0, 1.0, 160, 10)
    network = spec.build()
    source = "efficientnet_lite0.in1k"
    kept = {"labels": photos.labels, "preprocess": IMAGENET_PIXELS}
    assert load_weights(network, spec, source, **kept) == ()
    cache = load_cache(photos, 160)
    inputs = cache.squashed(list(range(len(cache))), 160).permute(0, 2, 3, 1)
    answers = run_batched(network.eval(), inputs, IMAGENET_PIXELS).argmax(1)
    assert (answers == cache.targets).float().mean().item() > 0.94


def test_identity_is_of_what_the_file_holds(tmp_path: Path) -> None:
    one, two = tmp_path / "one.pth", tmp_path / "two.pth"
    one.write_bytes(b"1")
    two.write_bytes(b"1")
    assert weights_identity(str(one)) == weights_identity(str(two))
    two.write_bytes(b"2")
    assert weights_identity(str(one)) != weights_identity(str(two))
    with pytest.raises(EdgeCompressError):
        weights_identity(str(tmp_path / "absent.pth"))
    assert "efficientnet_lite0.in1k" in weights_identity("efficientnet_lite0.in1k")
    assert weights_identity("timm:a") != weights_identity("timm:b")


def test_the_base_of_a_job_begins_with_them(shapes: Any, tmp_path: Path) -> None:
    """A job without weights, then one that begins with what that has trained."""
    table: dict[str, Any] = {
        "held_out": 0.25,
        "crop": "never",
        "base": {"family": "resnet18", "width": 0.125, "resolution": 32},
        "train": {"epochs": 4, "batch": 16, "rate": 0.02, "scale": 0.6},
        "shrink": {"epochs": 1, "shares": [0.5]},
        "members": {"budgets": [1.0], "epochs": 1, "tune_epochs": 1},
    }
    train, val = (image_folder(path) for path in shapes)

    def run(name: str, table: dict[str, Any]) -> dict[str, Any]:
        work = tmp_path / name
        config = CompressConfig.model_validate(table)
        compress_photos(config, train, val, work, tmp_path / f"{name}-out")
        return read_json(work / "base.json")

    first = run("first", table)
    table["train"] = {**table["train"], "epochs": 1, "rate": 1e-6, "warmup": 0.0}
    table["base"]["weights"] = str(tmp_path / "first" / "base.pt")
    second = run("second", table)
    trained = load_network(tmp_path / "first", "base")
    begun = load_network(tmp_path / "second", "base")
    for name, value in trained[1].named_parameters():
        torch.testing.assert_close(begun[1].get_parameter(name), value, atol=1e-4, rtol=0)
    assert second["fingerprint"] != first["fingerprint"]


def _as_it_is(folder: Path, classes: int) -> dict[str, Any]:
    spec = NetworkSpec("resnet18", 0.125, 1.0, 32, classes)
    torch.save(spec.build().state_dict(), folder / "mine.pth")
    return {
        "held_out": 0.25,
        "crop": "never",
        "base": {
            "family": "resnet18",
            "width": 0.125,
            "resolution": 32,
            "weights": str(folder / "mine.pth"),
        },
        "train": {"epochs": 0, "batch": 16, "rate": 0.02},
        "shrink": {"epochs": 1, "shares": [0.5]},
        "members": {"budgets": [1.0], "epochs": 1, "tune_epochs": 1},
    }


def test_a_trained_base_may_stay_as_it_is(shapes: Any, tmp_path: Path) -> None:
    train, val = (image_folder(path) for path in shapes)
    config = CompressConfig.model_validate(_as_it_is(tmp_path, len(train.labels)))
    compress_photos(config, train, val, tmp_path / "work", tmp_path / "out")
    base = load_network(tmp_path / "work", "base")[1]
    given = torch.load(tmp_path / "mine.pth", weights_only=True)
    for name, value in base.state_dict().items():
        torch.testing.assert_close(value, given[name], atol=0, rtol=0)
    result = read_json(tmp_path / "work" / "base.json")["result"]
    assert result["losses"] == []
    assert result["measures"] == [result["held_out"]]


def test_nothing_would_train_a_last_layer(shapes: Any, tmp_path: Path) -> None:
    train, val = (image_folder(path) for path in shapes)
    config = CompressConfig.model_validate(_as_it_is(tmp_path, 7))
    with pytest.raises(UsageError, match=r"nothing would train fc\.weight") as caught:
        compress_photos(config, train, val, tmp_path / "work", tmp_path / "out")
    assert "epochs" in caught.value.hint


def test_no_epochs_need_weights() -> None:
    with pytest.raises(ValueError, match=r"train\.epochs: 0 needs trained weights"):
        CompressConfig.model_validate({"train": {"epochs": 0}})
    own = {"base": {"family": "module:models:make"}, "train": {"epochs": 0}}
    assert CompressConfig.model_validate(own).train.epochs == 0
