"""A comparison's choice on its way into the package and out again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from edgecompress.bench import model_card
from edgecompress.compress.cascading.evaluate import evaluate, read_cascade
from edgecompress.compress.cascading.shipped import read_light, shipped_names
from edgecompress.compress.comparing.comparison import Row, opened
from edgecompress.compress.comparing.shipping import chosen, ship
from edgecompress.compress.config import PretrainedConfig
from edgecompress.compress.networks.export import load_network
from edgecompress.compress.plan import pretrained_cascade
from edgecompress.errors import InputError, UsageError


def _of_one_seed(compared) -> list[Row]:
    return [row for row in compared.rows if row.seed == 0]


@pytest.mark.parametrize("kind", ["cascade", "cascade-crop", "member"])
def test_what_is_shipped_is_what_was_compared(compared, tmp_path: Path, kind: str) -> None:
    """With and without crops, and a single network: the runner's own path says the same."""
    own = [
        row for row in compared.rows if row.method == kind and row.budget == 0.6 and row.seed == 0
    ]
    choice = chosen([*own, *(r for r in compared.rows if r.method == "base")], 0.6, method=kind)
    out = tmp_path / "mine"
    with opened(compared.config, compared.photos, compared.work, 0) as one:
        facts = ship(
            one, choice, compared.table, out, "edgecompress bench compression mine.toml --ship mine"
        )
    n = len(compared.photos[1])
    # Half precision may turn a photo on the edge, no more.
    assert facts["cascade"]["top1"] == pytest.approx(choice.row.top1, abs=1.01 / n)
    assert facts["cascade"]["mean_macs"] == pytest.approx(choice.row.macs, rel=0.05)
    whole = pretrained_cascade(PretrainedConfig(cascade=str(out)), tmp_path / "whole")
    assert evaluate(whole, compared.photos[1]).top1 == pytest.approx(
        facts["cascade"]["top1"], abs=1e-5
    )
    assert read_cascade(whole) == read_cascade(out)
    assert (whole / f"{choice.row.networks[0]}.onnx").exists()
    card = model_card.markdown(facts)
    assert "mine.toml --ship mine" in card and f"{100 * facts['cascade']['top1']:.2f} %" in card
    assert ("predictor" in card) == (kind == "cascade-crop")


def test_half_precision_halves_the_weights(compared, tmp_path: Path):
    choice = chosen(_of_one_seed(compared), 0.6)
    with opened(compared.config, compared.photos, compared.work, 0) as one:
        ship(one, choice, compared.table, tmp_path / "light", "a command")
    name = choice.row.networks[0]
    full = (compared.work / "seed0" / f"{name}.pt").stat().st_size
    assert (tmp_path / "light" / f"{name}.pt").stat().st_size < 0.65 * full
    kept = load_network(tmp_path / "light", name)[1].state_dict()
    before = load_network(compared.work / "seed0", name)[1].state_dict()
    for key, value in kept.items():
        assert value.dtype == before[key].dtype
        assert torch.allclose(value.double(), before[key].double(), rtol=1e-3, atol=1e-6), key


def test_records_alone_cannot_be_shipped(compared, tmp_path: Path) -> None:
    """They are enough for the tables: `--so-far` on a machine that has not trained."""
    shutil.copytree(compared.work, tmp_path / "w", ignore=shutil.ignore_patterns("*.pt"))
    choice = chosen(_of_one_seed(compared), 0.6)
    with (
        opened(compared.config, compared.photos, tmp_path / "w", 0, so_far=True) as one,
        pytest.raises(UsageError, match="needs the weights") as caught,
    ):
        ship(one, choice, compared.table, tmp_path / "light", "a command")
    assert choice.row.networks[0] in str(caught.value)
    assert "--so-far" in caught.value.hint
    assert not (tmp_path / "light").exists()


def test_a_budget_that_nothing_was_chosen_for(compared) -> None:
    with pytest.raises(UsageError, match="chose nothing within"):
        chosen(compared.rows, 0.3)


def test_a_cascade_is_named_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing-here"):
        pretrained_cascade(PretrainedConfig(cascade="nothing-here"), tmp_path / "out")
    with pytest.raises(ValueError, match="either a cascade or members"):
        PretrainedConfig()
    with pytest.raises(ValueError, match="its own alpha"):
        PretrainedConfig(cascade="mine", alpha=2.0)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_network(compared, tmp_path: Path) -> None:
    with opened(compared.config, compared.photos, compared.work, 0) as one:
        choice = chosen(_of_one_seed(compared), 0.6)
        ship(one, choice, compared.table, tmp_path / "light", "a command")
    description = tmp_path / "light" / "cascade.json"
    value = json.loads(description.read_text())
    value["stages"][0]["resolution"] += 8
    description.write_text(json.dumps(value))
    with pytest.raises(InputError, match="is not the network of"):
        read_light(tmp_path / "light")


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_cascade_is_whole_and_small(name: str) -> None:
    from edgecompress.compress.cascading.shipped import CARD, FACTS, FOLDER

    cascade, networks = read_light(FOLDER / name)
    facts = json.loads((FOLDER / name / FACTS).read_text())
    files = list((FOLDER / name).iterdir())
    assert sum(path.stat().st_size for path in files) < 15e6
    assert {path.name for path in files} == {
        "cascade.json", CARD, FACTS, *(f"{one}.pt" for one in networks)
    }  # fmt: skip
    for stage in cascade.stages:
        spec = networks[stage.network][0]
        assert (spec.macs, spec.params) == (stage.macs, stage.params)
    assert model_card.markdown(facts) == (FOLDER / name / CARD).read_text()
