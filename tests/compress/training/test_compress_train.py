"""The training loop: learns, resumes exactly after SIGKILL, refuses to diverge silently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecompress import events
from edgecompress.compress.config import TrainTable
from edgecompress.compress.cropping.box_task import BoxTask
from edgecompress.compress.data.augment import ALL, Augment
from edgecompress.compress.data.loader import load_cache, runner_inputs
from edgecompress.compress.data.photos import image_folder
from edgecompress.compress.networks.network import NetworkSpec
from edgecompress.compress.recipe import Recipe, learning_rate, side_share
from edgecompress.compress.training import checkpoint as checkpoint_module
from edgecompress.compress.training.material import IMAGENET_PIXELS, centred
from edgecompress.compress.training.tasks import ClassifyTask, Held
from edgecompress.compress.training.teacher import Teacher
from edgecompress.compress.training.train import train
from edgecompress.errors import InputError, UsageError

SPEC = NetworkSpec("resnet18", 0.125, 0.5, 32, 2)
RECIPE = Recipe(epochs=4, batch=16, rate=0.01, optimizer="adamw", decay=0.01, smoothing=0.0)


def _task(shapes) -> ClassifyTask:
    photos, held = (image_folder(root) for root in shapes)
    held_cache = load_cache(held, 32)
    inputs = runner_inputs(held, held_cache.positions, centred, SPEC.resolution)
    return ClassifyTask(
        cache=load_cache(photos, 40),
        resolution=SPEC.resolution,
        preprocess=IMAGENET_PIXELS,
        augment=Augment((0.6, 1.0)),
        held=Held(inputs, held_cache.targets),
    )


def _batch(task, indices: torch.Tensor, seed: int = 0, share: float = 1.0):
    return task.ready(task.draw(indices, torch.Generator().manual_seed(seed), share)())


def test_one_photo_is_too_few(shapes, tmp_path: Path) -> None:
    task = _task(shapes)
    photos = image_folder(shapes[0])
    task = replace(task, cache=load_cache(photos.take([0]), 40))
    with pytest.raises(InputError, match="1 photos to train on that can be read"):
        train(_network(), task, RECIPE, tmp_path / "c", "one")


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return SPEC.build()


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 0.02), ("sgd", 0.1)])
def test_it_learns(optimizer, rate: float, shapes, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=8, optimizer=optimizer, rate=rate)
    outcome = train(_network(), _task(shapes), recipe, tmp_path / "checkpoint", "shapes")
    assert outcome.measures[-1] >= 0.9
    assert outcome.losses[-1] < 0.5 * outcome.losses[0]
    assert len(outcome.losses) == 8


def test_the_same_seed_gives_the_same_weights_and_another_does_not(shapes, tmp_path: Path) -> None:
    networks = [_network() for _ in range(3)]
    before = torch.random.get_rng_state()
    for index, (network, seed) in enumerate(zip(networks, (3, 3, 4), strict=True)):
        recipe = replace(RECIPE, epochs=1, seed=seed)
        train(network, _task(shapes), recipe, tmp_path / f"{index}", "shapes")
    assert _same(networks[0], networks[1])
    assert not _same(networks[0], networks[2])
    assert torch.equal(before, torch.random.get_rng_state())


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import torch
torch.set_num_threads(1)
from test_compress_train import RECIPE, _network, _task
from edgecompress.compress.training.train import train
train(_network(), _task((Path({fit!r}), Path({val!r}))), RECIPE, Path({checkpoint!r}), "shapes")
"""


