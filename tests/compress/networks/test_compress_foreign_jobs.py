"""The user's own modules all the way: without shortcuts, of one side only, without maps."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from edgecompress import events
from edgecompress.cli.job import load_job
from edgecompress.compress.cascading.evaluate import evaluate
from edgecompress.compress.comparing.prune.depgraph import prune_depgraph
from edgecompress.compress.comparing.prune.hrank import prune_hrank
from edgecompress.compress.config import CompressConfig
from edgecompress.compress.data.photos import image_folder
from edgecompress.compress.networks.export import TOLERANCE
from edgecompress.compress.networks.foreign.network import require_maps
from edgecompress.compress.networks.foreign.source import FOLDERS, short_name
from edgecompress.compress.networks.macs import count_macs
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.plan import compress_photos
from edgecompress.compress.shrinking.law import Law
from edgecompress.compress.shrinking.search import neighbours
from edgecompress.compress.shrinking.shrink import propose
from edgecompress.errors import UsageError

MODELS = '''
import torch
from torch import nn


def unit(inputs, outputs, stride):
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Vgg(nn.Module):
    """Units without a shortcut, adaptive pooling and a hidden layer."""

    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(
            unit(3, 16, 2), unit(16, 16, 1), unit(16, 32, 2), unit(32, 32, 1)
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, classes)
        )

    def forward(self, x):
        return self.head(self.pool(self.features(x)))


class Flat(nn.Module):
    """Takes 32 pixels only."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(unit(3, 16, 2), unit(16, 32, 2))
        self.head = nn.Linear(32 * 8 * 8, classes)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


class Around(nn.Module):
    """The photo itself goes past the last maps."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(unit(3, 16, 2), unit(16, 32, 2))
        self.head = nn.Linear(35, classes)

    def forward(self, x):
        return self.head(torch.cat([self.body(x).mean((2, 3)), x.mean((2, 3))], 1))
'''

JOB = """
name = "mine"
board = "host"
[data]
photos = "val"
train = "train"
[compress.base]
family = "module:models_beside_a_job:Vgg"
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The prefix of names in a module beside a job file, found because the job was read."""
    name = f"models_beside_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODELS)
    job = tmp_path / "job.toml"
    job.write_text(JOB.replace("models_beside_a_job", name))
    monkeypatch.setenv(FOLDERS, "")
    before = list(sys.path)
    load_job(job)
    yield f"module:{name}:"
    sys.path[:] = before
    sys.modules.pop(name, None)


def compressed(family: str, shapes, root: Path, crop: str) -> Path:
    config = CompressConfig.model_validate(
        {
            "held_out": 0.25,
            "crop": crop,
            "base": {"family": family, "width": 1.0, "resolution": 32},
            "train": {"epochs": 2, "batch": 16, "rate": 0.02, "scale": 0.6},
            "predictor": {"resolution": 32, "width": 0.5, "cam_resolution": 64, "epochs": 1},
            "shrink": {"epochs": 1, "shares": [0.5], "search": 0},
            "members": {"budgets": [0.6, 1.0], "epochs": 1, "tune_epochs": 1},
            # Both members, though on photos so few one may do as well.
            "cascade": {"subsets": False},
        }
    )
    train, val = (image_folder(path) for path in shapes)
    return compress_photos(config, train, val, root / "work", root / "cascade")


@pytest.mark.parametrize(("made", "crop"), [("Vgg", "never"), ("Flat", "always")])
def test_a_job_with_an_own_module_ends_in_a_checked_cascade(
    models: str, made: str, crop: str, shapes, tmp_path: Path
) -> None:
    told: list[events.Event] = []
    with events.listening(told.append):
        out = compressed(models + made, shapes, tmp_path, crop)
    compression = json.loads((out / "compression.json").read_text())
    checks = compression["export"]
    assert {"member60", "member100"} <= set(checks)
    assert all(check["inputs"] > 4 for check in checks.values())
    assert all(check["max_rel_error"] <= TOLERANCE for check in checks.values())
    predictions = evaluate(out, image_folder(shapes[1]))
    validated = compression["validation"]
    assert predictions.top1 == pytest.approx(validated["cascade"]["top1"], abs=1e-4)
    assert validated["members"]["member60"]["macs"] < validated["members"]["member100"]["macs"]
    warned = [event.text for event in told if event.kind == "warning" and made in event.text]
    shares = compression["steps"]["shrink"]["exponents"]
    specs = compression["steps"]["proposals"]["specs"]
    tried = [point["spec"]["resolution"] for point in compression["steps"]["shrink"]["points"]]
    if made == "Flat":  # said once, and never tried with a member
        assert sum("its resolution stays" in text for text in warned) == 1
        assert shares["resolution"] == shares["depth"] == 0
        assert {spec["resolution"] for spec in specs} == set(tried) == {32}
    else:
        assert warned == []
        assert sum(shares.values()) == pytest.approx(1)
        assert set(compression["steps"]["shrink"]["law"]["lines"]) == set(shares)


def test_a_module_of_one_side_is_tried_at_that_side_only(models: str) -> None:
    base = NetworkSpec(models + "Flat", 1.0, 1.0, 32, 2)
    assert propose(base, Law({}), 1.5) == base
    half = replace(base, width=0.7)
    assert {one.resolution for one in neighbours(half, base, half.macs, lambda s: s.macs)} <= {32}


def test_a_network_without_maps_is_not_trained_for_crops(
    models: str, shapes, tmp_path: Path
) -> None:
    begun: list[events.Event] = []
    with events.listening(begun.append), pytest.raises(UsageError, match="boxes") as caught:
        compressed(models + "Around", shapes, tmp_path, "auto")
    assert 'crop = "never"' in caught.value.hint
    assert not [event for event in begun if event.task.startswith("training")]
    require_maps(models + "Vgg", 2, 32)
    require_maps("resnet18", 2, 32)


@pytest.mark.parametrize("made", ["Vgg", "Flat", "Around"])
@pytest.mark.parametrize(("width", "depth", "side"), [(1.0, 1.0, 32), (0.5, 0.5, 48)])
def test_macs_are_those_of_the_network_that_is_built(
    models: str, made: str, width: float, depth: float, side: int
) -> None:
    spec = NetworkSpec(models + made, width, depth, side, 5)
    network = spec.build().eval()
    image = torch.randn(2, 3, side, side)
    assert count_macs(network, image[:1]) == spec.macs
    assert sum(weight.numel() for weight in network.parameters()) == spec.params
    again = spec.build()
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again.eval()(image), network(image))


@given(st.text(min_size=1).filter(str.isidentifier), st.integers(1, 40))
@example("_", 1)
def test_any_callable_gives_a_name_that_the_runner_takes(made: str, depth: int) -> None:
    name = short_name(f"module:{'.'.join(['package'] * depth)}:{made}")
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", f"{name}-cascade")
    assert short_name("resnet18") == "resnet18"


@pytest.mark.parametrize("prune", [prune_hrank, prune_depgraph])
def test_the_baselines_take_an_own_module(models: str, prune) -> None:
    spec = NetworkSpec(models + "Vgg", 1.0, 1.0, 32, 5)
    network = spec.build().eval()
    pruned = prune(network, spec, torch.randn(4, 3, 32, 32), int(0.6 * spec.macs))
    assert pruned.macs <= 0.6 * spec.macs
    maps = pruned.network.forward_features(torch.randn(2, 3, 64, 64))
    assert pruned.network.forward_head(maps).shape == (2, 5)
