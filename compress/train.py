"""One training loop for all networks: base, predictor, trials, members, fine-tuning on crops.

What is learnt is a `Task`; how is a `Recipe`. An epoch's random numbers depend only on seed and
epoch, and a checkpoint is written after every epoch: a run that was killed goes on from the last
whole epoch and ends with the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgecompress import events
from edgecompress.errors import UsageError
from edgecompress.files import sha256_json, writing

FULL_SIDE_FROM = 0.7
"""From this share of the epochs on, progressive resizing has reached the whole side."""


_NEWER: dict[str, Any] = {"ema": 0.0}
"""Fields that came later, with the values at which they do nothing."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the photos.
        batch: photos a step.
        rate: largest learning rate: after a linear warm-up it falls to 0 along a cosine.
        optimizer: `sgd` (momentum 0.9, Nesterov) or `adamw`.
        decay: weight decay, on matrices and kernels only.
        warmup: epochs of warm-up; may be a fraction.
        smoothing: label smoothing.
        distil: weight of the teacher's answer in the loss; 0 is no teacher.
        distil_temperature: softens both answers (Hinton et al. 2015).
        progressive: share of the input side that the first epoch sees; it grows epoch by epoch
            to the whole side, which the last 30 % of the epochs have (progressive resizing,
            Howard 2018; Tan and Le 2021). 1 is the whole side from the beginning.
        ema: decay of the moving average of weights and BatchNorm statistics that is measured and
            kept in place of the last ones; 0 is none.
        seed: of everything that is random.
    """

    epochs: int
    batch: int = 64
    rate: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    decay: float = 5e-4
    warmup: float = 1.0
    smoothing: float = 0.1
    distil: float = 0.0
    distil_temperature: float = 2.0
    progressive: float = 1.0
    ema: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """All fields; newer ones only where they do something, so that what was trained before they
        came is known again."""
        fields = asdict(self)
        return {k: v for k, v in fields.items() if k not in _NEWER or v != _NEWER[k]}

    seed: int = 0


class Task(Protocol):
    """What a network learns: batches, a loss, and a measure on photos held out."""

    @property
    def size(self) -> int:
        """How many photos an epoch has."""
        ...

    def batch(
        self, indices: Tensor, generator: Generator, share: float = 1.0
    ) -> tuple[Tensor, Any]:
        """Network inputs for some photos, and what the loss needs beside the outputs.

        Args:
            share: of the input side; a task whose networks take one side only ignores it.
        """
        ...

    def loss(self, outputs: Tensor, wanted: Any, recipe: Recipe) -> Tensor:
        """A scalar."""
        ...

    def measure(self, network: nn.Module) -> float:
        """Larger is better (accuracy, mean IoU); the network is in evaluation mode."""
        ...


@dataclass(frozen=True)
class Training:
    """What came out.

    Attributes:
        losses: mean training loss of each epoch.
        measures: `Task.measure` after each epoch.
        seconds: time spent, of all runs together.
    """

    losses: tuple[float, ...]
    measures: tuple[float, ...]
    seconds: float


def train(
    network: nn.Module,
    task: Task,
    recipe: Recipe,
    checkpoint: Path,
    label: str,
    *,
    identity: Any = None,
) -> Training:
    """Train in place; the network ends in evaluation mode.

    Args:
        checkpoint: written after every epoch. One of the same recipe and identity is gone on
            from; another is overwritten.
        label: for progress events.
        identity: JSON-able; what else decides the result (network, photos).

    Raises:
        UsageError: the loss is not finite.
    """
    fingerprint = sha256_json([recipe.to_json(), identity, label])
    # A step of ResNet-18 takes 0.7 of the time on a CPU with channels innermost.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(network, recipe)
    average = _average(network, recipe)
    state = _resume(checkpoint, fingerprint)
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
    losses: list[float] = list(state["losses"]) if state else []
    measures: list[float] = list(state["measures"]) if state else []
    spent: float = state["seconds"] if state else 0.0
    steps = math.ceil(task.size / recipe.batch)
    with events.task(label, recipe.epochs * steps) as shown:
        shown.update(len(losses) * steps)
        for epoch in range(len(losses), recipe.epochs):
            start = time.monotonic()
            losses.append(
                _epoch(network, task, recipe, optimizer, average, epoch=epoch, shown=shown)
            )
            judged = network if average is None else average.module
            judged.eval()
            with torch.inference_mode():
                measures.append(task.measure(judged))
            spent += time.monotonic() - start
            with writing(checkpoint) as temporary:
                torch.save(
                    {
                        "fingerprint": fingerprint,
                        "network": network.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "losses": losses,
                        "measures": measures,
                        "seconds": spent,
                        "average": None if average is None else average.state_dict(),
                    },
                    temporary,
                )
    if average is not None:
        network.load_state_dict(average.module.state_dict())
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.eval()
    return Training(tuple(losses), tuple(measures), spent)


def _epoch(
    network: nn.Module,
    task: Task,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    *,
    epoch: int,
    shown: events.Task,
) -> float:
    network.train()
    steps = math.ceil(task.size / recipe.batch)
    share = side_share(recipe, epoch)
    total = 0.0
    start = time.monotonic()
    # Dropout draws from the global generator: it is seeded here and put back afterwards.
    with torch.random.fork_rng(devices=[]):
        seed = recipe.seed * 100_003 + epoch
        torch.manual_seed(seed)
        generator = Generator().manual_seed(seed)
        for step, indices in enumerate(_batches(task.size, recipe.batch, generator)):
            rate = learning_rate(recipe, epoch + step / steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            inputs, wanted = task.batch(indices, generator, share)
            loss = task.loss(network(inputs), wanted, recipe)
            value = loss.item()
            if not math.isfinite(value):
                raise UsageError(
                    f"{shown.label}: the loss is {value} in epoch {epoch + 1}",
                    f"lower the learning rate (it was {recipe.rate:g}) and run again",
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if average is not None:
                average.update_parameters(network)
            total += value * len(indices)
            pace = (time.monotonic() - start) / (step + 1)
            left = pace * (recipe.epochs * steps - epoch * steps - step - 1)
            text = f"epoch {epoch + 1}/{recipe.epochs}, loss {value:.3f}, {_clock(left)} left"
            shown.advance(1, text)
    return total / task.size


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _batches(size: int, batch: int, generator: Generator) -> Iterator[Tensor]:
    """A random order in batches. A last batch of one photo joins the one before: BatchNorm needs
    two."""
    order = torch.randperm(size, generator=generator)
    parts = list(order.split(batch))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    yield from parts


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The rate at a fractional epoch: linear warm-up, then half a cosine to 0."""
    warmup = min(recipe.warmup, recipe.epochs / 2)
    if epoch < warmup:
        return recipe.rate * (epoch + 0.01) / (warmup + 0.01)
    share = (epoch - warmup) / max(recipe.epochs - warmup, 1e-9)
    return recipe.rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def side_share(recipe: Recipe, epoch: int) -> float:
    """The share of the input side that an epoch sees."""
    grown = min(epoch / max(FULL_SIDE_FROM * recipe.epochs, 1e-9), 1.0)
    return recipe.progressive + (1 - recipe.progressive) * grown


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    weights = list(network.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": recipe.decay},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.rate)
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9, nesterov=True)


def _average(network: nn.Module, recipe: Recipe) -> AveragedModel | None:
    if not recipe.ema:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)


def _resume(checkpoint: Path, fingerprint: str) -> dict[str, Any] | None:
    """The checkpoint's content, or None where there is none that fits."""
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:  # a damaged archive raises nearly anything; training anew is always right
        events.warn(f"{checkpoint.name} is damaged: training starts anew")
        return None
    return state if state.get("fingerprint") == fingerprint else None