def test_a_killed_training_ends_with_the_same_weights(shapes, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = _network()
        train(whole, _task(shapes), RECIPE, tmp_path / "whole", "shapes")
        checkpoint = tmp_path / "killed"
        script = CHILD.format(
            folder=str(Path(__file__).parent),
            fit=str(shapes[0]),
            val=str(shapes[1]),
            checkpoint=str(checkpoint),
        )
        child = subprocess.Popen([sys.executable, "-c", script], env=dict(os.environ))
        deadline = time.monotonic() + 60
        while not checkpoint.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        done = len(torch.load(checkpoint, weights_only=True)["losses"])
        assert 1 <= done < RECIPE.epochs
        resumed = _network()
        steps: list[events.Event] = []
        task = _task(shapes)
        with events.listening(steps.append):
            outcome = train(resumed, task, RECIPE, checkpoint, "shapes")
        assert len(outcome.losses) == RECIPE.epochs
        assert sum(event.kind == "advance" for event in steps if event.task == "shapes") == (
            1 + 3 * (RECIPE.epochs - done)
        )
        assert _same(whole, resumed)
    finally:
        torch.set_num_threads(threads)


def test_writing_checkpoints_takes_a_small_share_of_the_time(tmp_path: Path, monkeypatch) -> None:
    now, written = [0.0], []

    def slowly(path: Path, fingerprint: str, state: dict) -> None:
        written.append(state["epoch"])
        now[0] += 2

    monkeypatch.setattr(checkpoint_module, "write_checkpoint", slowly)
    keeper = checkpoint_module.Keeper(tmp_path / "checkpoint", "", clock=lambda: now[0])
    for epoch in range(100):
        now[0] += 1
        if keeper.pays:
            keeper.keep({"epoch": epoch})
    assert written[0] == 0
    assert len(written) == 3  # an epoch takes a second, writing two: every forty are enough
    assert 2 * len(written) <= checkpoint_module.WRITING_SHARE * now[0] + 2


def test_a_damaged_or_foreign_checkpoint_is_not_gone_on_from(shapes, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    recipe = replace(RECIPE, epochs=1)
    first = _network()
    train(first, _task(shapes), recipe, checkpoint, "shapes", identity="first")
    content = checkpoint.read_bytes()
    told: list[events.Event] = []
    for wrong in (content[: len(content) // 2], b"", content):
        checkpoint.write_bytes(wrong)
        again = _network()
        with events.listening(told.append):
            train(again, _task(shapes), recipe, checkpoint, "shapes", identity="second")
        assert _same(first, again)
        assert any(event.kind == "advance" and event.done > 0 for event in told)
        told.clear()


def test_a_loss_that_is_not_finite_is_an_error_with_a_hint(shapes, tmp_path: Path) -> None:
    recipe = replace(RECIPE, rate=1e30, optimizer="sgd", warmup=0.0)
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(UsageError, match=r"loss is (nan|inf)") as caught:
        train(_network(), _task(shapes), recipe, checkpoint, "shapes")
    assert "learning rate" in caught.value.hint
    assert not checkpoint.exists()


def test_a_gpu_that_is_full_is_an_error_with_a_hint(shapes, tmp_path: Path, monkeypatch) -> None:
    def full(self, inputs: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    network = _network()
    monkeypatch.setattr(type(network), "forward", full)
    with pytest.raises(UsageError, match="too little memory") as caught:
        train(network, _task(shapes), RECIPE, tmp_path / "checkpoint", "shapes")
    assert "batch" in caught.value.hint


def test_a_teacher_is_followed(shapes, tmp_path: Path) -> None:
    # A teacher that calls everything class 1, and a loss that listens to nobody else.
    def stubborn(images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1:] == (3, 48, 48)
        return torch.tensor([[0.0, 8.0]]).repeat(len(images), 1)

    task = replace(_task(shapes), teacher=Teacher(stubborn, 48))
    recipe = replace(RECIPE, distil=1.0, epochs=6)
    network = _network()
    train(network, task, recipe, tmp_path / "checkpoint", "shapes")
    with torch.no_grad():
        answers = network(_batch(task, torch.arange(48))[0]).argmax(1)
    assert answers.float().mean() > 0.9


def test_boxes_are_learnt(shapes, tmp_path: Path) -> None:
    task = _task(shapes)
    boxes = torch.tensor([[0.25, 0.25, 0.75, 0.75]]).repeat(len(task.cache), 1)
    inputs = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    spec = NetworkSpec("foreground_predictor", 0.5, 0.5, 32, 4)
    # Hardly any cropping: the wanted box is the same for all photos.
    boxer = BoxTask(
        cache=task.cache,
        boxes=boxes,
        resolution=32,
        preprocess=IMAGENET_PIXELS,
        augment=Augment((0.999, 1.0), ratio=1.0),
        kind="giou",
        held=Held(inputs, boxes[:4]),
    )
    recipe = replace(RECIPE, epochs=12, rate=0.005)
    outcome = train(spec.build(), boxer, recipe, tmp_path / "checkpoint", "boxes")
    assert outcome.losses[-1] < 0.2


@given(st.integers(1, 200), st.floats(0, 10), st.floats(0, 1))
def test_the_rate_warms_up_and_falls_to_zero(epochs: int, warmup: float, share: float) -> None:
    recipe = Recipe(epochs=epochs, rate=0.1, warmup=warmup)
    assert 0 <= learning_rate(recipe, share * epochs) <= 0.1 + 1e-12
    assert learning_rate(recipe, epochs) == pytest.approx(0, abs=1e-9)
    assert learning_rate(recipe, min(warmup, epochs / 2)) == pytest.approx(0.1)


def test_an_average_of_the_weights_is_kept_and_gone_on_from(shapes, tmp_path: Path) -> None:
    recipe = replace(RECIPE, ema=0.9)
    plain, whole, stopped = _network(), _network(), _network()
    train(plain, _task(shapes), RECIPE, tmp_path / "plain", "shapes")
    outcome = train(whole, _task(shapes), recipe, tmp_path / "whole", "shapes")
    assert not _same(plain, whole)
    assert outcome.measures[-1] == _task(shapes).measure(whole.eval())

    def stop(event: events.Event) -> None:
        if "epoch 3" in event.text:
            raise KeyboardInterrupt

    with events.listening(stop), pytest.raises(KeyboardInterrupt):
        train(stopped, _task(shapes), recipe, tmp_path / "stopped", "shapes")
    resumed = _network()
    train(resumed, _task(shapes), recipe, tmp_path / "stopped", "shapes")
    assert _same(resumed, whole)


def test_mixed_photos_have_mixed_classes(shapes) -> None:
    plain = _task(shapes)
    task = replace(plain, augment=replace(plain.augment, mixup=0.4))
    indices = torch.arange(12)
    inputs, (targets, others, _) = _batch(task, indices, 5)
    alone, (same, none, _) = _batch(plain, indices, 5)
    assert torch.equal(targets, same) and none is None
    second, share = others
    assert 0 <= share <= 1
    # The views are those without mixing: each input is a share of its own and one of another's.
    rest = (inputs - share * alone) / (1 - share)
    for photo in range(12):
        found = [k for k in range(12) if torch.allclose(rest[photo], alone[k], atol=1e-3)]
        assert any(targets[k] == second[photo] for k in found)
    logits = torch.randn(12, 2)
    separate = [plain.loss(logits, (kind, None, None), RECIPE) for kind in (targets, second)]
    together = task.loss(logits, (targets, others, None), RECIPE)
    assert together == pytest.approx(share * separate[0] + (1 - share) * separate[1])


def test_mixing_does_not_stop_it_from_learning(shapes, tmp_path: Path) -> None:
    plain = _task(shapes)
    task = replace(plain, augment=replace(plain.augment, mixup=0.2))
    recipe = replace(RECIPE, epochs=8, rate=0.02, ema=0.9)
    outcome = train(_network(), task, recipe, tmp_path / "checkpoint", "shapes")
    assert outcome.measures[-1] >= 0.9


def test_looks_change_before_a_step_sees_them_and_belong_to_their_photos(shapes) -> None:
    plain = _task(shapes)
    task = replace(plain, augment=replace(plain.augment, jitter=0.4, erase=0.5))
    indices = torch.arange(12)

    def drawn(task, part: slice = ALL):
        return task.draw(indices, torch.Generator().manual_seed(5), 1.0, part)().views

    whole = drawn(task)
    assert (whole != drawn(plain)).flatten(1).any(1).all()
    assert torch.equal(whole, drawn(task))
    # A process that has part of the photos sees them as a single one would.
    assert torch.equal(whole[5:9], drawn(task, slice(5, 9)))


def test_looks_do_not_stop_it_from_learning(shapes, tmp_path: Path) -> None:
    plain = _task(shapes)
    task = replace(plain, augment=replace(plain.augment, jitter=0.3, erase=0.25))
    recipe = replace(RECIPE, epochs=8, rate=0.02)
    outcome = train(_network(), task, recipe, tmp_path / "checkpoint", "shapes")
    assert outcome.measures[-1] >= 0.9


def test_the_side_grows_to_the_whole(shapes) -> None:
    recipe = replace(RECIPE, epochs=10, progressive=0.5)
    shares = [side_share(recipe, epoch) for epoch in range(10)]
    assert shares[0] == 0.5 and shares == sorted(shares)
    assert shares[7:] == [1.0, 1.0, 1.0] and shares[6] < 1
    assert {side_share(RECIPE, epoch) for epoch in range(4)} == {1.0}
    task = replace(_task(shapes), resolution=64)
    sides = [_batch(task, torch.arange(4), share=s)[0].shape[-1] for s in (0.3, 0.6, 1)]
    assert sides == [32, 40, 64]


@given(st.integers(1, 200), st.floats(0.1, 1.0))
def test_a_training_ends_with_the_whole_side(epochs: int, first: float) -> None:
    recipe = replace(RECIPE, epochs=epochs, progressive=first)
    shares = [side_share(recipe, epoch) for epoch in range(epochs)]
    assert shares == sorted(shares)
    assert sum(share == 1 for share in shares) >= max(1, 0.3 * epochs - 1e-6)
    assert epochs == 1 or shares[0] == pytest.approx(first)


def test_short_trainings_see_the_whole_side() -> None:
    """A trial of an epoch or two at half of the side would say what that side costs."""
    table = TrainTable(progressive=0.5)
    seen = {epochs: table.recipe(epochs, seed=0).progressive for epochs in (1, 2, 3, 4, 60)}
    assert seen == {1: 1, 2: 1, 3: 1, 4: 0.5, 60: 0.5}


def test_what_does_nothing_does_not_change_what_is_known() -> None:
    """Trainings of before a field came are gone on from."""
    assert "ema" not in RECIPE.to_json()
    assert replace(RECIPE, ema=0.9).to_json()["ema"] == 0.9
    assert Recipe(**RECIPE.to_json()) == RECIPE
