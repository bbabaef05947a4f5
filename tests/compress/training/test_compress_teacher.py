"""A teacher's answers, kept for the next student that sees the same views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.compress.data.augment import Augment
from edgecompress.compress.data.loader import load_cache, whole
from edgecompress.compress.data.loader import runner_inputs as inputs_of
from edgecompress.compress.data.photos import image_folder
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.training import teacher
from edgecompress.compress.training.material import IMAGENET_PIXELS
from edgecompress.compress.training.tasks import ClassifyTask, Held
from edgecompress.compress.training.teacher import KEY_BYTES, Memory, Teacher, view_key
from edgecompress.compress.training.train import Recipe, train

SIDE = 32
RECIPE = Recipe(epochs=2, batch=16, rate=0.02, warmup=0.5, distil=0.5, seed=3)


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return NetworkSpec("resnet18", 0.25, 0.5, SIDE, 2).build()


@pytest.fixture(scope="module")
def task(shapes: tuple[Path, Path]) -> ClassifyTask:
    photos, held = (image_folder(root) for root in shapes)
    cache = load_cache(held, SIDE)
    inputs = inputs_of(held, cache.positions, whole, SIDE)
    return ClassifyTask(
        cache=load_cache(photos, 40),
        resolution=SIDE,
        preprocess=IMAGENET_PIXELS,
        augment=Augment((0.6, 1.0)),
        held=Held(inputs, cache.targets),
    )


class Asked:
    """A teacher that counts the views that it is shown."""

    def __init__(self) -> None:
        self.views = 0
        self.network = _network().eval()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.views += len(images)
        return self.network(images)


def _keys(count: int, first: int = 0) -> list[bytes]:
    return [view_key(first + i, (0.0, 0.0, 1.0, 1.0), 32) for i in range(count)]


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_the_second_student_asks_nothing_and_learns_the_same(
    task: ClassifyTask, tmp_path: Path, jitter: float
) -> None:
    task = replace(task, augment=replace(task.augment, jitter=jitter))
    networks, counts = [], []
    for number in range(2):
        asked = Asked()
        taught = replace(task, teacher=Teacher(asked, 48, Memory(tmp_path, "base", "a0", 2)))
        networks.append(_network())
        train(networks[-1], taught, RECIPE, tmp_path / f"checkpoint{number}", "shapes")
        counts.append(asked.views)
    assert counts == [RECIPE.epochs * task.size, 0]
    one, other = (network.state_dict() for network in networks)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_seed_or_mixed_photos_are_asked_for(task: ClassifyTask, tmp_path: Path) -> None:
    asked = Asked()
    taught = replace(task, teacher=Teacher(asked, 48, Memory(tmp_path, "base", "a0", 2)))
    for seed in (1, 2):
        recipe = replace(RECIPE, epochs=1, seed=seed)
        train(_network(), taught, recipe, tmp_path / f"{seed}", "shapes")
    assert asked.views == 2 * task.size
    mixed = replace(taught, augment=replace(task.augment, mixup=0.2))
    for number in range(2):
        train(_network(), mixed, replace(RECIPE, epochs=1), tmp_path / f"mixed{number}", "shapes")
    assert asked.views == 4 * task.size


def test_what_was_kept_outlives_the_process_and_a_torn_end(tmp_path: Path) -> None:
    told = torch.randn(5, 3)
    kept = Memory(tmp_path, "base", "a0", 3).keep(_keys(5), told)
    assert torch.allclose(kept, told, atol=2e-3)
    (file,) = tmp_path.glob("taught-*")
    file.write_bytes(file.read_bytes()[:-1])
    again = Memory(tmp_path, "base", "a0", 3)
    assert torch.equal(again.recall(_keys(4)), kept[:4])
    assert again.recall(_keys(5)) is None
    again.keep(_keys(1, first=4), told[4:])
    assert torch.equal(Memory(tmp_path, "base", "a0", 3).recall(_keys(5)), kept)


def test_another_teachers_answers_are_neither_used_nor_kept(tmp_path: Path) -> None:
    Memory(tmp_path, "base", "a0", 3).keep(_keys(2), torch.zeros(2, 3))
    assert Memory(tmp_path, "base", "b1", 3).recall(_keys(2)) is None
    assert not list(tmp_path.glob("taught-*"))


def test_two_teachers_answers_lie_side_by_side(tmp_path: Path) -> None:
    names = ("base", "base-2", "member1.2G")
    for number, name in enumerate(names):
        Memory(tmp_path, name, "a0", 3).keep(_keys(2), torch.full((2, 3), float(number)))
    for number, name in enumerate(names):
        told = Memory(tmp_path, name, "a0", 3).recall(_keys(2))
        assert told is not None
        assert torch.equal(told, torch.full((2, 3), float(number)))


def test_there_is_an_end_to_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = KEY_BYTES + 2 * 3
    monkeypatch.setattr(teacher, "MOST_BYTES", 4 * record)
    memory = Memory(tmp_path, "base", "a0", 3)
    for first in (0, 2, 4):
        memory.keep(_keys(2, first), torch.ones(2, 3))
    assert memory.recall(_keys(4)) is not None
    assert memory.recall(_keys(2, 4)) is None
    assert sum(file.stat().st_size for file in tmp_path.glob("taught-*")) == 4 * record


def test_views_of_other_looks_are_asked_for(task: ClassifyTask, tmp_path: Path) -> None:
    asked = Asked()
    for number, jitter in enumerate((0.0, 0.2, 0.3)):
        augment = replace(task.augment, jitter=jitter)
        taught = replace(
            task, augment=augment, teacher=Teacher(asked, 48, Memory(tmp_path, "base", "a0", 2))
        )
        recipe = replace(RECIPE, epochs=1)
        train(_network(), taught, recipe, tmp_path / f"checkpoint{number}", "shapes")
    assert asked.views == 3 * task.size


_edge = st.floats(0, 1)
_view = st.tuples(st.integers(0, 10**6), st.tuples(*[_edge] * 4), st.integers(32, 256))


@given(_view, _view)
def test_two_views_have_one_key_only_if_they_are_one(
    one: tuple[int, tuple[float, float, float, float], int],
    other: tuple[int, tuple[float, float, float, float], int],
) -> None:
    assert (view_key(*one) == view_key(*other)) == (repr(one) == repr(other))
