"""Networks that are none of ours: found out, shrunk, trained and exported."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from edgecompress.compress.cascading.evaluate import evaluate
from edgecompress.compress.config import CompressConfig
from edgecompress.compress.data.photos import image_folder
from edgecompress.compress.networks.foreign import Foreign, capabilities
from edgecompress.compress.networks.foreign.source import FOLDERS, look_in
from edgecompress.compress.networks.macs import count_macs
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.plan import compress_photos
from edgecompress.errors import UsageError

MODELS = '''
import torch
from torch import nn


class Plain(nn.Module):
    """Convolutions one after the other."""

    def __init__(self, classes):
        super().__init__()
        layers, inputs = [], 3
        for outputs in (16, 32, 32):
            layers.append(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


class Residual(nn.Module):
    """Blocks in a list, called by a loop."""

    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 4, 1)
        self.blocks = nn.ModuleList(Block(16) for _ in range(4))
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Normed(nn.Module):
    """Channels last in the middle, with the normalisation of transformers."""

    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 4, 1)
        self.norm = nn.LayerNorm(32)
        self.wide, self.back = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        y = self.stem(x).permute(0, 2, 3, 1)
        y = self.back(torch.relu(self.wide(self.norm(y))))
        return self.head(y.mean((1, 2)))


class Several(nn.Module):
    """A convolution that makes two channels of each."""

    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.each = nn.Conv2d(16, 32, 3, 2, 1, groups=16)
        self.body = nn.Conv2d(32, 32, 3, 2, 1)
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        for layer in (self.stem, self.each, self.body):
            x = torch.relu(layer(x))
        return self.head(x.mean((2, 3)))


class Stubborn(nn.Module):
    """One side only, and nothing behind a flattened map can be cut."""

    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, classes)

    def forward(self, x):
        return self.head(x.flatten(1))


def broken(classes):
    raise ValueError("no weights here")
'''


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module beside a job file."""
    name = "their_models"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODELS))
    monkeypatch.setenv(FOLDERS, "")
    look_in(tmp_path)
    before = list(sys.path)
    yield name
    sys.path[:] = before
    sys.modules.pop(name, None)


def spec(models: str, made: str, width: float = 1.0, depth: float = 1.0) -> NetworkSpec:
    return NetworkSpec(f"module:{models}:{made}", width, depth, 32, 5)


def test_what_can_be_shrunk_is_found_out(models: str) -> None:
    plain, residual = (spec(models, one).build() for one in ("Plain", "Residual"))
    assert isinstance(plain, Foreign) and isinstance(residual, Foreign)
    found = capabilities(plain.module, 32)
    assert found.width and found.resolution and not found.depth
    assert found.reasons["depth"]
    found = capabilities(residual.module, 32)
    assert found.width and found.resolution and found.depth


@pytest.mark.parametrize("made", ["Plain", "Residual"])
def test_width_takes_channels(models: str, made: str) -> None:
    whole, narrow = spec(models, made), spec(models, made, width=0.5)
    assert narrow.macs < 0.6 * whole.macs
    assert narrow.build().eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("made", ["Normed", "Several"])
def test_what_is_said_to_be_narrow_is_counted_and_inherits(models: str, made: str) -> None:
    whole, narrow = spec(models, made), spec(models, made, width=0.5)
    large, small = whole.build().eval(), narrow.build().eval()
    assert isinstance(large, Foreign) and isinstance(small, Foreign)
    assert capabilities(large.module, 32).width
    assert narrow.macs == count_macs(small, torch.zeros(1, 3, 32, 32)) < whole.macs
    small.adopt(large)
    assert small(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_depth_takes_blocks(models: str) -> None:
    whole, shallow = (spec(models, "Residual", depth=depth).build() for depth in (1.0, 0.5))
    gone = [part for part in shallow.modules() if type(part) is nn.Identity]
    assert len(gone) == 2
    assert len(list(shallow.parameters())) < len(list(whole.parameters()))


def test_features_and_head_are_the_whole(models: str) -> None:
    for made in ("Plain", "Residual"):
        network = spec(models, made).build().eval()
        image = torch.randn(3, 3, 48, 48)
        maps = network.forward_features(image)
        assert maps.ndim == 4
        assert torch.allclose(network.forward_head(maps), network(image), atol=1e-6)


def test_blocks_without_effect_and_channels_of_zeros_are_what_goes(models: str) -> None:
    large = spec(models, "Residual").build().eval()
    assert isinstance(large, Foreign)
    small = spec(models, "Residual", depth=0.5).build().eval()
    assert isinstance(small, Foreign)
    for name, part in small.module.named_modules():
        if type(part) is nn.Identity:
            norm = large.module.get_submodule(name).norm
            norm.weight.data.zero_()  # type: ignore[union-attr]
            norm.bias.data.zero_()  # type: ignore[union-attr]
    small.adopt(large)
    image = torch.randn(2, 3, 32, 32)
    # Behind the first block all is positive already, so that a block without branch is none.
    assert torch.allclose(small(image), large(image), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("module:nowhere_at_all:make", "nowhere_at_all"),
        ("module:their_models:Missing", "Missing"),
        ("module:their_models:broken", "no weights here"),
        ("module:their_models:Stubborn", "cannot be shrunk"),
        ("module:their models:x", "names no callable"),
        ("module:their_models:torch", "not a callable"),
    ],
)
def test_what_cannot_be_taken_is_said(models: str, family: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        NetworkSpec(family, 1.0, 1.0, 32, 5).build()
    assert caught.value.hint


def test_a_whole_job(models: str, shapes, tmp_path: Path) -> None:
    config = CompressConfig.model_validate(
        {
            "held_out": 0.25,
            "crop": "always",
            "base": {"family": f"module:{models}:Residual", "width": 1.0, "resolution": 32},
            "train": {"epochs": 3, "batch": 16, "rate": 0.02, "decay": 0.01, "scale": 0.6},
            "predictor": {"resolution": 32, "width": 0.5, "cam_resolution": 64, "epochs": 1},
            "shrink": {"epochs": 1, "shares": [0.5], "search": 0},
            "members": {"budgets": [0.5, 1.0], "epochs": 1, "tune_epochs": 1},
        }
    )
    train, val = (image_folder(path) for path in shapes)
    out = compress_photos(config, train, val, tmp_path / "work", tmp_path / "cascade")
    told = json.loads((out / "compression.json").read_text())
    predictions = evaluate(out, val)
    assert predictions.top1 == pytest.approx(told["validation"]["cascade"]["top1"], abs=1e-4)
    small = told["variants"]["crop"]["members"][0]
    assert small["macs"] <= 0.5 * told["validation"]["base"]["macs"]
